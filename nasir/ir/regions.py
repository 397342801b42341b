"""Regions: labelled parts of a graph with one entry and one exit."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from nasir.errors import GraphError
from nasir.ir.canon import quoted
from nasir.ir.node import Node, Region, facts_of
from nasir.ir.types import Border, Port

BRANCHES = "branches"  # labels of the nodes of parallel branches begin with it and the branch's number


def depth_text(depths: Mapping[str, int]) -> str:
    """Blocks per stage in one line: "3-4-6-3", and with 8 branches of equal depth "1-1-8x(1-1)"."""
    trunk: list[str] = []
    branches: dict[str, list[str]] = {}
    for stage, depth in depths.items():
        head, number, *_ = (*stage.split(".", 2), "")
        (branches.setdefault(number, []) if head == BRANCHES else trunk).append(str(depth))
    alike: dict[str, int] = {}
    for stages in branches.values():
        text = "-".join(stages)
        alike[text] = alike.get(text, 0) + 1
    return "-".join([*trunk, *(f"{count}x({text})" for text, count in alike.items())])


def closest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(f"'{other}'" for other in close) + "?"
    return f"known: {quoted(names, 8)}" if names else "there are none"


def covers(prefix: str, label: str) -> bool:
    """Whether a label is `prefix` or lies below it: "s1.0" covers "s1.0" and "s1.0.conv1", but not "s1.01"."""
    return label == prefix or label.startswith(prefix + ".")


def relative(label: str, path: str) -> str:
    """A label as it goes on below a path; the whole of one that does not lie there, as of a part of a region."""
    return label.removeprefix(f"{path}.")


def paths_above(labels: Iterable[str]) -> set[str]:
    """Every path that one of the labels lies below: of "s1.0.conv1" those are "s1.0" and "s1"."""
    paths: set[str] = set()
    for label in labels:
        path, dot, _ = label.rpartition(".")
        while dot and path not in paths:
            paths.add(path)
            path, dot, _ = path.rpartition(".")
    return paths


def holders(regions: Mapping[str, Region]) -> Mapping[str, tuple[str, ...]]:
    """The regions that each path, label or prefix is a part of."""
    held: dict[str, list[str]] = {}
    for path, region in regions.items():
        for part in region.parts:
            held.setdefault(part, []).append(path)
    return {part: tuple(paths) for part, paths in held.items()}


def prefixes(regions: Mapping[str, Region], path: str) -> tuple[str, ...]:
    """The label prefixes that cover a region (or a label prefix) and nothing else: itself, or those of its parts."""
    region = regions.get(path)
    if region is None or not region.parts:
        return (path,)
    return tuple([prefix for part in region.parts for prefix in prefixes(regions, part)])


def owners(nodes: Mapping[int, Node], regions: Mapping[str, Region]) -> Mapping[int, tuple[str, ...]]:
    """Paths of the regions each node lies in, innermost first: those its label lies below, or is a part of."""
    held = holders(regions)
    under: dict[str, tuple[str, ...]] = {"": ()}  # regions at or above a label prefix

    def above(prefix: str) -> tuple[str, ...]:
        known = under.get(prefix)
        if known is None:
            known = above(prefix.rpartition(".")[0])
            if prefix in held:
                known = (*holding(prefix), *known)
            if prefix in regions:
                known = (prefix, *known)
            under[prefix] = known
        return known

    def holding(part: str) -> tuple[str, ...]:
        return tuple([outer for path in held.get(part, ()) for outer in (path, *holding(path))])

    if not held:
        return {node_id: above(node.label.rpartition(".")[0]) for node_id, node in nodes.items()}
    return {
        node_id: (*holding(node.label), *above(node.label.rpartition(".")[0]))
        if node.label in held
        else above(node.label.rpartition(".")[0])
        for node_id, node in nodes.items()
    }


def members(
    order: tuple[int, ...], regions: Mapping[str, Region], owners: Mapping[int, tuple[str, ...]]
) -> Mapping[str, tuple[int, ...]]:
    """Node ids of every region in topological order; `owners` as the function of that name gives them."""
    node_ids: dict[str, list[int]] = {path: [] for path in regions}
    for node_id in order:
        for path in owners[node_id]:
            node_ids[path].append(node_id)
    return {path: tuple(ids) for path, ids in node_ids.items()}


def independent(nodes: Mapping[int, Node], order: Iterable[int]) -> frozenset[int]:
    """The nodes that depend on no input of the network: weights that functions use, and what is made of them alone."""
    if all(facts.family != "weight" for facts in facts_of(nodes)):
        return frozenset()
    fixed = {node_id for node_id, node in nodes.items() if node.facts.family == "weight"}
    for node_id in order:
        inputs = nodes[node_id].inputs
        if inputs and fixed.issuperset([port.node for port in inputs]):
            fixed.add(node_id)
    return frozenset(fixed)


def parts_fault(region: Region, regions: Mapping[str, Region]) -> str | None:
    """What is wrong with the parts of a region: a block has no regions as parts, a stage has none but blocks."""
    for part in region.parts:
        inner = regions.get(part)
        if inner is not None and _RANK[inner.kind] >= _RANK[region.kind]:
            return f"region '{region.path}': the {inner.kind} '{part}' cannot be a part of a {region.kind}"
    return None


_RANK = {"block": 0, "stage": 1, "branch": 2}


def borders(
    nodes: Mapping[int, Node],
    order: tuple[int, ...],
    outputs: tuple[Port, ...],
    regions: Mapping[str, Region],
    owners: Mapping[int, tuple[str, ...]],
) -> Mapping[str, Border]:
    """(ports read from outside, own ports read from outside) of every region, in topological order.

    What depends on no input of the network, such as a mask or a table, is not counted among what a region reads.
    """
    by_path: dict[str, Border] = {path: ({}, {}) for path in regions}
    fixed = independent(nodes, order)
    for node_id in order:
        inside = owners[node_id]
        for port in nodes[node_id].inputs:
            source = owners[port.node]
            if source is inside:
                continue
            for path in inside:
                if path not in source and port.node not in fixed:
                    by_path[path][0].setdefault(port)
            for path in source:
                if path not in inside:
                    by_path[path][1].setdefault(port)
    for port in outputs:
        for path in owners[port.node]:
            by_path[path][1].setdefault(port)
    return by_path


def boundary(nodes: Mapping[int, Node], path: str, border: Border) -> tuple[Port, int]:
    """(entry, exit) of the region at `path`: the one outside port it reads, the one member others read.

    Raises GraphError when there are none or several.
    """
    entries, exits = border
    _single(nodes, path, "entry", "reads", entries)
    _single(nodes, path, "exit", "is read through", exits)
    return next(iter(entries)), next(iter(exits)).node


def _single(nodes: Mapping[int, Node], path: str, what: str, verb: str, ports: Mapping[Port, None]) -> None:
    if len(ports) == 1:
        return
    labels = quoted(nodes[port.node].label for port in ports) or "nothing"
    raise GraphError(f"region '{path}' must have one {what}, but {verb} {labels}; move those nodes in or out of it")
