"""`split-branches`: all that follows a place becomes several narrow branches whose predictions are averaged.

RRR-Net (reuse, reduce, recycle): the branches together cost what they replace, start from pretrained kernels and are
trained independently on a shared, frozen stem.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from annotated_types import Ge

from nasir.analysis.sharing import refuse_sharing
from nasir.blocks import starts
from nasir.branching import (
    Group,
    calibrated,
    copy_nodes,
    copy_regions,
    downstream,
    groups_of,
    head_of,
    numbered,
    params_of,
    separated,
    sizes_of,
)
from nasir.errors import Decline
from nasir.ir import Atom, Draft, Graph, Index, Region, positions
from nasir.ir.regions import covers
from nasir.ir.types import Slot
from nasir.options import Remedy
from nasir.options.ranges import Count
from nasir.registry import register
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import Pass
from nasir.transfer import AxisTake, Key, Source, Stack, Take

How = Literal["rrr", "aligned", "random"]
Planes: TypeAlias = Annotated[int, Ge(1), Remedy("give one a stage, whole numbers of at least 1")]


@register("split-branches")
@dataclass(frozen=True)
class SplitBranches(Pass):
    """Turn a stage or block and all that follows it into branches below `branches.0`, `branches.1`, ...

    branches     number of branches, at least 1
    how          where their weights come from. rrr: filters of the old layers dealt in consecutive chunks, inputs
                 always the first ones (RRR-Net's code); aligned: one channel set on both sides of each layer, disjoint
                 between branches where the widths allow; random: fresh
    planes       calibrated: floor(p / sqrt(branches)) - s for each stage, with the smallest s >= 0 at which all
                 branches have no more parameters than what they replace; keep: as they are; or a list, one a stage
    multiple_of  calibrated planes are rounded down to multiples of it
    average      what is averaged: probabilities or logits
    train        separate: each branch by its own cross-entropy; joint: the averaged prediction
    reset_norms  norms of the branches start anew; null: yes, except for aligned
    fresh_head   the classifiers of the branches start anew; null: yes, except for aligned
    """

    branches: Count = 8
    how: How = "rrr"
    planes: Literal["calibrated", "keep"] | tuple[Planes, ...] = "calibrated"
    multiple_of: Count = 1
    average: Literal["probabilities", "logits"] = "probabilities"
    train: Literal["separate", "joint"] = "separate"
    reset_norms: bool | None = None
    fresh_head: bool | None = None

    moves = True
    shrinks = True

    def sites(self, graph: Graph) -> Iterable[str]:
        """Every stage and every block of a network of one output that has no branches yet."""
        if len(graph.outputs) > 1 or _has_branches(graph):
            return []
        return [region.path for region in (*graph.stages, *graph.blocks)]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        """Copy the part behind the site's entry for each branch, say where its weights come from, and average."""
        graph = draft.base
        assert graph is not None
        old = downstream(graph, site)
        _check(graph, old)
        refuse_sharing(graph, old, "each branch gets weights of its own")
        _refuse_common(graph, old)
        mid, nodes = (graph, old) if self._keeps_widths() else separated(graph, old)
        groups = groups_of(mid, nodes)
        sizes = self._sizes(mid, nodes, groups, params_of(graph, old, {}))
        fresh = _fresh(mid, nodes, self._reset(self.reset_norms), self._reset(self.fresh_head))
        takes = [aligned(sizes, branch, self.branches) for branch in range(self.branches)]
        dealt = _Dealt(mid, self.branches, sizes, seen) if self.how == "rrr" else None
        self._check_difference(mid, nodes, takes, fresh)
        ends = []
        for branch, take in enumerate(takes):
            made, ports = copy_nodes(draft, mid, nodes, partial(numbered, branch), take)
            ends.append(ports[graph.outputs[0]])
            for node_id, copy in made.items():
                for name, slot in mid.infer.slots[node_id].items():
                    source: Source | None = None
                    if mid.nodes[
                        node_id
                    ].facts.foreign:  # it is not known how such weights begin, or they are constants
                        source = _along_spaces(Key(node_id, name), slot, take)
                    elif self.how != "random" and node_id in graph.nodes and node_id not in fresh:
                        key = Key(node_id, name)
                        source = _along_spaces(key, slot, take) if dealt is None else dealt.source(key, slot, branch)
                    _start(draft, mid, node_id, copy, name, source)
            draft.region(numbered(branch), "branch")
            widths = {group.name: (group.planes, _planes(group, sizes)) for group in groups if group.stage}
            _regions(draft, mid, nodes, branch, widths)
            for prefix in graph.frozen:
                if any(covers(prefix, graph.nodes[node_id].label) for node_id in old):
                    draft.freeze(numbered(branch, prefix))
        draft.remove(old)
        out = ends[0]
        if self.branches > 1:
            out = draft.add("ensemble", ends, _free(draft, "ensemble"), average=self.average, train=self.train)
        draft.outputs = [out]
        draft.drop_empty_regions()
        whole = all(atom.size == size for atom, size in sizes.items())
        same = mid is graph and whole and not fresh  # no projection in the place of a shortcut either
        draft.claim("exact" if self.branches == 1 and self.how == "aligned" and same else "no")

    def _reset(self, given: bool | None) -> bool:
        return self.how != "aligned" if given is None else given

    def _keeps_widths(self) -> bool:
        return self.planes == "keep" or (self.planes == "calibrated" and self.branches * self.multiple_of == 1)

    def _sizes(self, graph: Graph, nodes: Sequence[int], groups: Sequence[Group], budget: int) -> dict[Atom, int]:
        """New size of every space of a branch."""
        stages = [group for group in groups if group.stage]
        if self._keeps_widths():
            return {atom: atom.size for group in groups for atom in group.spaces}
        if isinstance(self.planes, str):
            planes = calibrated(graph, nodes, groups, self.branches, budget, self.multiple_of)
            if planes is None:
                raise Decline(
                    f"{self.branches} branches of 1 plane or more need more than the {budget} parameters they would "
                    "replace; take fewer branches, a place nearer to the input, or give the planes"
                )
            return sizes_of(groups, planes)
        if len(self.planes) != len(stages):
            names = ", ".join(f"'{group.name}'" for group in stages) or "none"
            raise Decline(f"{len(self.planes)} planes for {len(stages)} stages in the branches ({names})")
        given = {group.name: width for group, width in zip(stages, self.planes, strict=True)}
        for group in stages:
            if given[group.name] > group.planes:
                raise Decline(
                    f"stage '{group.name}' has {group.planes} planes, a branch cannot have {given[group.name]}"
                )
        return sizes_of(groups, [given[group.name] if group.stage else group.planes for group in groups])

    def _check_difference(
        self, graph: Graph, nodes: Sequence[int], takes: Sequence[Mapping[Atom, Index]], fresh: set[int]
    ) -> None:
        """Equal branches trained on equal data stay equal for ever."""
        if self.how != "aligned" or any(
            n in fresh and graph.infer.slots[n] and graph.nodes[n].facts.family != "norm" for n in nodes
        ):
            return
        distinct = {tuple([index.tobytes() for index in take.values()]) for take in takes}
        if len(distinct) < len(takes) and not any(graph.nodes[n].facts.random for n in nodes):
            raise Decline("some branches would start equal and stay equal; set fresh_head: true, or make them narrower")


def _has_branches(graph: Graph) -> bool:
    """Whether there are branches already; a single one ends in no ensemble."""
    ensemble = any(node.facts.family == "ensemble" for node in graph.nodes.values())
    return ensemble or any(region.kind == "branch" for region in graph.regions.values())


def _check(graph: Graph, nodes: Sequence[int]) -> None:
    if len(graph.outputs) != 1:
        raise Decline(f"the network has {len(graph.outputs)} outputs; branches need one, of logits")
    if len(graph.infer.types[graph.outputs[0]].shape) != 1:
        raise Decline("the network puts out no vector of logits to average")
    if _has_branches(graph):
        raise Decline("the network has branches already")


def _refuse_common(graph: Graph, nodes: Sequence[int]) -> None:
    """Decline where what is before the branches uses a learned weight of theirs as a value, too."""
    inside = set(nodes)
    for node_id in graph.independent - inside:
        learns = any(slot.kind == "param" for slot in graph.infer.slots[node_id].values())
        if learns and not inside.isdisjoint(graph.users(node_id)):
            raise Decline(
                f"'{graph.nodes[node_id].label}' is used before the branches and in them; each gets weights of its own"
            )


def aligned(sizes: Mapping[Atom, int], branch: int, branches: int) -> dict[Atom, Index]:
    """The units of each space that a branch takes: disjoint slices where they fit, else overlapping, wrapping ones."""
    take: dict[Atom, Index] = {}
    for atom, size in sizes.items():
        start = branch * size if branches * size <= atom.size else branch * atom.size // branches
        take[atom] = np.sort((start + np.arange(size)) % atom.size)
    return take


def _fresh(graph: Graph, nodes: Sequence[int], norms: bool, head: bool) -> set[int]:
    """Nodes whose weights start anew."""
    fresh = {n for n in nodes if norms and graph.nodes[n].facts.family == "norm"}
    last = head_of(graph)
    return fresh | ({last} if head and last is not None and last in nodes else set())


def _along_spaces(key: Key, slot: Slot, take: Mapping[Atom, Index]) -> Take:
    axes = [positions(axis.space, take) for axis in slot.axes]
    return Take(key, tuple([None if index is None else AxisTake(index) for index in axes]))


class _Dealt:
    """RRR-Net's way: output filters in consecutive chunks, input channels always the first.

    Branch i of width c takes filters i*c to (i+1)*c of the list 0..C-1. Where branches * c exceeds C the list goes on
    with random permutations of 0..C-1, drawn anew for every input channel: from there on it deals 2-d kernels, not
    filters.
    """

    def __init__(self, graph: Graph, branches: int, sizes: Mapping[Atom, int], seen: Evidence) -> None:
        self.branches = branches
        self.take: dict[Atom, Index] = {atom: np.arange(size) for atom, size in sizes.items()}
        self.rng = seen.rng("split-branches")
        self.head = head_of(graph)
        self.graph = graph
        self.lists: dict[Key, Index] = {}  # [input channels, branches * c], or [1, ...] where there is no input axis

    def source(self, key: Key, slot: Slot, branch: int) -> Source | None:
        """Where an array of a branch comes from; None for ops whose arrays are no lists of filters."""
        family = self.graph.nodes[key.node].facts.family
        if not slot.axes:
            return Take(key, ())
        roles = [axis.role for axis in slot.axes]
        if family not in ("weighted", "norm") or not {"write", "along"} & set(roles):
            return None
        listed = roles.index("write" if "write" in roles else "along")
        read = roles.index("read") if "read" in roles else None
        new = [self._size(axis.space) for axis in slot.axes]

        def taken(rows: Index | None, columns: Index) -> Take:
            axes: list[AxisTake | None] = [None] * len(new)
            axes[listed] = None if rows is None else AxisTake(rows)
            if read is not None:
                axes[read] = AxisTake(columns)
            return Take(key, tuple(axes))

        inputs = 1 if read is None else new[read]
        if key.node == self.head:  # its outputs are the classes
            return taken(None, np.arange(inputs))
        count, size = slot.shape[listed], new[listed]
        lists = self._list(key, count, size, inputs)
        chunk = lists[:, branch * size : (branch + 1) * size]
        if read is None or (branch + 1) * size <= count:
            return taken(chunk[0], np.arange(inputs))
        return Stack(read, tuple([taken(row, np.array([k])) for k, row in enumerate(chunk)]))

    def _size(self, axis: Any) -> int:
        index = positions(axis, self.take)
        return axis if isinstance(axis, int) else axis.size if index is None else len(index)

    def _list(self, key: Key, count: int, size: int, inputs: int) -> Index:
        if key not in self.lists:
            rounds = -(-self.branches * size // count) - 1
            first = np.tile(np.arange(count), (inputs, 1))
            more = [self.rng.permuted(first, axis=1) for _ in range(rounds)]
            self.lists[key] = np.concatenate([first, *more], axis=1)
        return self.lists[key]


def _start(draft: Draft, graph: Graph, node_id: int, copy: int, name: str, source: Source | None) -> None:
    """Take a weight of a branch from `source`, or start it as its region's initializer says."""
    if source is not None:
        draft.source(copy, name, source)
        return
    for path in graph.owners[node_id]:
        template = graph.regions[path].template
        if template is not None:
            rule = starts(template.get("init", "default"), graph.infer.slots[node_id]).get(name)
            if rule is not None:
                draft.fill(copy, name, rule.rule, **rule.args)
            return


def _planes(group: Group, sizes: Mapping[Atom, int]) -> int:
    """Planes of a group in a branch, from the space that shows them best: the widest."""
    widest = max(group.spaces, key=lambda atom: atom.size)
    return sizes[widest] * group.planes // widest.size


def _regions(
    draft: Draft, graph: Graph, nodes: Sequence[int], branch: int, widths: Mapping[str, tuple[int, int]]
) -> None:
    """The stages and blocks of a branch, whose templates build blocks as wide as the branch's."""

    def template(region: Region) -> Mapping[str, Any] | None:
        stage = region.path if region.kind == "stage" else graph.stage_of(region.path)
        given = region.template
        if given is None or stage not in widths or "out" not in (given.get("options") or {}):
            return given
        before, planes = widths[stage]
        out = given["options"]["out"]
        return {**given, "options": {**given["options"], "out": planes if out == before else out * planes // before}}

    copy_regions(draft, graph, nodes, lambda path: numbered(branch, path), template)


def _free(draft: Draft, label: str) -> str:
    used = {node.label for node in draft.nodes.values()}
    return label if label not in used else draft.free_label(label)
