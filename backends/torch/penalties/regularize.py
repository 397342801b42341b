"""Terms of the loss that act on weights: their gradients are added after the backward pass, without autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nasir.analysis.resources import Count, alive_macs, alive_params
from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.penalties.term import term_of
from nasir.errors import NasirError, RunError
from nasir.ir import Atom, Graph
from nasir.registry import penalties
from nasir.training.penalties import penalty_named
from nasir.training.plans import PenaltyPlan


class Penalties:
    """All terms of a phase for one graph."""

    def __init__(self, graph: Graph, plans: Sequence[PenaltyPlan], device: torch.device) -> None:
        self.graph, self.plans, self.device = graph, tuple(plans), device
        self.others = [term_of(graph, plan.options, device) for plan in plans if not plan.selects]
        self.selecting = [term_of(graph, plan.options, device) for plan in plans if plan.selects]

    def add_gradients(self, model: LoweredModule) -> Tensor:
        """Add the gradients of all terms to `.grad`; their sum, a float64 scalar on the device."""
        with torch.no_grad():
            values = [term.add_gradients(model.tensor) for term in (*self.others, *self.selecting)]
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for value in values:
            if value is not None:
                total = total + value
        return total


_KNOWN: WeakKeyDictionary[nn.Module, Penalties] = WeakKeyDictionary()


def penalties_of(model: nn.Module, plans: Sequence[PenaltyPlan]) -> Callable[[], Tensor] | None:
    """Adds the gradients of the terms that act on weights and gives their sum (see `Penalties`); None without such.

    Those that see the forward pass are in `nasir.backends.torch.penalties.forward`.
    """
    acting = [plan for plan in plans if plan.options.sees == "weights"]
    if not acting:
        return None
    return partial(_penalties(model, acting).add_gradients, cast(LoweredModule, model))


def alive_cost(model: LoweredModule, plans: Sequence[PenaltyPlan]) -> dict[str, int] | None:
    """{"channels", "macs", "params"} that the first term among `plans` that selects leaves alive; None without one."""
    acting = [plan for plan in plans if plan.options.sees == "weights"]
    if not any(plan.selects for plan in acting):
        return None
    term = _penalties(model, acting).selecting[0]
    if hasattr(term, "alive_cost"):
        own: dict[str, int] = term.alive_cost(model.tensor)
        return own
    return cost_of_alive(model.graph, _alive(term, model))


def cost_of_alive(graph: Graph, units: Mapping[str, NDArray[np.bool_]]) -> dict[str, int]:
    """The same from the units alive, by name of the spaces that lose some; all others keep theirs."""
    atoms = {space.name: space for space in graph.infer.spaces}
    counts: dict[Atom, int] = {atoms[name]: int(alive.sum()) for name, alive in units.items()}

    def total(count: Count) -> int:
        return round(sum(c * prod([counts[atom] for atom in factors]) for factors, c in count.items()))

    def fixed(atom: Atom) -> bool:
        return atom not in counts

    return {
        "channels": sum(counts.values()),
        "macs": total(alive_macs(graph, fixed)),
        "params": total(alive_params(graph, fixed)),
    }


def _alive(term: Any, model: LoweredModule) -> dict[str, NDArray[np.bool_]]:
    masks: dict[str, NDArray[np.bool_]] = term.alive(model.tensor)
    return masks


def _penalties(model: nn.Module, plans: Sequence[PenaltyPlan]) -> Penalties:
    """Made once for each graph that the model has."""
    if not isinstance(model, LoweredModule):
        raise RunError("regularize: penalties need a nasir Model, whose graph says which weights belong together")
    device = next(model.parameters()).device
    known = _KNOWN.get(model)
    if known is None or known.graph is not model.graph or known.plans != tuple(plans) or known.device != device:
        known = _KNOWN[model] = Penalties(model.graph, plans, device)
    return known


def _selects(name: str) -> bool:
    try:
        return penalty_named(name).selects
    except NasirError:  # a broken one of somebody's is no advice, and not what is asked for
        return False


def alive(model: LoweredModule, plan: PenaltyPlan) -> dict[str, NDArray[np.bool_]]:
    """Which units are alive under a term that selects, such as group-lasso or gamma, by name of each space.

    Under these two a unit is alive while its value, the largest of all arrays that are tied in it, is above the plan's
    threshold. Units of spaces that cannot be resized, that the plan excludes, or that no array gives a value, are all
    alive.
    """
    if not plan.selects:
        known = [name for name in penalties.names() if _selects(name)]
        raise RunError(f"{plan.kind}: units do not die under it; use one of {', '.join(known)}")
    return _alive(term_of(model.graph, plan.options, next(model.parameters()).device), model)
