"""`ungroup-branches`: the way back from `merge-branches`: one network of grouped convolutions as branches again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nasir.analysis.sharing import refuse_sharing
from nasir.branching import head_of, numbered
from nasir.branching.merged import joint_nodes, splits_of
from nasir.branching.merging import branch_paths, is_dense, part_attrs, part_source
from nasir.errors import Decline
from nasir.ir import Draft, Graph, Port
from nasir.options.ranges import Whole
from nasir.registry import register
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import WHOLE, Pass
from nasir.transfer import AxisTake, Key, Take


@register("ungroup-branches")
@dataclass(frozen=True)
class UngroupBranches(Pass):
    """Take a network made by merge-branches apart into branches; the function stays.

    branches   number of branches of a network whose classifiers were joined; else it is seen from the network
    train      how branches whose classifiers were joined train again: separate or joint
    """

    branches: Whole = 0
    train: Literal["separate", "joint"] = "separate"

    moves = True

    def __post_init__(self) -> None:
        if self.branches == 1:
            raise ValueError(f"branches must be 2 or more, or 0 to see it from the network, not {self.branches}")

    def sites(self, graph: Graph) -> Iterable[str]:
        """The network; one that merge-branches did not make is declined."""
        return [WHOLE]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        """Copy each joint node for every branch with its share of the weights."""
        graph = draft.base
        assert graph is not None
        splits, paths = splits_of(graph), branch_paths(graph)
        head = None if splits else head_of(graph)
        if splits and paths is not None:
            branches, ends = len(paths), [graph.nodes[n].inputs[0] for n in splits]
        elif self.branches and head is not None and is_dense(graph, head):
            branches, ends = self.branches, [graph.nodes[head].inputs[0]]
            paths = tuple([numbered(branch) for branch in range(branches)])
        else:
            raise Decline("the network holds no merged branches; where their classifiers were joined, give `branches`")
        nodes, repeats = joint_nodes(graph, ends, branches)
        gone = {*nodes, *repeats, *splits}
        refuse_sharing(graph, gone if head is None else {*gone, head}, "each branch gets its part of every weight")
        allowed = {*gone, *[user for node_id in splits for user in graph.users(node_id)], head}
        readers = {user for node_id in gone for user in graph.users(node_id)} - allowed
        if readers:
            label = graph.nodes[min(readers)].label
            raise Decline(f"'{label}' reads the branches as one value; they cannot be taken apart")
        _check_regions(graph, {*nodes, *repeats}, repeats)
        made = [_branch(draft, graph, nodes, repeats, branch, paths) for branch in range(branches)]
        for node_id in splits:
            source = graph.nodes[node_id].inputs[0]
            for branch, ports in enumerate(made):
                draft.rewire(Port(node_id, branch), ports[source])
        if head is not None:
            self._part_head(draft, graph, head, made)
            gone.add(head)
        for path in [p for p, r in graph.regions.items() if r.kind != "branch" and gone.issuperset(graph.members(p))]:
            del draft.regions[path]
        draft.remove(sorted(gone))
        draft.drop_empty_regions()
        draft.claim("exact")

    def _part_head(self, draft: Draft, graph: Graph, head: int, made: list[dict[Port, Port]]) -> None:
        """A classifier for each branch, the mean of whose logits is what the joined one gave."""
        node = graph.nodes[head]
        count, size = len(made), graph.infer.types[node.inputs[0]].shape[0] // len(made)
        logits = []
        for branch, ports in enumerate(made):
            fc = draft.add(node.op, ports[node.inputs[0]], numbered(branch, node.label), **node.attrs)
            chunk = AxisTake(np.arange(branch * size, (branch + 1) * size), np.full(size, float(count)))
            for name, slot in graph.infer.slots[head].items():
                axes = tuple([chunk if axis.role == "read" else None for axis in slot.axes])
                draft.source(fc.node, name, Take(Key(head, name), axes))
            if graph.is_frozen(head):
                draft.freeze(draft.nodes[fc.node].label)
            logits.append(fc)
        label = "ensemble" if "ensemble" not in graph.labels else draft.free_label("ensemble")
        out = draft.add("ensemble", logits, label, average="logits", train=self.train)
        draft.rewire(Port(head), out, only=graph.users(head))
        draft.outputs = [out if port == Port(head) else port for port in draft.outputs]


def _check_regions(graph: Graph, inside: set[int], repeats: set[int]) -> None:
    """Decline where the part of a stage that is taken apart has several entries, as in networks never merged."""
    for path, region in graph.regions.items():
        part = inside.intersection(graph.members(path))
        if not part or region.kind != "stage":
            continue
        read = {port for node_id in part for port in graph.nodes[node_id].inputs if port.node not in part}
        read |= {port for node_id in repeats - part for port in graph.nodes[node_id].inputs if Port(node_id) in read}
        entries = {port for port in read if port.node not in repeats}
        if len(entries) != 1:
            labels = ", ".join(sorted(f"'{graph.nodes[port.node].label}'" for port in entries))
            raise Decline(f"stage '{path}' would be taken apart in its midst, at {labels}; it was never merged")


def _branch(
    draft: Draft, graph: Graph, nodes: list[int], repeats: set[int], branch: int, paths: tuple[str, ...]
) -> dict[Port, Port]:
    """A branch's copies of the joint nodes; returns its ports by those of the joint nodes."""
    ports = {Port(node_id): graph.nodes[node_id].inputs[0] for node_id in repeats}
    for node_id in nodes:
        node = graph.nodes[node_id]
        inputs = [ports.get(port, port) for port in node.inputs]
        made = draft.add(node.op, inputs, f"{paths[branch]}.{node.label}", **part_attrs(node, len(paths)))
        ports[Port(node_id)] = made
        if graph.is_frozen(node_id) and graph.infer.slots[node_id]:
            draft.freeze(draft.nodes[made.node].label)
        for name, slot in graph.infer.slots[node_id].items():
            draft.source(made.node, name, part_source(slot, Key(node_id, name), branch, len(paths)))
    inside = {*nodes, *repeats}
    for path, region in graph.regions.items():
        # of a stage that begins before the branches, each branch has the rest
        whole = inside.issuperset(graph.members(path)) or region.kind == "stage"
        if region.kind != "branch" and whole and not inside.isdisjoint(graph.members(path)):
            parts = [f"{paths[branch]}.{part}" for part in region.parts]
            draft.region(f"{paths[branch]}.{path}", region.kind, region.template, parts)
    if paths[branch] not in draft.regions:
        draft.region(paths[branch], "branch")
    return ports
