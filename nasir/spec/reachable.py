"""Constraints on cost that no trial of a search can keep, as far as that is certain before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nasir.files import canonical_json
from nasir.ir import Graph
from nasir.spec.amounts import COUNTED
from nasir.spec.check import Findings, pass_of
from nasir.spec.model import Spec
from nasir.spec.model_search import Search
from nasir.spec.tree import Tree

NETWORK = ("input", "network", "blocks")
"""The keys of a spec that its start network follows from."""


@dataclass(frozen=True, slots=True)
class StartNetwork:
    """What a trial begins with: nodes, cost by metric, what it was built from, and how its rules may change it."""

    nodes: int
    cost: dict[str, int]
    source: bytes
    changes: bool
    shrinks: bool

    @classmethod
    def of(cls, spec: Spec, tree: Tree, graph: Graph) -> StartNetwork:
        """The start network `graph` of a spec, `tree`."""
        cost = graph.cost()
        parts = {key: below.plain() for key in NETWORK if (below := tree.child(key)) is not None}
        rules = [rule for phase in spec.phases for rule in phase.rules]
        made = [pass_of(rule) for rule in rules]
        shrinks = bool(spec.plugins) or any(change is None or change.shrinks for change in made)
        counted = {metric: getattr(cost, metric) for metric in COUNTED}
        return cls(len(graph.nodes), counted, canonical_json(parts), bool(spec.plugins or rules), shrinks)


def check_reachable(search: Search, starts: Sequence[StartNetwork], findings: Findings) -> None:
    """Add each constraint on parameters or MACs that no trial can keep; `starts`: all that a trial may begin with."""
    for index, constraint in enumerate(search.constraints):
        if constraint.metric not in COUNTED:
            continue
        at, costs = ("search", "constraints", index), [start.cost[constraint.metric] for start in starts]
        if constraint.upper and constraint.violation(min(costs)) > 0 and not any(start.shrinks for start in starts):
            text = f"no trial can keep it: the smallest network has {_counted(min(costs), constraint.metric)}"
            text += ", and no rule makes it smaller" if any(start.changes for start in starts) else ""
            findings.add(at, text, "raise the bound, or make the network smaller")
        elif not constraint.upper and constraint.violation(max(costs)) > 0 and not any(s.changes for s in starts):
            text = f"no trial can keep it: the largest network has {_counted(max(costs), constraint.metric)}"
            findings.add(at, text, "lower the bound, or make the network larger")


def _counted(number: int, metric: str) -> str:
    return f"{number:,} {'MACs' if metric == 'macs' else 'parameters'}"


def all_starts(base: StartNetwork, others: Iterable[tuple[str, bool, StartNetwork]]) -> Sequence[StartNetwork] | None:
    """All networks that a trial may begin with, None where they are not known.

    `others`: for each spec that differs from the base in one choice the name of this choice, whether all its
    alternatives are here, and the network. Two choices of the network may go together in ways that were not looked at.
    """
    others = tuple(others)
    deciding = {(name, whole) for name, whole, start in others if start.source != base.source}
    if len(deciding) > 1 or any(not whole for _, whole in deciding):
        return None
    return (base, *(start for *_, start in others))
