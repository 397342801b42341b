"""Sums of |w| or of w ** 2, many arrays in a few operations."""

from __future__ import annotations

import torch
from torch import Tensor

from nasir.backends.torch.penalties.term import Fetch, gradients_of
from nasir.ir import Graph
from nasir.training.penalties import PenaltyPlan
from nasir.training.shipped_penalties import L1, L2, LayerLasso


class NormTerm:
    """Sum of |w| or of w ** 2 (without a factor 1/2) over some parameters, times a strength."""

    def __init__(self, graph: Graph, penalty: L1 | L2 | LayerLasso | PenaltyPlan, device: torch.device) -> None:
        self.strength: float = penalty.strength
        self.power: int = penalty.power
        self.keys = penalty.slots(graph)

    def add_gradients(self, fetch: Fetch) -> Tensor | None:
        """Add the gradient to `.grad` of those that require one; the value, None if there is nothing to act on."""
        parameters = [fetch(key) for key in self.keys]
        if not parameters or not self.strength:
            return None
        weights = [parameter.detach() for parameter in parameters]
        learning, gradients = gradients_of(parameters)
        slopes = [parameter.detach() for parameter in learning]
        if self.power == 2:
            if learning:
                torch._foreach_add_(gradients, slopes, alpha=2 * self.strength)
            return self.strength * torch.stack(torch._foreach_norm(weights, 2)).double().square().sum()
        if learning:
            torch._foreach_add_(gradients, torch._foreach_sign(slopes), alpha=self.strength)
        return self.strength * torch.stack(torch._foreach_norm(weights, 1)).double().sum()
