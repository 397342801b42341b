"""Ops that rearrange axes: parts of an axis, axes joined, added, removed, put in another order.

Axes are counted without the batch axis.
"""

from __future__ import annotations

from math import prod
from typing import Annotated, TypeAlias

from annotated_types import doc

from nasir.ir.infer import At
from nasir.ir.op import Taken, op
from nasir.ir.space import Cat, Prod, pin, resolve, size_of
from nasir.ir.types import ValueType
from nasir.ir.unify import regroup
from nasir.ops import axis_constants as known
from nasir.options.ranges import Count, Whole

ANYTHING: tuple[Taken, ...] = ("integers", "unbatched")
AxisOrChannels: TypeAlias = Annotated[Whole | None, doc("which axis, without the batch axis; null: the channels")]


def _number(at: At, x: ValueType, axis: int | None, attr: str = "axis") -> int:
    """The number of an axis that an attribute names; TypeRuleError where there is none."""
    number = x.channel_axis if axis is None else axis
    if number >= len(x.axes):
        at.fail(f"{attr} must be from 0 to {len(x.axes) - 1}, not {number}, of an input of shape {x.shape}")
    return number


def _alike(at: At, first: ValueType, other: ValueType, index: int) -> None:
    """TypeRuleError for values of which one has no batch axis, or which hold numbers of several kinds."""
    for what, a, b in (("rows a sample", first.batch, other.batch), ("dtype", first.dtype, other.dtype)):
        if a != b:
            at.fail(
                f"inputs differ on {what}: {a} (from {at.source(0, first.channels)}) and "
                f"{b} (from {at.source(index, other.channels)})"
            )


def _named(x: ValueType, number: int) -> str:
    return "channels" if number == x.channel_axis else f"axis {number + 1}"


@op(
    "concat",
    family="concat",
    channels="moves",
    nonnegative="keeps",
    takes=ANYTHING,
    constant=known.joined,
    later=("axis",),
)
def concat(at: At, *x: ValueType, axis: AxisOrChannels = None) -> ValueType:
    """Inputs one after another along the channels, or another axis; the other axes must agree."""
    first, number = x[0], _number(at, x[0], axis)
    axes = list(first.axes)
    for index, other in enumerate(x[1:], start=1):
        _alike(at, first, other, index)
        alike = len(other.axes) == len(axes) and other.channel_axis == first.channel_axis
        if not alike or other.with_axis(number, 0).shape != first.with_axis(number, 0).shape:
            at.fail(
                f"inputs have shapes {first.shape} (from {at.source(0, first.channels)}) and {other.shape} "
                f"(from {at.source(index, other.channels)}); only axis {number + 1} may differ"
            )
        for place, (a, b) in enumerate(zip(axes, other.axes, strict=True)):
            if place != number and a is not b and a != b:
                at.same(a, b, f"axis {place + 1}", (0, index))
    pieces = [value.axes[number] for value in x]
    if all([isinstance(piece, int) for piece in pieces]):
        return first.with_axis(number, sum([size_of(piece) for piece in pieces]))
    return first.with_axis(number, Cat(tuple([at.fixed(piece) for piece in pieces])))


@op(
    "split",
    family="split",
    channels="moves",
    nonnegative="keeps",
    view=True,
    takes=ANYTHING,
    constant=known.split,
    later=("axis",),
)
def split(at: At, x: ValueType, sizes: tuple[Count, ...], axis: AxisOrChannels = None) -> tuple[ValueType, ...]:
    """Consecutive parts of the channels, or of another axis, one output each; `sizes` must sum to it."""
    number = _number(at, x, axis)
    whole, count = x.axes[number], x.shape[number]
    if sum(sizes) != count:
        what = "channels" if number == x.channel_axis else f"places on axis {number + 1}"
        at.fail(f"sizes {list(sizes)} sum to {sum(sizes)}, the input has {count} {what}")
    if isinstance(whole, int):
        return tuple([x.with_axis(number, size) for size in sizes])
    parts = tuple([at.fresh(size, "sizes", entry) for entry, size in enumerate(sizes)])
    at.same(whole, Cat(parts), _named(x, number), (0, 0))
    return tuple([x.with_axis(number, part) for part in parts])


@op(
    "slice",
    family="split",
    channels="moves",
    nonnegative="keeps",
    view=True,
    takes=ANYTHING,
    constant=known.part,
    later=("axis", "step"),
)
def slice_(at: At, x: ValueType, start: Whole, stop: Count, axis: AxisOrChannels = None, step: Count = 1) -> ValueType:
    """Channels start <= c < stop, or places of another axis; of these each `step`-th, from the first one on."""
    number = _number(at, x, axis)
    whole, size = x.axes[number], x.shape[number]
    if not 0 <= start < stop <= size:
        at.fail(f"needs 0 <= start < stop <= {size}, got start {start}, stop {stop}")
    if isinstance(whole, int):
        return x.with_axis(number, -(-(stop - start) // step))
    if step > 1:
        pin(whole, f"slice '{at.label}' takes each {step}th of it")
        return x.with_axis(number, -(-(stop - start) // step))
    middle = at.fresh(stop - start)
    before = (at.fresh(start),) if start else ()
    after = (at.fresh(size - stop),) if stop < size else ()
    at.same(whole, Cat((*before, middle, *after)), _named(x, number), (0, 0))
    if before:
        at.mirror("start", before[0])
    at.mirror("stop", Cat((*before, middle)))
    return x.with_axis(number, middle)


@op("select", family="shape", channels="moves", nonnegative="keeps", view=True, takes=ANYTHING, constant=known.selected)
def select(at: At, x: ValueType, axis: Whole, index: Whole = 0) -> ValueType:
    """One place of an axis, which goes: index 0 of axis 1 makes (C, H, W) into (C, W)."""
    number = _number(at, x, axis)
    if index >= x.shape[number]:
        at.fail(f"index must be from 0 to {x.shape[number] - 1}, not {index}")
    pin(x.axes[number], f"select '{at.label}' takes one place of it")
    return without(x, number)


@op(
    "unbind",
    family="shape",
    channels="moves",
    nonnegative="keeps",
    view=True,
    takes=ANYTHING,
    constant=known.unbound,
)
def unbind(at: At, x: ValueType, axis: Whole = 0) -> tuple[ValueType, ...]:
    """Each place of an axis, which goes, as an output of its own."""
    number = _number(at, x, axis)
    pin(x.axes[number], f"unbind '{at.label}' puts out each place of it")
    return (without(x, number),) * x.shape[number]


def without(x: ValueType, number: int) -> ValueType:
    """A value like it without an axis; the channels stay where they are, unless that axis held them."""
    rest = (*x.axes[:number], *x.axes[number + 1 :])
    channels = None if number == x.channel_axis else x.channel_axis - (number < x.channel_axis)
    return ValueType(rest, channels, x.dtype, x.batch)


@op("stack", family="concat", channels="moves", nonnegative="keeps", takes=ANYTHING, constant=known.stacked)
def stack(at: At, *x: ValueType, axis: Whole = 0) -> ValueType:
    """Inputs of one shape as the places of a new axis, whose number is `axis`."""
    first = x[0]
    if axis > len(first.axes):
        at.fail(f"axis must be from 0 to {len(first.axes)}, not {axis}, for inputs of shape {first.shape}")
    for index, other in enumerate(x[1:], start=1):
        _alike(at, first, other, index)
        if len(other.axes) != len(first.axes) or other.channel_axis != first.channel_axis:
            at.fail(
                f"inputs have shapes {first.shape} (from {at.source(0, first.channels)}) and {other.shape} "
                f"(from {at.source(index, other.channels)}); bring the same to it"
            )
        for number, (a, b) in enumerate(zip(first.axes, other.axes, strict=True)):
            if a is not b and a != b:
                at.same(a, b, f"axis {number + 1}", (0, index))
    axes = (*first.axes[:axis], len(x), *first.axes[axis:])
    return ValueType(axes, first.channel_axis + (axis <= first.channel_axis), first.dtype, first.batch)


@op(
    "permute", family="shape", channels="moves", nonnegative="keeps", view=True, takes=ANYTHING, constant=known.permuted
)
def permute(at: At, x: ValueType, order: tuple[Whole, ...]) -> ValueType:
    """The axes in another order, without the batch axis: order [1, 2, 0] makes (C, H, W) into (H, W, C)."""
    if sorted(order) != list(range(len(x.axes))):
        at.fail(f"order {list(order)} does not name each of {len(x.axes)} axes once, from 0 to {len(x.axes) - 1}")
    return x.over(tuple([x.axes[number] for number in order]), order.index(x.channel_axis))


@op(
    "flatten", family="shape", channels="alone", nonnegative="keeps", view=True, takes=ANYTHING, constant=known.reshaped
)
def flatten(at: At, x: ValueType) -> ValueType:
    """All axes as one, row-major: channels stay resizable."""
    if not x.axes:
        at.fail("one number for each sample has no axes to flatten")
    return x.over((x.axes[0] if len(x.axes) == 1 else resolve(Prod(x.axes)),))


@op(
    "contiguous",
    family="passive",
    channels="alone",
    unchanged="all",
    nonnegative="keeps",
    takes=ANYTHING,
    constant=known.untouched,
)
def contiguous(at: At, x: ValueType) -> ValueType:
    """The same value, which lies in memory row by row from here on: what comes next may be faster, or add up in another
    order."""
    return x


@op(
    "layout",
    family="passive",
    channels="moves",
    unchanged="all",
    nonnegative="keeps",
    view=True,
    takes=ANYTHING,
    constant=known.untouched,
)
def layout(at: At, x: ValueType, channel_axis: Whole) -> ValueType:
    """The same value, of which another axis holds the channels from here on."""
    return ValueType(x.axes, _number(at, x, channel_axis, "channel_axis"), x.dtype, x.batch)


@op(
    "reshape",
    family="shape",
    channels="moves",
    nonnegative="keeps",
    view=True,
    takes=(*ANYTHING, "rows"),
    constant=known.reshaped,
    later=("channel_axis", "rows"),
)
def reshape(
    at: At,
    x: ValueType,
    shape: tuple[Count, ...],
    channel_axis: Annotated[
        Whole | None, doc("which axis of the result holds the channels; null: the last of two, else the first")
    ] = None,
    rows: Annotated[Count | None, doc("rows of the batch for each sample; null: those of the input")] = None,
) -> ValueType:
    """The same elements, row-major, in another shape.

    Factors of the axes are dealt out from the left: an axis that ends within a space cuts it into a product, and axes
    that become one are a product. Where sizes do not divide each other, and along the batch, spaces are pinned.
    """
    batch = x.batch if rows is None else rows
    before, after = prod(x.shape) * max(x.batch, 1), prod(shape) * max(batch, 1)
    if before != after:
        at.fail(f"cannot reshape {x.shape} ({before} elements) to {shape} ({after})")
    if channel_axis is not None and channel_axis >= len(shape):
        at.fail(f"channel_axis must be from 0 to {len(shape) - 1}, not {channel_axis}")
    if rows is not None and not x.batch:
        at.fail("a value without a batch axis has no rows of it; leave `rows` out")
    place = f"reshape '{at.label}'"
    if batch == x.batch:
        axes = regroup(x.axes, shape, place)
    else:
        first, *axes = regroup((x.batch, *x.axes), (batch, *shape), place)
        pin(first, f"{place} makes it a part of the batch")
    for number, axis in enumerate(axes):
        if not isinstance(axis, int):
            at.mirror("shape", axis, number)
    return ValueType(tuple(axes), channel_axis, x.dtype, batch)
