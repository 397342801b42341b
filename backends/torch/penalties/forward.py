"""Terms of the loss that see the forward pass: they are differentiated together with the cross-entropy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.penalties.term import code_of_penalty
from nasir.errors import RunError, UsageError
from nasir.ir import Graph
from nasir.training.optimizers import loaded
from nasir.training.plans import PenaltyPlan

Teachers = Mapping[str, LoweredModule]
"""Networks in evaluation by name: see `nasir.training.Penalty.taught_by`."""


@dataclass(frozen=True)
class ForwardPass:
    """A batch in training: `images` and `labels` [N], and what the network gives of them, `logits` in at least float32,
    [N, classes], or [N, branches, classes] of branches that are trained separately. `computing`: the context that sets
    the precision of the network's products."""

    images: Tensor
    labels: Tensor
    logits: Tensor
    teachers: Teachers
    computing: AbstractContextManager[Any]

    def taught(self, name: str) -> Tensor:
        """The logits [N, classes] of a teacher for the batch, computed once, without a gradient."""
        if name not in self._taught:
            with torch.no_grad(), self.computing:
                logits: Tensor = self.teachers[name](self.images)
            self._taught[name] = logits.to(self.logits.dtype)
        return self._taught[name]

    @cached_property
    def _taught(self) -> dict[str, Tensor]:
        return {}


class ForwardTerm(Protocol):
    """A term for one graph."""

    def watching(self, model: LoweredModule) -> AbstractContextManager[None]:
        """The forward pass runs in it."""

    def loss(self, forward: ForwardPass) -> Tensor | None:
        """The value with strength, a tensor of one number; None if there is nothing to act on."""


class ForwardTerms:
    """All terms of a phase for one graph that see the forward pass."""

    def __init__(self, graph: Graph, plans: Sequence[PenaltyPlan], device: torch.device) -> None:
        self.graph, self.plans, self.device = graph, tuple(plans), device
        self.terms: list[tuple[PenaltyPlan, ForwardTerm]] = []
        for plan in plans:
            with code_of_penalty(plan.options, "its `term` is made of a graph, the penalty and a device"):
                made: ForwardTerm = loaded(type(plan.options).term)(graph, plan.options, device)
            self.terms.append((plan, made))

    @contextmanager
    def watching(self, model: LoweredModule) -> Iterator[None]:
        """The forward pass runs in it."""
        with ExitStack() as stack:
            for plan, term in self.terms:
                with code_of_penalty(plan.options, "mend its `watching`"):
                    stack.enter_context(term.watching(model))
            yield

    def loss(self, forward: ForwardPass) -> Tensor | None:
        """The sum of all terms, None where none has anything to act on."""
        total: Tensor | None = None
        for plan, term in self.terms:
            with code_of_penalty(plan.options, "mend its `loss`"):
                value = term.loss(forward)
            if value is None:
                continue
            if not isinstance(value, Tensor) or value.numel() != 1:
                found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.60}"
                raise UsageError(f"penalty {plan.kind}: `loss` gave {found}; it gives a tensor of one number, or None")
            total = value.reshape(()) if total is None else total + value.reshape(())
        return total


_KNOWN: WeakKeyDictionary[nn.Module, ForwardTerms] = WeakKeyDictionary()


def forward_terms_of(model: nn.Module, plans: Sequence[PenaltyPlan]) -> ForwardTerms | None:
    """Those among the terms of a phase that see the forward pass, made once for each graph that the model has; None
    where there are none."""
    seeing = tuple([plan for plan in plans if plan.options.sees == "forward"])
    if not seeing:
        return None
    if not isinstance(model, LoweredModule):
        raise RunError("regularize: terms that see the forward pass need a nasir Model, which says what it computes")
    device = next(model.parameters()).device
    known = _KNOWN.get(model)
    if known is None or known.graph is not model.graph or known.plans != seeing or known.device != device:
        known = _KNOWN[model] = ForwardTerms(model.graph, seeing, device)
    return known
