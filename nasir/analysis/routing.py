"""Routes of a network: which nodes a way through it needs alone, and what the routes that samples take cost.

A *way* is one of the alternatives of a node of family "route": (the node, the number of its input). What a way needs
alone is every node through which nothing but that input can be reached; ways may lie in ways, as where a stage that
can be left early holds blocks that can be skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from nasir.ir.graph import Graph


class Way(NamedTuple):
    """An alternative: input number `input` (1 or more) of the node `route`."""

    route: int
    input: int


Home: TypeAlias = tuple[Way, ...]
"""The ways that a node lies in, outermost first; () for a node that every sample needs."""
DEEPEST = 64
"""Ways within ways that are told apart: they become functions within functions, of which Python takes some 90."""


def routes(graph: Graph) -> tuple[int, ...]:
    """The nodes that choose among ways, in topological order."""
    return tuple([node_id for node_id in graph.order if graph.nodes[node_id].facts.family == "route"])


def homes(graph: Graph) -> dict[int, Home]:
    """The ways that each node lies in, by id; nothing for a network without routes.

    A way that reads a value with several rows for each sample is computed for all samples, as if all needed it; so is
    what lies more than `DEEPEST` ways deep.
    """
    choosing = set(routes(graph))
    if not choosing:
        return {}
    always = {port.node for port in graph.outputs} | set(graph.inputs) | graph.independent
    whole: set[Way] = set()
    found = _homes(graph, choosing, always, whole)
    while crossed := _crossed(graph, found):
        whole |= crossed
        found = _homes(graph, choosing, always, whole)
    return found


def _homes(graph: Graph, choosing: set[int], always: set[int], whole: set[Way]) -> dict[int, Home]:
    found: dict[int, Home] = {}
    for node_id in reversed(graph.order):
        places: list[Home] = [()] if node_id in always else []
        for user in graph.users(node_id) if not places else ():
            home = found[user]
            for number, port in enumerate(graph.nodes[user].inputs):
                if port.node == node_id:
                    way = Way(user, number)
                    places.append((*home, way) if user in choosing and number and way not in whole else home)
        found[node_id] = _common(places)
    return found


def _common(places: list[Home]) -> Home:
    """What all of them begin with."""
    first, *others = places
    length = len(first)
    for other in others:
        length = min(length, len(other))
        while first[:length] != other[:length]:
            length -= 1
    return first[: min(length, DEEPEST)]


def _crossed(graph: Graph, found: Mapping[int, Home]) -> set[Way]:
    """The ways that read a value from outside that cannot be taken for some of the samples alone."""
    crossed: set[Way] = set()
    for node_id, home in found.items():
        for port in graph.nodes[node_id].inputs:
            if graph.infer.types[port].batch > 1:
                crossed.update(home[len(_common([home, found[port.node]])) :])
    return crossed


def macs_of_ways(graph: Graph) -> dict[Home, int]:
    """Multiply-accumulates of one sample, by the ways that it must take for them: those of () are always needed.

    A sample that takes some ways costs the sum over all of them, each with the ways around it.
    """
    found = homes(graph)
    costs: dict[Home, int] = {(): 0}
    for node_id, cost in graph.costs.items():
        home = found.get(node_id, ())
        costs[home] = costs.get(home, 0) + cost.macs
    return costs


def macs_along(graph: Graph, taken: Mapping[int, int]) -> int:
    """Multiply-accumulates of a sample for which each route takes one way: `taken` maps each route to its input."""
    return sum(
        macs for home, macs in macs_of_ways(graph).items() if all(taken.get(way.route) == way.input for way in home)
    )
