"""What a penalty is for one graph: it adds gradients to weights, as a rule by differentiating what it computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from nasir.errors import UsageError
from nasir.ir import Graph
from nasir.registry import code_of
from nasir.training.optimizers import loaded
from nasir.training.penalties import Penalty
from nasir.transfer import Key

Fetch: TypeAlias = Callable[[Key], Tensor]
"""Gives the array of a key, as it is now."""


class Term(Protocol):
    """A penalty for one graph."""

    def add_gradients(self, fetch: Fetch) -> Tensor | None:
        """Add the gradient, with strength, to `.grad` of what learns; the value, None if there is nothing to act on."""


def term_of(graph: Graph, penalty: Penalty, device: torch.device) -> Term:
    """The term that a penalty declares, or the one made of its `value`."""
    if penalty.term is None:
        return ValueTerm(graph, penalty, device)
    with code_of_penalty(penalty, "its `term` is made of a graph, the penalty and a device"):
        made: Term = loaded(type(penalty).term)(graph, penalty, device)
    return made


def code_of_penalty(penalty: Penalty, remedy: str) -> AbstractContextManager[None]:
    """What is raised within is told as of the penalty's author, with the remedy; memory that ran out is not."""
    return code_of(type(penalty), f"penalty {penalty.name}", remedy, (torch.OutOfMemoryError,))


def gradients_of(parameters: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Those of the parameters that learn, and their gradients, zeros where there were none."""
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in learning:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return learning, [parameter.grad for parameter in learning if parameter.grad is not None]


class ValueTerm:
    """The term of a penalty that has a `value`, by autograd or by the `gradient` that it has too."""

    def __init__(self, graph: Graph, penalty: Penalty, device: torch.device) -> None:
        self.penalty = penalty
        self.keys = penalty.slots(graph)
        self.closed = type(penalty).gradient is not Penalty.gradient

    def add_gradients(self, fetch: Fetch) -> Tensor | None:
        parameters = [fetch(key) for key in self.keys]
        strength = self.penalty.strength
        if not parameters or not strength:
            return None
        learning, gradients = gradients_of(parameters)
        weights = [parameter.detach() for parameter in parameters]
        chosen = [weight for weight, parameter in zip(weights, parameters, strict=True) if parameter.requires_grad]
        with torch.set_grad_enabled(not self.closed):
            for weight in () if self.closed else chosen:
                weight.requires_grad_()
            with code_of_penalty(self.penalty, "mend its `value`"):
                given = self.penalty.value(weights)
            value = self._number(given)
            if not learning:
                return strength * value.detach().double()
            if self.closed:
                slopes = [slope for slope, p in zip(self._all(weights), parameters, strict=True) if p.requires_grad]
            else:
                slopes = self._differentiated(value, chosen)
        with torch.no_grad():
            torch._foreach_add_(gradients, slopes, alpha=strength)
        return strength * value.detach().double()

    def _differentiated(self, value: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
        if not value.requires_grad:
            raise UsageError(
                f"penalty {self.penalty.name}: what `value` gave does not depend on the weights as autograd sees it; "
                "compute it by operations of torch on the given tensors, or give `gradient` too"
            )
        slopes = torch.autograd.grad(value, list(weights), allow_unused=True)
        return [torch.zeros_like(w) if slope is None else slope for w, slope in zip(weights, slopes, strict=True)]

    def _number(self, value: object) -> Tensor:
        if isinstance(value, Tensor) and value.numel() == 1:
            return value.reshape(())
        found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.60}"
        raise UsageError(f"penalty {self.penalty.name}: `value` gave {found}; it gives a tensor of one number")

    def _all(self, weights: Sequence[Tensor]) -> list[Tensor]:
        with code_of_penalty(self.penalty, "mend its `gradient`"):
            slopes = list(self.penalty.gradient(weights))
        if [slope.shape for slope in slopes] != [weight.shape for weight in weights]:
            raise UsageError(
                f"penalty {self.penalty.name}: `gradient` gave {len(slopes)} tensors that are not of the shapes of the "
                f"{len(weights)} weights; it gives one for each, of its shape"
            )
        return slopes
