"""Fused SGD with momentum, for parameters that join, or begin to learn, after the others.

torch's fused kernel makes momentum buffers only where a group has none at all; where some are missing its step ends
in a TypeError. Growing, unfreezing and resuming from such a state all lead there.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from nasir.errors import UsageError

_PREPARED: WeakSet[torch.optim.Optimizer] = WeakSet()


def prepare(optimizer: torch.optim.Optimizer) -> None:
    """From now on, before each step of a fused SGD with momentum, zeros stand in for missing buffers.

    The first step is then bit for bit that of SGD without the fused kernel: momentum * 0 + gradient. A hook does it,
    and it is not part of the optimizer's state: a copy, or another optimizer that loads the state, is prepared anew by
    the next rewrite. Other optimizers are left alone.
    """
    if isinstance(optimizer, torch.optim.SGD) and optimizer not in _PREPARED:
        _PREPARED.add(optimizer)
        optimizer.register_step_pre_hook(_fill)


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


def _fill(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
    state = optimizer.state
    for group in optimizer.param_groups:
        if not _fused(group):
            continue
        # gradients may come from a closure, later than this: what may get one is filled
        learning: list[Tensor] = [p for p in group["params"] if p.requires_grad]
        missing = [p for p in learning if p not in state or state[p].get("momentum_buffer") is None]
        if not missing:
            continue
        if group["dampening"]:
            if len(missing) == len(learning):
                continue  # the first step of all, which the kernel can do
            raise UsageError(_DAMPENED)
        for parameter in missing:
            state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
