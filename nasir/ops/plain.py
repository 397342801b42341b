"""Ops of structure: inputs, sums and products; those that rearrange axes lie in `axes.py`."""

from __future__ import annotations

from typing import Annotated

from annotated_types import doc

from nasir.ir.infer import At
from nasir.ir.op import Sizes, op
from nasir.ir.space import Cat
from nasir.ir.types import FLOAT, DType, ValueType
from nasir.ops import constants as known
from nasir.ops.merging import merged
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


@op("add", family="sum", channels="alone", nonnegative="keeps", takes=("unbatched",))
def add(at: At, *x: ValueType) -> ValueType:
    """Element-wise sum of inputs of one shape; weights are the same for all samples."""
    return merged(at, x)


@op("mul", family="product", channels="alone", nonnegative="keeps", takes=("unbatched",))
def mul(at: At, *x: ValueType) -> ValueType:
    """Element-wise product of inputs of one shape; weights are the same for all samples."""
    return merged(at, x)


@op("mean", family="mean", channels="alone", nonnegative="keeps")
def mean(at: At, *x: ValueType) -> ValueType:
    """Element-wise mean of inputs of one shape (an ensemble of branches)."""
    return merged(at, x)


@op(
    "global_avg_pool",
    family="shape",
    averages=lambda attrs: True,
    channels="alone",
    nonnegative="keeps",
    constant=known.mean_of_places,
)
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
