"""`merge-branches`: branches of one structure as a single network of grouped convolutions; the function stays.

Many small convolutions one after another leave a device idle; one grouped convolution does their work at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from nasir.analysis.sharing import refuse_sharing
from nasir.branching.merging import (
    branch_paths,
    counterparts,
    is_dense,
    joint,
    joint_attrs,
    joint_source,
    over_outputs,
)
from nasir.errors import Decline
from nasir.ir import Draft, Graph, Port
from nasir.registry import register
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import WHOLE, Pass
from nasir.transfer import AxisTake, Key, Source, Stack, Sum, Take


@register("merge-branches")
@dataclass(frozen=True)
class MergeBranches(Pass):
    """Run the branches of an ensemble as one network: first convolutions joined over their outputs, later ones grouped.

    join_heads   where logits are averaged, the classifiers become one on all features, weights divided by the number
                 of branches; from then on the average is trained, not each branch. Other classifiers stay apart
    """

    join_heads: bool = True

    shrinks = True

    def sites(self, graph: Graph) -> Iterable[str]:
        """The network; one without an ensemble of branches is declined."""
        return [WHOLE]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        """Build the joint nodes, split what they put out where branches go on alone, and delete the branches' nodes."""
        graph = draft.base
        assert graph is not None
        paths = branch_paths(graph)
        if paths is None:
            raise Decline("the network does not put out an ensemble of branches")
        twins = counterparts(graph, paths)
        if isinstance(twins, str):
            raise Decline(f"the branches differ: {twins}")
        nodes = [node_id for first, others in twins.items() for node_id in (first, *others)]
        refuse_sharing(graph, nodes, "branches are joined weight by weight")
        work = _Merge(draft, graph, paths, twins)
        for node_id in graph.order:
            if node_id in twins:
                work.visit(node_id)
        if not work.gone:
            raise Decline("the branches begin with nodes that cannot be run as one")
        if not (self.join_heads and work.join_heads()):
            work.part()
        draft.remove(sorted(work.gone))
        work.regions()
        draft.drop_empty_regions()
        draft.claim("exact")


@dataclass
class _Merge:
    """The work on one network. Ports are those of the first branch; `joint` and `shared` map them to new ones."""

    draft: Draft
    graph: Graph
    paths: Sequence[str]
    twins: dict[int, tuple[int, ...]]
    joint: dict[Port, Port] = field(default_factory=dict)  # all branches' channels one after another
    shared: dict[Port, Port] = field(default_factory=dict)  # the same for all branches
    repeats: dict[tuple[Port, str], Port] = field(default_factory=dict)  # a shared value once for each branch
    gone: set[int] = field(default_factory=set)
    merged: set[int] = field(default_factory=set)  # of the first branch

    @cached_property
    def apart(self) -> set[int]:
        """Nodes that each branch keeps: those that cannot be joint, and the blocks they lie in, which stay whole."""
        graph = self.graph
        nodes = {node_id for node_id in self.twins if not joint(graph, node_id) or self._tokens(node_id)}
        blocks = {path for n in nodes for path in graph.owners[n] if graph.regions[path].kind == "block"}
        return nodes.union(*[graph.members(path) for path in blocks])

    def _tokens(self, node_id: int) -> bool:
        """Whether a node reads tokens, whose channels are the last axis: flattened, those of a branch lie apart."""
        return any(len(self.graph.infer.types[port].shape) == 2 for port in self.graph.nodes[node_id].inputs)

    def visit(self, node_id: int) -> None:
        """Add the joint node of a node of the first branch, if there can be one."""
        graph, node = self.graph, self.graph.nodes[node_id]
        inputs = [self._shared(port) or self.joint.get(port) for port in node.inputs]
        if node_id in self.apart or any(port is None for port in inputs):
            return
        common = [self._shared(port) is not None for port in node.inputs]
        label = self._label(node.label)
        slots = graph.infer.slots[node_id]
        all_common = all(common)
        if all_common and not slots and not node.facts.random:
            made = self.draft.add(node.op, [p for p in inputs if p is not None], label, **node.attrs)
            self.shared[Port(node_id)] = made
        else:
            shared = all_common and over_outputs(node)
            ready = [
                port if shared or not same else self._repeated(port, label)
                for port, same in zip(inputs, common, strict=True)
                if port is not None
            ]
            attrs = joint_attrs(node, len(self.paths), shared)
            made = self.draft.add(node.op, ready, label, **attrs)
            self.joint[Port(node_id)] = made
            for name, slot in slots.items():
                self.draft.source(made.node, name, joint_source(slot, name, self.twins[node_id]))
        self._freeze(made, self.twins[node_id])
        self.merged.add(node_id)
        self.gone.update(self.twins[node_id])

    def _freeze(self, made: Port, nodes: Sequence[int]) -> None:
        """A joint node is frozen where those it stands for are."""
        frozen = {self.graph.is_frozen(node_id) for node_id in nodes if self.graph.infer.slots[node_id]}
        if len(frozen) > 1:
            raise Decline(f"'{self.graph.nodes[nodes[0]].label}' is frozen in some branches only; freeze all or none")
        if True in frozen:
            self.draft.freeze(self.draft.nodes[made.node].label)

    def _shared(self, port: Port) -> Port | None:
        """A port that all branches read, or its new stand-in."""
        return port if port.node not in self.twins else self.shared.get(port)

    def _repeated(self, port: Port, label: str) -> Port:
        place = label.rpartition(".")[0]  # one for each block: it lies in the block that reads it
        if (port, place) not in self.repeats:
            free = self._free(f"{label}_repeat")
            self.repeats[port, place] = self.draft.add("concat", [port] * len(self.paths), free)
        return self.repeats[port, place]

    def _label(self, label: str) -> str:
        return self._free(label[len(self.paths[0]) + 1 :])

    def _free(self, label: str) -> str:
        used = {node.label for node in self.draft.nodes.values()}
        return label if label not in used else self.draft.free_label(label)

    def join_heads(self) -> bool:
        """One classifier instead of the mean of the branches' logits; False where there is not just that to join."""
        graph, draft = self.graph, self.draft
        end = graph.outputs[0].node
        heads = [port.node for port in graph.nodes[end].inputs]
        first = graph.nodes[heads[0]]
        slots = graph.infer.slots[heads[0]]
        features = self.joint.get(first.inputs[0]) if is_dense(graph, heads[0]) else None
        if graph.nodes[end].attrs["average"] != "logits" or features is None or len(self.twins) != len(self.merged) + 1:
            return False
        count = len(heads)
        size = graph.infer.types[first.inputs[0]].shape[0]
        fc = draft.add(first.op, features, self._label(first.label), **first.attrs)
        share = AxisTake(np.arange(size), np.full(size, 1.0 / count))
        for name, slot in slots.items():
            if slot.is_kernel:
                axes = tuple([share if axis.role == "read" else None for axis in slot.axes])
                source: Source = Stack(slot.axis("read"), tuple([Take(Key(h, name), axes) for h in heads]))
            else:
                source = Sum(tuple([Take(Key(h, name), (None,) * len(slot.axes)) for h in heads]), 1.0 / count)
            draft.source(fc.node, name, source)
        self._freeze(fc, heads)
        self.gone.update((*heads, end))
        draft.outputs = [fc]
        return True

    def part(self) -> None:
        """Let what stays of each branch, and the ensemble, read its part of the joint values."""
        parts: dict[Port, Port] = {}
        ends = [node_id for first, nodes in self.twins.items() if first not in self.merged for node_id in nodes]
        own = {port: (original, n) for original in (*self.joint, *self.shared) for n, port in self._ports(original)}
        for node_id in (*ends, self.graph.outputs[0].node):
            inputs = [self._part(port, own, parts) for port in self.graph.nodes[node_id].inputs]
            self.draft.rewire_node(node_id, inputs)

    def _ports(self, port: Port) -> list[tuple[int, Port]]:
        return [(n, Port(node_id, port.output)) for n, node_id in enumerate(self.twins[port.node])]

    def _part(self, port: Port, own: dict[Port, tuple[Port, int]], parts: dict[Port, Port]) -> Port:
        if port not in own:
            return port
        original, branch = own[port]
        if original in self.shared:
            return self.shared[original]
        if original not in parts:
            size = self.graph.infer.types[original].shape[0]
            sizes = [size] * len(self.paths)
            parts[original] = self.draft.add("split", self.joint[original], self._free("branch_split"), sizes=sizes)
        return Port(parts[original].node, branch)

    def regions(self) -> None:
        """Stages and blocks of the joint nodes; those of the branches that lost a node go."""
        draft, graph, prefix = self.draft, self.graph, self.paths[0] + "."
        for path, region in graph.regions.items():
            if region.kind == "branch" or self.gone.isdisjoint(graph.members(path)):
                continue
            new = path.removeprefix(prefix)
            if path.startswith(prefix) and self.merged.issuperset(graph.members(path)) and new not in draft.regions:
                # without a template: the branch's would build a block without groups
                draft.region(new, region.kind, None, [part.removeprefix(prefix) for part in region.parts])
            del draft.regions[path]
