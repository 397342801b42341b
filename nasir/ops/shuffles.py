"""Ops after which the same numbers lie at other places, or lie there several times.

Axes are counted without the batch axis.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import MinLen, doc

from nasir.ir.infer import At
from nasir.ir.op import op
from nasir.ir.space import Prod, pin, resolve
from nasir.ir.types import ValueType
from nasir.ir.unify import regroup
from nasir.ops import axis_constants as known
from nasir.ops.axes import ANYTHING
from nasir.options.ranges import Count, Whole


@op(
    "channel_shuffle",
    family="shape",
    channels="moves",
    nonnegative="keeps",
    takes=("integers",),
    constant=known.shuffled,
)
def channel_shuffle(at: At, x: ValueType, groups: Count) -> ValueType:
    """The first channel of each of `groups` equal groups, then the second of each (Zhang et al. 2018, section 3.1)."""
    channels, _, _ = at.image(x)
    if x.shape[0] % groups:
        at.fail(f"groups {groups} must divide the {x.shape[0]} channels")
    group, unit = regroup((channels,), (groups, x.shape[0] // groups), f"channel_shuffle '{at.label}'")
    if not isinstance(group, int):
        at.mirror("groups", group)
    return x.with_axis(0, resolve(Prod((unit, group))))


@op(
    "pixel_shuffle",
    family="shape",
    channels="moves",
    nonnegative="keeps",
    takes=("integers",),
    constant=known.spread,
)
def pixel_shuffle(at: At, x: ValueType, factor: Count) -> ValueType:
    """Each factor * factor consecutive channels as a square of places: (C * r * r, H, W) -> (C, H * r, W * r).

    Shi et al. 2016, section 3.3.
    """
    channels, height, width = at.image(x)
    square = factor * factor
    if x.shape[0] % square:
        at.fail(f"factor {factor} needs a multiple of {square} channels, got {x.shape[0]}")
    kept, places = regroup((channels,), (x.shape[0] // square, square), f"pixel_shuffle '{at.label}'")
    pin(places, f"pixel_shuffle '{at.label}' makes places of it")
    return x.over((kept, height * factor, width * factor))


@op(
    "pixel_unshuffle",
    family="shape",
    channels="moves",
    nonnegative="keeps",
    takes=("integers",),
    constant=known.gathered,
)
def pixel_unshuffle(at: At, x: ValueType, factor: Count) -> ValueType:
    """Squares of places as channels: (C, H * r, W * r) -> (C * r * r, H, W), the reverse of pixel_shuffle."""
    channels, height, width = at.image(x)
    if height % factor or width % factor:
        at.fail(f"factor {factor} must divide both sides of the {height}x{width} input")
    made = channels * factor * factor if isinstance(channels, int) else Prod((channels, factor * factor))
    return x.over((made, height // factor, width // factor))


@op("roll", family="shape", channels="moves", nonnegative="keeps", takes=ANYTHING, constant=known.rolled)
def roll(
    at: At,
    x: ValueType,
    shifts: Annotated[tuple[int, ...], MinLen(1), doc("how many places each axis is shifted by")],
    axes: tuple[Whole, ...],
) -> ValueType:
    """Axes shifted around: what leaves at the end comes in again at the start."""
    if len(shifts) != len(axes) or max(axes) >= len(x.axes):
        at.fail(
            f"needs an axis from 0 to {len(x.axes) - 1} for each shift, got shifts {list(shifts)}, axes {list(axes)}"
        )
    for number in axes:
        pin(x.axes[number], f"roll '{at.label}' shifts it around")
    return x


@op("repeat", family="shape", channels="moves", nonnegative="keeps", takes=ANYTHING, constant=known.repeated)
def repeat(
    at: At,
    x: ValueType,
    counts: Annotated[tuple[Count, ...], doc("how often, for each axis")],
    each: Annotated[bool, doc("each place beside its copies, not whole axes one after another")] = False,
) -> ValueType:
    """The value several times along its axes: counts [1, 2, 1] makes (C, H, W) into (C, 2 * H, W)."""
    if len(counts) != len(x.axes):
        at.fail(f"needs a count for each of {len(x.axes)} axes of shape {x.shape}, got {list(counts)}")
    axes = []
    for axis, count in zip(x.axes, counts, strict=True):
        if isinstance(axis, int) or count == 1:
            axes.append(axis * count if isinstance(axis, int) else axis)
        else:
            axes.append(Prod((axis, count)) if each else Prod((count, axis)))
    return x.over(tuple(axes))
