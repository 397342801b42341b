"""How each op becomes torch: a module when it owns weights or behaves differently in training, else a call.

A third-party op adds its own:

    @lowering("my_op")
    def _(attrs, inputs, out): return Call(torch.nn.functional.elu)

`attrs` are the node's attributes, `inputs` and `out` the value types. Modules are built on the meta device; their
parameter and buffer names must be the op's slot names. A Call is made with the inputs, then `args` and `kwargs`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasir.errors import RunError
from nasir.ir import JSON, ValueType, pair


@dataclass(frozen=True, slots=True)
class Call:
    """A function of the inputs and constants. `listed`: the inputs go in as one list."""

    target: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    listed: bool = False


Lowered: TypeAlias = nn.Module | Call
Lowering: TypeAlias = Callable[[Mapping[str, JSON], tuple[ValueType, ...], ValueType], Lowered]

LOWERINGS: dict[str, Lowering] = {}


def lowering(op: str) -> Callable[[Lowering], Lowering]:
    """Register how `op` becomes torch."""

    def add(function: Lowering) -> Lowering:
        LOWERINGS[op] = function
        return function

    return add


def lower_op(op: str, attrs: Mapping[str, JSON], inputs: tuple[ValueType, ...], out: ValueType) -> Lowered:
    """The module or call of one node; raises RunError for an op without a lowering."""
    if op not in LOWERINGS:
        raise RunError(f"op {op!r} has no torch lowering; register one with @nasir.backends.torch.lowering({op!r})")
    with torch.device("meta"):
        return LOWERINGS[op](attrs, inputs, out)


@lowering("conv2d")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return nn.Conv2d(
        x[0].shape[0],
        a["out"],
        pair(a["kernel"]),
        stride=pair(a["stride"]),
        padding=pair(a["padding"]),
        dilation=pair(a["dilation"]),
        groups=a["groups"],
        bias=a["bias"],
    )


@lowering("linear")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return nn.Linear(x[0].shape[0], a["out"], bias=a["bias"])


@lowering("batch_norm")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    kind = nn.BatchNorm2d if len(x[0].shape) == 3 else nn.BatchNorm1d
    return kind(x[0].shape[0], eps=a["eps"], momentum=a["momentum"])


@lowering("group_norm")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return nn.GroupNorm(a["groups"], x[0].shape[0], eps=a["eps"])


@lowering("layer_norm")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return nn.LayerNorm(x[0].shape[0], eps=a["eps"])


class Scale(nn.Module):
    """Product with one learnable scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


@lowering("scale")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Scale() if a["learnable"] else Call(operator.mul, (a["value"],))


@lowering("dropout")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return nn.Dropout(a["p"])


@lowering("identity")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return nn.Identity()


@lowering("relu")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(F.relu)


@lowering("gelu")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(F.gelu)


@lowering("silu")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(F.silu)


@lowering("sigmoid")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(torch.sigmoid)


@lowering("hardswish")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(F.hardswish)


@lowering("softmax")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(torch.softmax, (1,))


def add_all(*values: Tensor) -> Tensor:
    """Sum of two or more tensors."""
    total = values[0] + values[1]
    for value in values[2:]:
        total = total + value
    return total


def multiply_all(*values: Tensor) -> Tensor:
    """Product of two or more tensors."""
    total = values[0] * values[1]
    for value in values[2:]:
        total = total * value
    return total


def mean_all(*values: Tensor) -> Tensor:
    """Mean of one or more tensors."""
    return add_all(*values) / len(values) if len(values) > 1 else values[0]


def _merge(two: Callable[..., Any], many: Callable[..., Any], count: int) -> Call:
    if count == 1:
        return Call(torch.clone)
    return Call(two if count == 2 else many)


@lowering("add")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return _merge(operator.add, add_all, len(x))


@lowering("mul")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return _merge(operator.mul, multiply_all, len(x))


@lowering("mean")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(mean_all)


@lowering("concat")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(torch.cat, (1,), listed=True)


@lowering("split")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(torch.split, (list(a["sizes"]), 1))


def channel_slice(x: Tensor, start: int, stop: int) -> Tensor:
    """Channels start <= c < stop."""
    return x[:, start:stop]


@lowering("slice")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(channel_slice, (a["start"], a["stop"]))


@lowering("max_pool")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(F.max_pool2d, (pair(a["kernel"]), pair(a["stride"] or a["kernel"]), pair(a["padding"])))


@lowering("avg_pool")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(F.avg_pool2d, (pair(a["kernel"]), pair(a["stride"] or a["kernel"]), pair(a["padding"])))


@lowering("adaptive_avg_pool")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(F.adaptive_avg_pool2d, (pair(a["size"]),))


@lowering("global_avg_pool")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(torch.mean, ((2, 3),))


@lowering("flatten")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(torch.flatten, (1,))


@lowering("reshape")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(reshape_values, (list(a["shape"]),))


def reshape_values(x: Tensor, shape: list[int]) -> Tensor:
    """Another shape per sample; the batch axis stays."""
    return x.reshape(x.shape[0], *shape)


def subsample(x: Tensor, step_h: int, step_w: int) -> Tensor:
    """Every step-th row and column."""
    return x[:, :, ::step_h, ::step_w]


@lowering("subsample")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(subsample, pair(a["stride"]))


def pad_channels(x: Tensor, before: int, after: int) -> Tensor:
    """Zero channels before and after those of x."""
    return F.pad(x, (0, 0) * (x.dim() - 2) + (before, after))


@lowering("pad_channels")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(pad_channels, (a["before"], a["after"]))
