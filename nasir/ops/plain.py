"""The ops nasir ships: structure and element-wise ones here; the other files of this room hold those of one kind."""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal

from annotated_types import MinLen, doc

from nasir.ir.infer import At
from nasir.ir.op import Sizes, Taken, op
from nasir.ir.space import Axis, Cat, Prod, Space, pin, size_of
from nasir.ir.types import FLOAT, DType, ValueType
from nasir.ops import constants as known
from nasir.ops.functions import gaussian_gated, hard_gated, hard_sigmoid, logistic, rectified, same, sigmoid_gated
from nasir.ops.windows import slid
from nasir.options.ranges import Count, Rate, Share, Whole

ANYTHING: tuple[Taken, ...] = ("integers", "unbatched")


@op("input", family="input", view=True, later=("channel_axis", "dtype"))
def input_(
    at: At,
    shape: Annotated[tuple[Count, ...], MinLen(1)],
    channel_axis: Annotated[
        Whole | None, doc("which axis holds the channels; null: the last of two, else the first")
    ] = None,
    dtype: Annotated[DType, doc("float32: the floating-point type that the network computes in")] = FLOAT,
) -> ValueType:
    """The network's input; `shape` without the batch axis: [C, H, W], [N], or [T, C] for tokens."""
    if channel_axis is not None and channel_axis >= len(shape):
        at.fail(f"channel_axis must be from 0 to {len(shape) - 1}, not {channel_axis}")
    value = ValueType(shape, channel_axis, dtype)
    if dtype != FLOAT:  # indices and masks have no channels
        return value
    channels = at.fresh(shape[value.channel_axis])
    channels.pin = "it is the input of the network"
    return value.with_channels(channels)


@op("identity", family="passive", pointwise=same, unchanged="all", nonnegative="keeps", view=True, takes=ANYTHING)
def identity(at: At, x: ValueType) -> ValueType:
    """The input, unchanged."""
    return x


@op("relu", family="activation", pointwise=rectified, unchanged="nonnegative", nonnegative="always")
def relu(at: At, x: ValueType) -> ValueType:
    """max(x, 0)."""
    return x


@op("gelu", family="activation", pointwise=gaussian_gated, unchanged="zero")
def gelu(at: At, x: ValueType) -> ValueType:
    """x * Phi(x), the exact form."""
    return x


@op("silu", family="activation", pointwise=sigmoid_gated, unchanged="zero")
def silu(at: At, x: ValueType) -> ValueType:
    """x * sigmoid(x)."""
    return x


@op("sigmoid", family="activation", pointwise=logistic, nonnegative="always")
def sigmoid(at: At, x: ValueType) -> ValueType:
    """1 / (1 + exp(-x))."""
    return x


@op("hardswish", family="activation", pointwise=hard_gated, unchanged="zero")
def hardswish(at: At, x: ValueType) -> ValueType:
    """x * relu6(x + 3) / 6."""
    return x


@op("hardsigmoid", family="activation", pointwise=hard_sigmoid, nonnegative="always")
def hardsigmoid(at: At, x: ValueType) -> ValueType:
    """relu6(x + 3) / 6."""
    return x


@op("softmax", family="activation", nonnegative="always", mixes=True)
def softmax(at: At, x: ValueType) -> ValueType:
    """Softmax over the channel axis."""
    return x


@op("dropout", family="passive", pointwise=same, unchanged="all", nonnegative="keeps", random=True, view=True)
def dropout(at: At, x: ValueType, p: Rate = 0.5) -> ValueType:
    """Zero each element with probability `p` while training, 0 <= p < 1."""
    return x


@op(
    "stochastic_depth",
    family="passive",
    channels="alone",
    unchanged="all",
    nonnegative="keeps",
    random=True,
    view=True,
    constant=known.window,
)
def stochastic_depth(at: At, x: ValueType, p: Share = 0.5, mode: Literal["row", "batch"] = "row") -> ValueType:
    """While training, all of a sample (`row`), or of the batch, is dropped with probability `p`, or divided by 1 - p.

    Huang et al. 2016, as torchvision has it.
    """
    return x


def _merge(at: At, inputs: tuple[ValueType, ...]) -> ValueType:
    first = inputs[0]
    for index, other in enumerate(inputs[1:], start=1):
        if len(other.axes) != len(first.axes):
            at.fail(
                f"inputs have shapes {first.shape} (from {at.source(0, first.channels)}) and "
                f"{other.shape} (from {at.source(index, other.channels)})"
            )
        if other.channel_axis != first.channel_axis:
            at.fail(
                f"inputs have their channels on axis {first.channel_axis + 1} (from {at.source(0, first.channels)}) "
                f"and on axis {other.channel_axis + 1} (from {at.source(index, other.channels)})"
            )
        axes = list(first.axes)
        for number, (a, b) in enumerate(zip(first.axes, other.axes, strict=True)):
            if a is b or a == b:
                continue
            if 1 in (a, b):  # one number for all of the other's
                axes[number] = b if a == 1 else a
                continue
            at.same(a, b, f"axis {number + 1}", (0, index))
        first = first.over(tuple(axes))
    return first


@op("add", family="sum", channels="alone", nonnegative="keeps")
def add(at: At, *x: ValueType) -> ValueType:
    """Element-wise sum of inputs of one shape."""
    return _merge(at, x)


@op("mul", family="product", channels="alone", nonnegative="keeps")
def mul(at: At, *x: ValueType) -> ValueType:
    """Element-wise product of inputs of one shape."""
    return _merge(at, x)


@op("mean", family="mean", channels="alone", nonnegative="keeps")
def mean(at: At, *x: ValueType) -> ValueType:
    """Element-wise mean of inputs of one shape (an ensemble of branches)."""
    return _merge(at, x)


@op("concat", family="concat", channels="moves", nonnegative="keeps")
def concat(at: At, *x: ValueType) -> ValueType:
    """Inputs one after another along the channel axis; the other axes must agree."""
    first = x[0]
    rest = first.with_channels(0).shape
    for index, other in enumerate(x[1:], start=1):
        if other.with_channels(0).shape != rest:
            at.fail(
                f"inputs have shapes {first.shape} (from {at.source(0, first.channels)}) and {other.shape} "
                f"(from {at.source(index, other.channels)}); only axis {first.channel_axis + 1} may differ"
            )
    parts: list[Space] = []
    for value in x:
        channels = value.channels
        parts.append(at.fresh(channels) if isinstance(channels, int) else channels)
    return first.with_channels(Cat(tuple(parts)))


@op("split", family="split", channels="moves", nonnegative="keeps", view=True, constant=known.split)
def split(at: At, x: ValueType, sizes: tuple[Count, ...]) -> tuple[ValueType, ...]:
    """Consecutive parts of the channel axis, one output each; `sizes` must sum to it."""
    channels = x.shape[x.channel_axis]
    if sum(sizes) != channels:
        at.fail(f"sizes {list(sizes)} sum to {sum(sizes)}, the input has {channels} channels")
    parts = tuple([at.fresh(size, "sizes", entry) for entry, size in enumerate(sizes)])
    at.same(x.channels, Cat(parts), "channels", (0, 0))
    return tuple([x.with_channels(part) for part in parts])


@op("slice", family="split", channels="moves", nonnegative="keeps", view=True, constant=known.part)
def slice_(at: At, x: ValueType, start: Whole, stop: Count) -> ValueType:
    """Channels start <= c < stop."""
    size = x.shape[x.channel_axis]
    if not 0 <= start < stop <= size:
        at.fail(f"needs 0 <= start < stop <= {size}, got start {start}, stop {stop}")
    middle = at.fresh(stop - start)
    before = (at.fresh(start),) if start else ()
    after = (at.fresh(size - stop),) if stop < size else ()
    at.same(x.channels, Cat((*before, middle, *after)), "channels", (0, 0))
    if before:
        at.mirror("start", before[0])
    at.mirror("stop", Cat((*before, middle)))
    return x.with_channels(middle)


@op("permute", family="shape", channels="moves", nonnegative="keeps", view=True, constant=known.permuted)
def permute(at: At, x: ValueType, order: tuple[Whole, ...]) -> ValueType:
    """The axes in another order, without the batch axis: order [1, 2, 0] makes (C, H, W) into (H, W, C)."""
    if sorted(order) != list(range(len(x.axes))):
        at.fail(f"order {list(order)} does not name each of {len(x.axes)} axes once, from 0 to {len(x.axes) - 1}")
    return x.over(tuple([x.axes[number] for number in order]), order.index(x.channel_axis))


@op("global_avg_pool", family="shape", channels="alone", nonnegative="keeps", constant=known.mean_of_places)
def global_avg_pool(at: At, x: ValueType) -> ValueType:
    """Mean over height and width: (C, H, W) -> (C,)."""
    return x.over((at.image(x)[0],))


@op("flatten", family="shape", channels="alone", nonnegative="keeps", view=True, constant=known.reshaped)
def flatten(at: At, x: ValueType) -> ValueType:
    """All axes as one, row-major: channels stay resizable."""
    return x.over((x.axes[0] if len(x.axes) == 1 else Prod(x.axes),))


@op("reshape", family="shape", channels="moves", nonnegative="keeps", view=True, constant=known.reshaped)
def reshape(at: At, x: ValueType, shape: tuple[Count, ...]) -> ValueType:
    """The same elements, row-major, in another shape.

    Axes that stay in front keep their space; a flattening is a product; anything else pins its atoms.
    """
    if prod(shape) != prod(x.shape):
        at.fail(f"cannot reshape {x.shape} ({prod(x.shape)} elements) to {shape} ({prod(shape)})")
    axes: list[Axis] = []
    rest = list(x.axes)
    for number, size in enumerate(shape):
        if rest and size_of(rest[0]) == size:
            axes.append(rest.pop(0))
            if axes[-1] is not None and not isinstance(axes[-1], int):
                at.mirror("shape", axes[-1], number)
            continue
        if number == len(shape) - 1 and rest:
            merged = Prod(tuple(rest))
            at.mirror("shape", merged, number)
            axes.append(merged)
            rest = []
            continue
        for axis in rest:
            pin(axis, f"reshape '{at.label}' turns {x.shape} into {shape}, which is no product of channels")
        return ValueType((*axes, *shape[number:]), None, x.dtype, x.batch)
    return ValueType(tuple(axes), None, x.dtype, x.batch)


@op("subsample", family="shape", channels="alone", nonnegative="keeps", view=True, constant=known.window)
def subsample(at: At, x: ValueType, stride: Sizes = 2) -> ValueType:
    """Every `stride`-th row and column (option-A shortcut, He et al. 2015, section 3.3)."""
    channels, height, width = at.image(x)
    return x.over((channels, *slid(at, (height, width), 1, stride, 0)))


@op("pad_channels", family="pad", channels="moves", unchanged="all", nonnegative="keeps", constant=known.padded)
def pad_channels(at: At, x: ValueType, before: Whole = 0, after: Whole = 0) -> ValueType:
    """Zero channels before and after those of the input (option-A shortcut)."""
    channels = x.channels
    middle = at.fresh(channels) if isinstance(channels, int) else channels
    head = (at.fresh(before, "before"),) if before else ()
    tail = (at.fresh(after, "after"),) if after else ()
    return x.with_channels(Cat((*head, middle, *tail)) if head or tail else middle)
