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
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasir.backends.torch.lower.ensemble import Ensemble
from nasir.errors import RunError
from nasir.ir import JSON, ValueType, per_axis


@dataclass(frozen=True, slots=True)
class Call:
    """A function of the inputs and constants. `listed`: the inputs go in as one list.

    `over`: the function that writes the same over its first input; None: `target`, with `inplace=True`.
    """

    target: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    listed: bool = False
    over: Callable[..., Any] | None = None

    @property
    def overwriting(self) -> Call:
        """The call that writes its result over its first input."""
        if self.over is not None:
            return replace(self, target=self.over)
        return replace(self, kwargs={**self.kwargs, "inplace": True})


Lowered: TypeAlias = nn.Module | Call
Lowering: TypeAlias = Callable[[Mapping[str, JSON], tuple[ValueType, ...], ValueType], Lowered]

LOWERINGS: dict[str, Lowering] = {}
OVERWRITES: set[str] = set()
SPARES: set[str] = set()


def lowering(op: str, *, overwrites: bool = False, spares: bool = False) -> Callable[[Lowering], Lowering]:
    """Register how `op` becomes torch.

    `overwrites`: it is a Call that has a function `over`, or whose function takes `inplace=True`, and whose backward
    pass then needs its output at most.
    `spares`: its backward pass does not need its output, so that the next op may overwrite it.
    """

    def add(function: Lowering) -> Lowering:
        LOWERINGS[op] = function
        for known, flag in ((OVERWRITES, overwrites), (SPARES, spares)):
            (known.add if flag else known.discard)(op)
        return function

    return add


def may_overwrite(op: str, source: str) -> bool:
    """Whether `op` may write its result over what an op `source` gave it, as far as backward passes go."""
    return op in OVERWRITES and source in SPARES


def lower_op(op: str, attrs: Mapping[str, JSON], inputs: tuple[ValueType, ...], out: ValueType) -> Lowered:
    """The module or call of one node; raises RunError for an op without a lowering."""
    if op not in LOWERINGS:
        raise RunError(f"op {op!r} has no torch lowering; register one with @nasir.backends.torch.lowering({op!r})")
    with torch.device("meta"):
        return LOWERINGS[op](attrs, inputs, out)


def stamped(proto: nn.Module, **sizes: int) -> nn.Module:
    """A module like `proto` but for its sizes: constructing one anew takes thirty times as long."""
    state = {key: value.copy() if isinstance(value, dict) else value for key, value in proto.__dict__.items()}
    state["_non_persistent_buffers_set"] = set(state["_non_persistent_buffers_set"])
    state.update(sizes)
    module: nn.Module = object.__new__(type(proto))
    module.__dict__.update(state)
    return module


@lowering("linear")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return stamped(_linear(a["bias"]), in_features=x[0].shape[-1], out_features=a["out"])


@cache
def _linear(bias: bool) -> nn.Linear:
    return nn.Linear(1, 1, bias=bias)


class LearnedScale(nn.Module):
    """Product with one learnable scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


@lowering("scale")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return LearnedScale() if a["learnable"] else Call(operator.mul, (a["value"],))


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


def add_to(total: Tensor, *values: Tensor) -> Tensor:
    """Sum of two or more tensors, in the first one where it can hold it: not where autocast gave it another type."""
    if total.dtype != values[0].dtype:
        return add_all(total, *values)
    total += values[0]
    return add_all(total, *values[1:]) if len(values) > 1 else total


def _merge(
    two: Callable[..., Any], many: Callable[..., Any], count: int, over: Callable[..., Any] | None = None
) -> Call:
    if count == 1:
        return Call(torch.clone)
    return Call(two if count == 2 else many, over=over)


@lowering("add", overwrites=True, spares=True)
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return _merge(operator.add, add_all, len(x), add_to)


@lowering("mul")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return _merge(operator.mul, multiply_all, len(x))


@lowering("mean")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(mean_all)


@lowering("ensemble")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Ensemble(a["average"], a["train"])


@lowering("global_avg_pool")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(torch.mean, ((2, 3),))


def subsample(x: Tensor, step_h: int, step_w: int) -> Tensor:
    """Every step-th row and column."""
    return x[:, :, ::step_h, ::step_w]


@lowering("subsample")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(subsample, per_axis(a["stride"], 2))


def pad_channels(x: Tensor, before: int, after: int, behind: int) -> Tensor:
    """Zero channels before and after those of x, which has so many axes behind them."""
    return F.pad(x, (0, 0) * behind + (before, after))


@lowering("pad_channels")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(pad_channels, (a["before"], a["after"], len(x[0].shape) - 1 - x[0].channel_axis))
