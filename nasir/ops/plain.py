"""Ops of structure: inputs, sums and products; those that rearrange axes lie in `axes.py`."""

from __future__ import annotations

from typing import Annotated

from annotated_types import doc

from nasir.ir.infer import At
from nasir.ir.op import Sizes, op
from nasir.ir.space import Axis, Cat, pin, size_of
from nasir.ir.types import FLOAT, DType, ValueType
from nasir.ops import constants as known
from nasir.ops.axes import concat as concat
from nasir.ops.axes import flatten as flatten
from nasir.ops.axes import permute as permute
from nasir.ops.axes import reshape as reshape
from nasir.ops.axes import slice_ as slice_
from nasir.ops.axes import split as split
from nasir.ops.windows import slid
from nasir.options.ranges import Count, Whole


@op("input", family="input", view=True, later=("channel_axis", "dtype", "shared"))
def input_(
    at: At,
    shape: tuple[Count, ...],
    channel_axis: Annotated[
        Whole | None, doc("which axis holds the channels; null: the last of two, else the first")
    ] = None,
    dtype: Annotated[DType, doc("float32: the floating-point type that the network computes in")] = FLOAT,
    shared: Annotated[bool, doc("it has no batch axis, and is the same for all samples")] = False,
) -> ValueType:
    """The network's input; `shape` without the batch axis: [C, H, W], [N], or [T, C] for tokens; [] for one number."""
    if channel_axis is not None and channel_axis >= len(shape):
        at.fail(f"channel_axis must be from 0 to {len(shape) - 1}, not {channel_axis}")
    value = ValueType(shape, channel_axis, dtype, 0 if shared else 1)
    if dtype != FLOAT or not shape:  # indices, masks and single numbers have no channels
        return value
    channels = at.fresh(shape[value.channel_axis])
    channels.pin = "it is the input of the network"
    return value.with_channels(channels)


def _merge(at: At, inputs: tuple[ValueType, ...]) -> ValueType:
    lead = next((number for number, value in enumerate(inputs) if value.batch), None)
    if lead is None:  # weights alone
        lead = max(range(len(inputs)), key=lambda number: len(inputs[number].axes))
    first = inputs[lead]
    for index, other in enumerate(inputs):
        if index == lead:
            continue
        axes = list(first.axes)
        for number, (a, b) in enumerate(zip(first.axes, _beside(at, lead, index, first, other), strict=True)):
            if a is b or a == b:
                continue
            if 1 in (a, b):  # one number for all of the other's
                axes[number] = b if a == 1 else a
                continue
            if size_of(a) != size_of(b) and 1 in (size_of(a), size_of(b)):
                alone, axes[number] = (a, b) if size_of(a) == 1 else (b, a)
                pin(alone, f"{at.node.op} '{at.label}' takes its one unit for all of another axis")
                continue
            at.same(a, b, f"axis {number + 1}", (lead, index))
        first = first.over(tuple(axes))
    return first


def _beside(at: At, lead: int, index: int, first: ValueType, other: ValueType) -> tuple[Axis, ...]:
    """The axes of input `index` that lie on those of `first`; of a value without a batch axis the last on the last."""
    if not other.batch:
        missing = len(first.axes) - len(other.axes)
        if missing >= 0:
            return (1,) * missing + other.axes
        if missing == -1 and first.batch and other.shape[0] == 1:  # in the place of the batch
            return other.axes[1:]
    if len(other.axes) != len(first.axes):
        at.fail(
            f"inputs have shapes {first.shape} (from {at.source(lead, first.channels)}) and "
            f"{other.shape} (from {at.source(index, other.channels)})"
        )
    if other.channel_axis != first.channel_axis:
        at.fail(
            f"inputs have their channels on axis {first.channel_axis + 1} (from {at.source(lead, first.channels)}) "
            f"and on axis {other.channel_axis + 1} (from {at.source(index, other.channels)})"
        )
    return other.axes


@op("add", family="sum", channels="alone", nonnegative="keeps", takes=("unbatched",))
def add(at: At, *x: ValueType) -> ValueType:
    """Element-wise sum of inputs of one shape; weights are the same for all samples."""
    return _merge(at, x)


@op("mul", family="product", channels="alone", nonnegative="keeps", takes=("unbatched",))
def mul(at: At, *x: ValueType) -> ValueType:
    """Element-wise product of inputs of one shape; weights are the same for all samples."""
    return _merge(at, x)


@op("mean", family="mean", channels="alone", nonnegative="keeps")
def mean(at: At, *x: ValueType) -> ValueType:
    """Element-wise mean of inputs of one shape (an ensemble of branches)."""
    return _merge(at, x)


@op("global_avg_pool", family="shape", channels="alone", nonnegative="keeps", constant=known.mean_of_places)
def global_avg_pool(at: At, x: ValueType) -> ValueType:
    """Mean over height and width: (C, H, W) -> (C,)."""
    return x.over((at.image(x)[0],))


@op("subsample", family="shape", channels="alone", nonnegative="keeps", view=True, constant=known.window)
def subsample(at: At, x: ValueType, stride: Sizes = 2) -> ValueType:
    """Every `stride`-th row and column (option-A shortcut, He et al. 2015, section 3.3)."""
    channels, height, width = at.image(x)
    return x.over((channels, *slid(at, (height, width), 1, stride, 0)))


@op("pad_channels", family="pad", channels="moves", unchanged="all", nonnegative="keeps", constant=known.padded)
def pad_channels(at: At, x: ValueType, before: Whole = 0, after: Whole = 0) -> ValueType:
    """Zero channels before and after those of the input (option-A shortcut)."""
    channels = x.channels
    middle = at.fixed(channels)
    head = (at.fresh(before, "before"),) if before else ()
    tail = (at.fresh(after, "after"),) if after else ()
    return x.with_channels(Cat((*head, middle, *tail)) if head or tail else middle)
