"""What runs in one mode alone, and buffers that a network computes: the part of it that is a call."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nasir.backends.torch.lower.ops import Call, Lowered, lowering
from nasir.ir import JSON, ValueType


@lowering("assign")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(next_value)


def next_value(held: Tensor, value: Tensor) -> Tensor:
    """What a buffer is to hold; `assign` stores it when the network has run."""
    return value


def assign(model: nn.Module, holder: nn.Module, name: str, value: Tensor | None) -> None:
    """Let a buffer hold a value from now on, unless it is frozen (in evaluation while the model is in training)."""
    if value is not None and (holder.training or not model.training):
        with torch.no_grad():
            getattr(holder, name).copy_(value)
