"""Gradients kept below a length: of all weights together, or of each branch that learns by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.train.adaptive import adaptive_clipper
from nasir.branching.independent import Learner, Part, independent
from nasir.errors import UsageError
from nasir.training.plans import TrainPlan
from nasir.transfer import Key


def clipping(model: nn.Module, plan: TrainPlan) -> Callable[[], None] | None:
    """What a plan does with the gradients before each step: lengths of units, then of all; None where nothing."""
    clips = []
    if plan.adaptive_clip is not None:
        if not isinstance(model, LoweredModule):
            raise UsageError(f"adaptive_clip asks what a {type(model).__name__} is made of; train a nasir.Model by it")
        clips.append(adaptive_clipper(model, plan.adaptive_clip))
    if plan.gradient_clip is not None:
        clips.append(clipper(model, plan.gradient_clip))
    if len(clips) < 2:
        return clips[0] if clips else None

    def clip_both() -> None:
        for clip in clips:
            clip()

    return clip_both


def clipper(model: nn.Module, bound: float) -> Callable[[], None]:
    """A function that scales gradients whose L2 norm exceeds `bound` down to it, for as long as the model's parameters
    stay the same objects.

    Branches of an ensemble that are trained separately count each by itself, what they share counts by itself, too.
    """
    learners = independent(model.graph) if isinstance(model, LoweredModule) else ()
    if not isinstance(model, LoweredModule) or not learners:
        return lambda: _clip_whole(model, bound)
    held = [_held(model, learner) for learner in learners]

    def clip() -> None:
        for parts in held:
            gradients = [
                parameter.grad if part.of == 1 else parameter.grad.chunk(part.of)[part.number]
                for parameter, part in parts
                if parameter.grad is not None
            ]
            if gradients:
                _clip(gradients, bound)

    return clip


def _clip_whole(model: nn.Module, bound: float) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), bound)


def _clip(gradients: list[Tensor], bound: float) -> None:
    """As torch does it, for gradients that may be parts of others."""
    norm = nn.utils.get_total_norm(gradients)
    torch._foreach_mul_(gradients, torch.clamp(bound / (norm + 1e-6), max=1.0))


def _held(model: LoweredModule, learner: Learner) -> list[tuple[nn.Parameter, Part]]:
    pairs = []
    for part in learner:
        for name, slot in model.graph.infer.slots[part.node].items():
            tensor = model.tensor(Key(part.node, name))
            if slot.kind == "param" and isinstance(tensor, nn.Parameter):
                pairs.append((tensor, part))
    return pairs
