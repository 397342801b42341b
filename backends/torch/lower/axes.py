"""How ops that rearrange axes become torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from nasir.backends.torch.lower.ops import Call, Lowered, lowering
from nasir.errors import RunError
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
    return Call(reshaped, (tuple(a["shape"]), out.batch, x[0].shape, x[0].batch))


def reshaped(x: Tensor, shape: tuple[int, ...], rows: int, given: tuple[int, ...], before: int) -> Tensor:
    """Another shape of each row, which has the shape `given`; each sample has `rows` rows, and had so many `before`."""
    count, *sides = x.shape
    if tuple(sides) != given:
        raise RunError(
            f"a reshape of values of shape {given} got {tuple(sides)}; the network is for inputs of the size that it "
            "was made for"
        )
    return x.reshape(count if rows == before else count // before * rows, *shape)


REDUCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "amax": torch.amax,
    "amin": torch.amin,
}


@lowering("reduce")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(REDUCTIONS[a["how"]], (tuple([x[0].dim(axis) for axis in a["axes"]]), a["keep"]))


@lowering("channel_shuffle")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(F.channel_shuffle, (a["groups"],))


@lowering("pixel_shuffle")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(F.pixel_shuffle, (a["factor"],))


@lowering("pixel_unshuffle")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(F.pixel_unshuffle, (a["factor"],))


@lowering("roll")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(torch.roll, (tuple(a["shifts"]), tuple([x[0].dim(axis) for axis in a["axes"]])))


@lowering("repeat")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    counts = list(zip(x[0].shape, a["counts"], strict=True))
    if all(size == 1 or count == 1 for size, count in counts):  # needs no memory
        return Call(Tensor.expand, ((-1, *out.shape) if x[0].batch else out.shape,))
    if not a["each"]:
        return Call(Tensor.repeat, ((1, *a["counts"]) if x[0].batch else tuple(a["counts"]),))
    return Call(beside, (tuple([(x[0].dim(n), count) for n, (_, count) in enumerate(counts) if count > 1]),))


def beside(x: Tensor, counts: tuple[tuple[int, int], ...]) -> Tensor:
    """Each place along some axes so often, beside its copies."""
    for dim, count in counts:
        x = x.repeat_interleave(count, dim)
    return x


def same(x: Tensor) -> Tensor:
    """The value itself."""
    return x


@lowering("contiguous")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(Tensor.contiguous)


@lowering("layout")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(same)
