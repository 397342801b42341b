"""Adaptive gradient clipping: no gradient of a unit is long beside its weights (Brock et al., arXiv:2102.06171)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nasir.analysis.last_layers import last_layers
from nasir.backends.torch.lower.module import LoweredModule
from nasir.branching.independent import independent
from nasir.ir.space import size_of
from nasir.ir.types import Slot
from nasir.training.plans import AdaptiveClip


@dataclass(frozen=True, slots=True)
class _Units:
    """A parameter, how it is viewed, and along which axes of the view the numbers of one unit lie."""

    parameter: nn.Parameter
    view: tuple[int, ...]
    along: tuple[int, ...]

    def lengths(self, values: Tensor) -> Tensor:
        """L2 norm of each unit, shaped to broadcast over the view."""
        lengths: Tensor = torch.linalg.vector_norm(values.reshape(self.view), dim=self.along, keepdim=True)
        return lengths


def adaptive_clipper(model: LoweredModule, clip: AdaptiveClip) -> Callable[[], None]:
    """A function that shortens gradients, unit by unit, to at most `clip.factor` times the length of the weights, for
    as long as the model's parameters stay the same objects.

    It acts on the gradients as they are then: of what is accumulated over several batches it is called once, before the
    step, and where a loss is scaled, after the gradients are unscaled.
    """
    units = _units(model, clip)

    def adapt() -> None:
        learning = [each for each in units if each.parameter.grad is not None]
        if not learning:
            return
        gradients = [each.parameter.grad for each in learning if each.parameter.grad is not None]
        with torch.no_grad():
            weights = [each.lengths(each.parameter) for each in learning]
            lengths = [each.lengths(gradient) for each, gradient in zip(learning, gradients, strict=True)]
            sizes = [length.numel() for length in lengths]
            # many small tensors as one: a product, a quotient and a bound for all units at once
            most = torch.cat([length.flatten() for length in weights]).clamp_(min=clip.eps).mul_(clip.factor)
            share = (most / torch.cat([length.flatten() for length in lengths])).clamp_(max=1.0)
            shares = torch.split(share, sizes)
            for each, gradient, share, length in zip(learning, gradients, shares, lengths, strict=True):
                gradient.mul_(share.reshape(length.shape).expand(each.view).reshape(gradient.shape))

    return adapt


def _units(model: LoweredModule, clip: AdaptiveClip) -> list[_Units]:
    graph, parameters = model.graph, dict(model.named_parameters())
    merged = {part.node: part.of for learner in independent(graph) for part in learner}
    heads = frozenset() if clip.head else last_layers(graph)
    found = []
    for name, key in model.keys().items():
        slot = graph.infer.slots[key.node][key.slot]
        if name not in parameters or key.node in heads or not (slot.axes or clip.scalars):
            continue
        view, units = _view(slot, merged.get(key.node, 1))
        along = tuple([axis for axis in range(len(view)) if axis not in units])
        found.append(_Units(parameters[name], view, along))
    return found


def _view(slot: Slot, branches: int) -> tuple[tuple[int, ...], set[int]]:
    """How an array is viewed, and which axes of that count its units. `branches`: those that it works for, one after
    another along its first axis."""
    shape = slot.shape
    if sum(size > 1 for size in shape) < 2 and not slot.is_kernel:
        return ((branches, shape[0] // branches, *shape[1:]) if shape else (1,)), {0}
    units = {number for number, axis in enumerate(slot.axes) if axis.role in ("write", "along")}
    groups = size_of(slot.groups)
    if groups > 1:  # groups lie along what is read: each has outputs of its own
        read = slot.axis("read")
        shape = (*shape[:read], groups, shape[read] // groups, *shape[read + 1 :])
        units = {read, *(number + (number > read) for number in units)}
    return shape, units
