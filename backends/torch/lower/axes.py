"""How ops that rearrange axes become torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nasir.backends.torch.lower.ops import Call, Lowered, lowering
from nasir.ir import JSON, ValueType


@lowering("concat")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(torch.cat, (x[0].dim(a["axis"]),), listed=True)


@lowering("stack")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(torch.stack, (x[0].dim(a["axis"]),), listed=True)


@lowering("split")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(torch.split, (list(a["sizes"]), x[0].dim(a["axis"])))


def every(x: Tensor, dim: int, start: int, stop: int, step: int) -> Tensor:
    """Each `step`-th place of one axis."""
    return x[(slice(None),) * dim + (slice(start, stop, step),)]


@lowering("slice")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    dim, start, stop, step = x[0].dim(a["axis"]), a["start"], a["stop"], a["step"]
    return Call(torch.narrow, (dim, start, stop - start)) if step == 1 else Call(every, (dim, start, stop, step))


@lowering("select")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(torch.select, (x[0].dim(a["axis"]), a["index"]))


@lowering("unbind")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(torch.unbind, (x[0].dim(a["axis"]),))


@lowering("permute")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    order = [x[0].dim(number) for number in a["order"]]
    return Call(torch.permute, ((0, *order) if x[0].batch else tuple(order),))


@lowering("flatten")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(torch.flatten, (1 if x[0].batch else 0,))


@lowering("reshape")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    if not out.batch:
        return Call(torch.reshape, (tuple(a["shape"]),))
    return Call(reshaped, (tuple(a["shape"]), out.batch, x[0].batch))


def reshaped(x: Tensor, shape: tuple[int, ...], rows: int, before: int) -> Tensor:
    """Another shape of each row; each sample has `rows` rows, and had so many before."""
    count = x.shape[0]
    return x.reshape(count if rows == before else count // before * rows, *shape)
