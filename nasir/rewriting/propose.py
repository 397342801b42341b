"""What a decision would make of a network: its pass, its site and its budget, before anything is adopted.

Here, below policies, runs and specs, because all it needs lies here: a decision is known by what it names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

from nasir.errors import Decline
from nasir.ir.graph import Graph
from nasir.options import construct
from nasir.registry import passes
from nasir.rewriting.evidence import Evidence, Need
from nasir.rewriting.rewrite import Pass, Rewrite

Gather: TypeAlias = Callable[[tuple[Need, ...]], Evidence]
"""The evidence that a pass gets, from what it needs; it may raise Decline."""


class CostBound(Protocol):
    """A budget."""

    def excess(self, params: float = 0, macs: float = 0) -> str | None:
        """A sentence about the bound that the values exceed; None if they are within all."""
        ...


class Wanted(Protocol):
    """A decision to rewrite: the pass by name, its options, the site by name, and a bound of the cost afterwards."""

    @property
    def pass_name(self) -> str: ...

    @property
    def options(self) -> Mapping[str, Any]: ...

    @property
    def site(self) -> str: ...

    @property
    def budget(self) -> CostBound | None: ...


def make_pass(name: str, options: Mapping[str, Any]) -> Pass:
    """The pass `name` with JSON options; raises UnknownName, or OptionError naming each wrong option."""
    made: Pass = construct(passes.get(name), options, f"pass {name}")
    return made


def propose(decision: Wanted, graph: Graph, gather: Gather) -> Rewrite:
    """The rewrite of `graph` that a decision asks for.

    Raises Decline where the pass refuses, where the site is not there (any more), and past the budget; UnknownName and
    OptionError as `make_pass`.
    """
    change = make_pass(decision.pass_name, decision.options)
    seen = gather(change.needs)
    rewrite = change.attempt(graph, change.site(graph, decision.site), seen)
    if decision.budget is not None:
        cost = rewrite.graph.cost()
        excess = decision.budget.excess(params=cost.params, macs=cost.macs)
        if excess:
            raise Decline(f"past the budget: {excess}")
    return rewrite
