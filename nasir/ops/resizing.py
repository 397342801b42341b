"""Places added at the borders, and values resized: padding and interpolation; attributes are torch's."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor
from typing import Annotated, Literal

import numpy as np
from annotated_types import Gt, MinLen

from nasir.ir.infer import At
from nasir.ir.op import Pads, PerAxis, Sizes, op, shortest
from nasir.ir.space import pin
from nasir.ir.types import JSON, ValueType
from nasir.ops import constants as known
from nasir.ops.constants import Known, NodeView
from nasir.ops.convolutions import check_padding
from nasir.ops.pools import uneven_windows
from nasir.ops.windows import each, over_places, places
from nasir.options import Canonical

Factor = Annotated[float, Gt(0)]
Factors = Annotated[Factor | Annotated[tuple[Factor, ...], MinLen(1)], Canonical(shortest)]


def _surrounded(node: NodeView, x: Known) -> Known:
    """Only the number that is put at the borders stays constant there."""
    if x is None:
        return None
    evenly = known.even(x, node.inputs[0])
    if node.attrs["mode"] != "constant":
        return evenly
    return np.where(evenly == node.attrs["value"], evenly, np.nan)


def _reflected(attrs: Mapping[str, JSON], inputs: tuple[ValueType, ...], out: ValueType) -> tuple[str, str] | None:
    return ("pads by reflection", "use `mode: replicate`") if attrs["mode"] == "reflect" else None


@op("pad", family="shape", channels="alone", constant=_surrounded, unordered=_reflected)
def pad(
    at: At,
    x: ValueType,
    before: Pads = 0,
    after: Pads = 0,
    mode: Literal["constant", "reflect", "replicate", "circular"] = "constant",
    value: float = 0.0,
) -> ValueType:
    """Places added before and after those along the axes beside the channels; `value`: what constant ones hold."""
    if mode != "constant":
        places(at, x)
        if value != 0.0:
            at.fail(f"value {value} is for mode: constant; leave it out")
    beside = [number for number in range(len(x.axes)) if number != x.channel_axis]
    first, last = each(at, len(beside), before=before, after=after)
    check_padding(at, mode, tuple([x.shape[number] for number in beside]), first, last)
    axes = list(x.axes)
    for number, head, tail in zip(beside, first, last, strict=True):
        if head or tail:
            pin(axes[number], f"pad '{at.label}' adds places to it")
            axes[number] = x.shape[number] + head + tail
    return x.over(tuple(axes))


Interpolation = Literal["nearest", "nearest-exact", "linear", "bilinear", "trilinear", "area"]
LINEAR = {"linear": 1, "bilinear": 2, "trilinear": 3}
"""Modes for one number of axes only."""


def _unordered(attrs: Mapping[str, JSON], inputs: tuple[ValueType, ...], out: ValueType) -> tuple[str, str] | None:
    mode = attrs["mode"]
    if mode == "area":
        return uneven_windows(attrs, inputs, out)
    return (f"interpolates by mode {mode}", "use `mode: nearest`") if mode in LINEAR else None


@op(
    "interpolate",
    family="shape",
    channels="alone",
    nonnegative="keeps",
    constant=known.window,
    unordered=_unordered,
    later=("antialias",),
)
def interpolate(
    at: At,
    x: ValueType,
    size: Sizes | None = None,
    scale_factor: Factors | None = None,
    mode: Interpolation = "nearest",
    align_corners: bool = False,
    antialias: bool = False,
) -> ValueType:
    """The places resized to `size`, or by `scale_factor`, rounded down; one of the two is given.

    Where it is, the factor itself says which places are read, as in torch. `align_corners`: of linear modes, the outer
    places of input and output are the same. `antialias`: of bilinear mode, fewer places are means over all that there
    were.
    """
    channels, sizes = places(at, x)
    rank = len(sizes)
    if LINEAR.get(mode, rank) != rank:
        fits = next(word for word, count in LINEAR.items() if count == rank)
        at.fail(f"mode {mode} is for {LINEAR[mode]} axes beside the channels, the input has {rank}; use {fits}")
    if align_corners and mode not in LINEAR:
        at.fail(f"align_corners is for linear modes, not for {mode}; leave it out")
    if antialias and mode != "bilinear":
        at.fail(f"antialias is for mode bilinear, not for {mode}; leave it out")
    return over_places(x, channels, _resized(at, sizes, size, scale_factor))


def _cubic(attrs: Mapping[str, JSON], inputs: tuple[ValueType, ...], out: ValueType) -> tuple[str, str]:
    return ("interpolates by cubic polynomials", "use an interpolate by `mode: nearest`")


@op("bicubic", family="shape", channels="alone", constant=known.window, unordered=_cubic)
def bicubic(
    at: At,
    x: ValueType,
    size: Sizes | None = None,
    scale_factor: Factors | None = None,
    align_corners: bool = False,
    antialias: bool = False,
) -> ValueType:
    """The places of an image resized as by `interpolate`, by cubic polynomials, which go beyond the numbers read."""
    channels, sizes = places(at, x)
    if len(sizes) != 2:
        at.fail(f"it is for images, the input has {len(sizes)} axes beside the channels; use interpolate")
    return over_places(x, channels, _resized(at, sizes, size, scale_factor))


def _resized(
    at: At, sizes: tuple[int, ...], size: PerAxis | None, scale_factor: float | tuple[float, ...] | None
) -> tuple[int, ...]:
    """The sizes that come out."""
    rank = len(sizes)
    if (size is None) is (scale_factor is None):
        at.fail("give one of size (such as 32) and scale_factor (such as 2)")
    if scale_factor is None:
        (made,) = each(at, rank, size=size or 0)
        return made
    factors = scale_factor if isinstance(scale_factor, tuple) else (scale_factor,) * rank
    if len(factors) != rank:
        at.fail(f"scale_factor {list(factors)} holds {len(factors)} numbers, for {rank} axes beside the channels")
    made = tuple([floor(length * factor) for length, factor in zip(sizes, factors, strict=True)])
    if min(made) < 1:
        at.fail(f"scale_factor {scale_factor} leaves nothing of an axis of {sizes}; use a larger one")
    return made
