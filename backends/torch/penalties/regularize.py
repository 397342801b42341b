"""Terms of the loss that act on weights: their gradients are added after the backward pass, without autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nasir.backends.torch.model import Model
from nasir.backends.torch.penalties.group import GroupPenalty
from nasir.backends.torch.penalties.tables import below
from nasir.errors import RunError
from nasir.ir import Graph
from nasir.training.plans import PenaltyPlan
from nasir.transfer import Key


class NormPenalty:
    """Sum of |w| or of w ** 2 (without a factor 1/2) over some parameters, times a strength."""

    def __init__(self, graph: Graph, plan: PenaltyPlan) -> None:
        self.plan = plan
        self.keys = penalized(graph, plan)

    def add_gradients(self, model: Model) -> Tensor | None:
        """Add the gradient to `.grad` of those that require one; the value, None if there is nothing to act on."""
        parameters = [model.tensor(key) for key in self.keys]
        if not parameters or not self.plan.strength:
            return None
        with torch.no_grad():
            learning = [parameter for parameter in parameters if parameter.requires_grad]
            for parameter in learning:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            gradients = [parameter.grad for parameter in learning if parameter.grad is not None]
            strength = self.plan.strength
            if self.plan.kind == "l2":
                if learning:
                    torch._foreach_add_(gradients, [p.detach() for p in learning], alpha=2 * strength)
                norms = torch._foreach_norm([p.detach() for p in parameters], 2)
                return strength * torch.stack(norms).double().square().sum()
            if learning:
                torch._foreach_add_(gradients, torch._foreach_sign([p.detach() for p in learning]), alpha=strength)
            norms = torch._foreach_norm([p.detach() for p in parameters], 1)
            return strength * torch.stack(norms).double().sum()


def penalized(graph: Graph, plan: PenaltyPlan) -> list[Key]:
    """The parameters that an l1, l2 or layer-lasso term acts on, in topological order."""
    blocks = {node_id for block in graph.blocks for node_id in graph.members(block.path)}
    found = []
    for node_id in graph.order:
        node = graph.nodes[node_id]
        for name, slot in graph.infer.slots[node_id].items():
            if slot.kind != "param":
                continue
            kernel, convolution = slot.is_kernel, slot.is_convolution
            if isinstance(plan.on, tuple):
                wanted = kernel and below(node.label, plan.on)
            else:
                wanted = {
                    "all": True,
                    "kernels": kernel,
                    "convs": convolution,
                    "blocks": convolution and node_id in blocks,
                }[plan.on]
            if wanted:
                found.append(Key(node_id, name))
    return found


class Penalties:
    """All terms of a phase for one graph."""

    def __init__(self, graph: Graph, plans: Sequence[PenaltyPlan], device: torch.device) -> None:
        self.graph, self.plans, self.device = graph, tuple(plans), device
        self.norms = [NormPenalty(graph, plan) for plan in plans if not plan.on_widths]
        self.groups = [GroupPenalty(graph, plan, device) for plan in plans if plan.on_widths]

    def add_gradients(self, model: Model) -> Tensor:
        """Add the gradients of all terms to `.grad`; their sum, a float64 scalar on the device."""
        values = [term.add_gradients(model) for term in self.norms]
        with torch.no_grad():
            values += [term.add_gradients(model.tensor) for term in self.groups]
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for value in values:
            if value is not None:
                total = total + value
        return total


_KNOWN: WeakKeyDictionary[nn.Module, Penalties] = WeakKeyDictionary()


def penalties_of(model: nn.Module, plans: Sequence[PenaltyPlan]) -> Callable[[], Tensor] | None:
    """Adds the gradients of the terms and gives their sum; None without terms. See `Penalties`."""
    if not plans:
        return None
    return partial(_penalties(model, plans).add_gradients, cast(Model, model))


def alive_cost(model: Model, plans: Sequence[PenaltyPlan]) -> dict[str, int] | None:
    """{"channels", "macs", "params"} that the first MorphNet term among `plans` leaves alive; None without one."""
    if not any(plan.on_widths for plan in plans):
        return None
    return _penalties(model, plans).groups[0].alive_cost(model.tensor)


def _penalties(model: nn.Module, plans: Sequence[PenaltyPlan]) -> Penalties:
    """Made once for each graph that the model has."""
    if not isinstance(model, Model):
        raise RunError("regularize: penalties need a nasir Model, whose graph says which weights belong together")
    device = next(model.parameters()).device
    known = _KNOWN.get(model)
    if known is None or known.graph is not model.graph or known.plans != tuple(plans) or known.device != device:
        known = _KNOWN[model] = Penalties(model.graph, plans, device)
    return known


def alive(model: Model, plan: PenaltyPlan) -> dict[str, NDArray[np.bool_]]:
    """Which units are alive under a group-lasso or gamma term, by name of each space.

    A unit is alive while its value, the largest of all arrays that are tied in it, is above the plan's threshold.
    Units of spaces that cannot be resized, that the plan excludes, or that no array gives a value, are all alive.
    """
    if not plan.on_widths:
        raise RunError(f"{plan.kind}: units die only under group-lasso or gamma; use one of these")
    return GroupPenalty(model.graph, plan, next(model.parameters()).device).alive(model.tensor)
