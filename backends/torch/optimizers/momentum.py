"""Fused SGD with momentum, for parameters that join, or begin to learn, after the others.

torch's fused kernel makes momentum buffers only where a group has none at all; where some are missing its step ends
in a TypeError. Growing, unfreezing and resuming from such a state all lead there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from nasir.errors import UsageError

_PREPARED: WeakSet[torch.optim.Optimizer] = WeakSet()


def prepare(optimizer: torch.optim.Optimizer) -> None:
    """From now on a fused SGD with momentum takes in parameters that have no buffer, now and before each step.

    Zeros stand in for what is missing, so that the first step is bit for bit that of SGD without the fused kernel:
    momentum * 0 + gradient. A hook does it, which is not part of the optimizer's state: a copy, or another optimizer
    that loads the state, has the zeros that are there, and is prepared itself by its first rewrite. Other optimizers
    are left alone.
    """
    if isinstance(optimizer, torch.optim.SGD):
        if optimizer not in _PREPARED and any(group.get("fused") for group in optimizer.param_groups):
            _PREPARED.add(optimizer)
            optimizer.register_step_pre_hook(_before_step)
        for group in optimizer.param_groups:
            if _fused(group) and not group["dampening"]:
                _fill(optimizer, group, group["params"])


def check_joining(optimizer: torch.optim.Optimizer) -> None:
    """UsageError where parameters cannot join a fused SGD: dampening scales every gradient but a buffer's first."""
    if isinstance(optimizer, torch.optim.SGD) and any(_fused(g) and g["dampening"] for g in optimizer.param_groups):
        raise UsageError(_DAMPENED)


_DAMPENED = (
    "SGD(fused=True) with dampening cannot take in parameters that have no momentum yet: torch's fused kernel has no "
    "first step for them; make the optimizer with foreach=True instead of fused=True, or with dampening 0"
)


def _fused(group: dict[str, Any]) -> bool:
    return bool(group.get("fused") and group["momentum"])


def _before_step(optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    closure = any(argument is not None for argument in (*args[1:], kwargs.get("closure")))  # args[0]: the optimizer
    for group in optimizer.param_groups:
        if not _fused(group):
            continue
        # gradients of a closure come later than this: what may get one is filled
        moving = [p for p in group["params"] if p.requires_grad and (closure or p.grad is not None)]
        if not group["dampening"]:
            _fill(optimizer, group, moving)
        elif not closure and 0 < len(_missing(optimizer, moving)) < len(moving):
            raise UsageError(_DAMPENED)


def _fill(optimizer: torch.optim.Optimizer, group: dict[str, Any], parameters: Sequence[Tensor]) -> None:
    """Zeros for those that learn without a buffer, where others of their group have one: else the kernel makes them."""
    learning = [p for p in parameters if p.requires_grad]
    missing = _missing(optimizer, learning)
    if missing and len(_missing(optimizer, group["params"])) < len(group["params"]):
        for parameter in missing:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)


def _missing(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> list[Tensor]:
    state = optimizer.state
    return [p for p in parameters if p not in state or state[p].get("momentum_buffer") is None]
