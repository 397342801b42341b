"""How functions of one or two numbers become torch: `name: (function, the attributes that it takes, in order)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasir.backends.torch.lower.ops import Call, Lowered, Lowering, lowering
from nasir.ir import JSON, ValueType


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 * x)."""
    return x * torch.sigmoid(1.702 * x)


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The same numbers in another type."""
    return x.to(dtype)


OVERWRITING: Mapping[str, tuple[Any, ...]] = {
    "relu": (F.relu,),
    "relu6": (F.relu6,),
    "hardtanh": (F.hardtanh, "low", "high"),
}
"""Those whose backward pass needs their output only."""
FUNCTIONS: Mapping[str, tuple[Any, ...]] = {
    "leaky_relu": (F.leaky_relu, "slope"),
    "elu": (F.elu, "alpha"),
    "celu": (F.celu, "alpha"),
    "selu": (F.selu,),
    "abs": (torch.abs,),
    "quick_gelu": (quick_gelu,),
    "sigmoid": (torch.sigmoid,),
    "logsigmoid": (F.logsigmoid,),
    "silu": (F.silu,),
    "mish": (F.mish,),
    "hardsigmoid": (F.hardsigmoid,),
    "hardswish": (F.hardswish,),
    "softplus": (F.softplus, "beta", "threshold"),
    "softsign": (F.softsign,),
    "tanh": (torch.tanh,),
    "exp": (torch.exp,),
    "log": (torch.log,),
    "sqrt": (torch.sqrt,),
    "rsqrt": (torch.rsqrt,),
    "reciprocal": (torch.reciprocal,),
    "pow": (torch.pow, "exponent"),
    "sin": (torch.sin,),
    "cos": (torch.cos,),
    "erf": (torch.erf,),
    "divide_by": (torch.div, "value"),
    "div": (torch.div,),
    "maximum": (torch.maximum,),
    "minimum": (torch.minimum,),
}


def _call(function: Callable[..., Tensor], *attributes: str) -> Lowering:
    def lower(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
        return Call(function, tuple([a[name] for name in attributes]))

    return lower


for _name, _row in OVERWRITING.items():
    lowering(_name, overwrites=True)(_call(*_row))
for _name, _row in FUNCTIONS.items():
    lowering(_name)(_call(*_row))
lowering("shift", spares=True)(_call(torch.add, "value"))


@lowering("sub", spares=True)
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(torch.sub, kwargs={"alpha": a["alpha"]})


@lowering("addcmul", spares=True)
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(torch.addcmul, kwargs={"value": a["value"]})


@lowering("cast")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(cast, (getattr(torch, a["dtype"]),))


@lowering("clamp")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    low, high = a["low"], a["high"]
    if low is None and high is None:
        return Call(torch.positive)
    return Call(torch.clamp, (low, high))


@lowering("gelu")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(F.gelu, kwargs={} if a["approximate"] == "none" else {"approximate": a["approximate"]})


def _over(function: Callable[..., Tensor]) -> Lowering:
    def lower(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
        return Call(function, (x[0].channel_dim if a["axis"] is None else a["axis"] + 1,))

    return lower


lowering("softmax")(_over(torch.softmax))
lowering("log_softmax")(_over(torch.log_softmax))


@lowering("prelu")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return nn.PReLU(x[0].shape[0] if a["per_channel"] else 1)
