"""Pools: maxima and means over windows of signals, images and volumes; attributes are torch's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from math import prod

import numpy as np

from nasir.ir.infer import At
from nasir.ir.op import Pads, PerAxis, Sizes, op, per_axis
from nasir.ir.types import JSON, ValueType
from nasir.ops import constants as known
from nasir.ops.constants import Known, NodeView
from nasir.ops.windows import each, over_places, places, slid, times
from nasir.options.ranges import Count, Positive


@op(
    "max_pool",
    family="pool",
    channels="alone",
    nonnegative="keeps",
    constant=known.window,
    later=("dilation", "ceil_mode"),
)
def max_pool(
    at: At,
    x: ValueType,
    kernel: Sizes,
    stride: Pads = 0,
    padding: Pads = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> ValueType:
    """Maximum over windows; stride 0 means the kernel size. `ceil_mode`: the last window may hang over the end."""
    out = _pooled(at, x, kernel, stride, padding, dilation, ceil_mode)
    if not reaches(x, padding, dilation):
        at.fail(f"dilation {dilation} passes over an axis of {times(x.shape[1:])}: a window may hold padding only")
    return out


def reaches(x: ValueType, padding: PerAxis, dilation: PerAxis) -> bool:
    """Whether every window of a pool holds more than padding."""
    rank = len(x.shape) - 1
    spans = zip(x.shape[1:], per_axis(padding, rank), per_axis(dilation, rank), strict=True)
    return all(size >= step or not pad for size, pad, step in spans)


def _averaged(node: NodeView, x: Known) -> Known:
    """Means over windows: what is the same all over stays so, times the share of a window that the mean counts."""
    if x is None:
        return None
    evenly, shares = known.even(x, node.inputs[0]), set(_shares(node))
    return evenly * shares.pop() if len(shares) == 1 else known.zeros_only(evenly)


def _shares(node: NodeView) -> Iterator[float]:
    """Of each window, its entries that are no padding by the number that their sum is divided by."""
    attrs, sizes, counts = node.attrs, node.inputs[0].shape[1:], node.out.shape[1:]
    divisor, with_padding = attrs["divisor_override"], attrs["count_include_pad"]
    if divisor is None and not with_padding:
        yield 1.0
        return
    rows = []  # of each axis: (entries, entries or places of the padding) of each window
    for axis, (length, count) in enumerate(zip(sizes, counts, strict=True)):
        window, hop, pad = (
            per_axis(value, len(sizes))[axis]
            for value in (attrs["kernel"], attrs["stride"] or attrs["kernel"], attrs["padding"])
        )
        ends = [(n * hop - pad, n * hop - pad + window) for n in range(count)]
        rows.append({(min(end, length) - max(start, 0), min(end, length + pad) - start) for start, end in ends})
    for picked in product(*rows):
        entries, places_counted = prod(a for a, _ in picked), prod(b for _, b in picked)
        yield entries / (divisor or places_counted)


def _average_of_volume(
    attrs: Mapping[str, JSON], inputs: tuple[ValueType, ...], out: ValueType
) -> tuple[str, str] | None:
    return ("averages windows of a volume", "use a max_pool or a convolution") if len(out.shape) == 4 else None


@op(
    "avg_pool",
    family="pool",
    averages=lambda attrs: True,
    channels="alone",
    nonnegative="keeps",
    constant=_averaged,
    unordered=_average_of_volume,
    later=("ceil_mode", "count_include_pad", "divisor_override"),
)
def avg_pool(
    at: At,
    x: ValueType,
    kernel: Sizes,
    stride: Pads = 0,
    padding: Pads = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Count | None = None,
) -> ValueType:
    """Mean over windows; stride 0 means the kernel size. Places of the padding count if `count_include_pad`.

    `ceil_mode`: the last window may hang over the end; what lies beyond the padding never counts. `divisor_override`:
    sums are divided by this number instead (images and volumes only, as in torch).
    """
    out = _pooled(at, x, kernel, stride, padding, 1, ceil_mode)
    if divisor_override is not None and len(x.shape) == 2:
        at.fail("divisor_override needs an image or a volume; scale a signal by an op of its own")
    return out


def _norms(node: NodeView, x: Known) -> Known:
    """What is the same all over stays so: each window counts as full."""
    if x is None:
        return None
    p, entries = node.attrs["p"], prod(per_axis(node.attrs["kernel"], len(node.out.shape) - 1))
    with np.errstate(invalid="ignore"):  # of numbers below zero
        norm: known.Values = (entries * known.even(x, node.inputs[0]) ** p) ** (1 / p)
    return norm


@op("lp_pool", family="pool", channels="alone", nonnegative="keeps", constant=_norms, unordered=_average_of_volume)
def lp_pool(
    at: At, x: ValueType, kernel: Sizes, stride: Pads = 0, p: Positive = 2.0, ceil_mode: bool = False
) -> ValueType:
    """p-norms over windows, without absolute values: (sum of x^p)^(1/p); stride 0 means the kernel size.

    `ceil_mode`: the last window may hang over the end, and is then filled up with the mean of what it holds.
    """
    return _pooled(at, x, kernel, stride, 0, 1, ceil_mode)


def _pooled(
    at: At, x: ValueType, kernel: PerAxis, stride: PerAxis, padding: PerAxis, dilation: PerAxis, ceil_mode: bool
) -> ValueType:
    channels, sizes = places(at, x)
    out = slid(at, sizes, kernel, stride or kernel, padding, dilation, ceil_mode=ceil_mode)
    if any(2 * pad > window for window, pad in zip(*[per_axis(v, len(sizes)) for v in (kernel, padding)], strict=True)):
        at.fail(f"padding {padding} is more than half the kernel {kernel}")
    return over_places(x, channels, out)


def even_windows(x: ValueType, size: PerAxis) -> tuple[int, ...] | None:
    """Sizes of the equal windows, side by side, that pool a value to `size`; None where sizes do not divide.

    Windows of an adaptive pool differ in size or overlap there.
    """
    sides = x.shape[1:]
    wanted = per_axis(size, len(sides))
    if any(side % count for side, count in zip(sides, wanted, strict=True)):
        return None
    return tuple([side // count for side, count in zip(sides, wanted, strict=True)])


def uneven_windows(attrs: Mapping[str, JSON], inputs: tuple[ValueType, ...], out: ValueType) -> tuple[str, str] | None:
    """Why an adaptive pool has no deterministic gradient on CUDA, and the remedy; None where it has."""
    if even_windows(inputs[0], out.shape[1:]) is not None:
        return None
    sides, wanted = inputs[0].shape[1:], out.shape[1:]
    near = [
        max(n for n in range(1, min(side, most) + 1) if side % n == 0) for side, most in zip(sides, wanted, strict=True)
    ]
    return (
        f"pools {times(sides)} to {times(wanted)} by windows that differ in size or overlap",
        f"use a size that divides {times(sides)}, such as {near[0] if len(set(near)) == 1 else near}",
    )


def _unordered_means(
    attrs: Mapping[str, JSON], inputs: tuple[ValueType, ...], out: ValueType
) -> tuple[str, str] | None:
    uneven = uneven_windows(attrs, inputs, out)
    if uneven is not None or attrs["size"] == 1:
        return uneven
    return _average_of_volume(attrs, inputs, out)


@op(
    "adaptive_avg_pool",
    family="pool",
    averages=lambda attrs: True,
    channels="alone",
    nonnegative="keeps",
    constant=known.window,
    unordered=_unordered_means,
)
def adaptive_avg_pool(at: At, x: ValueType, size: Sizes) -> ValueType:
    """Mean over windows chosen so that the output is `size` (height, width)."""
    return _adapted(at, x, size)


@op(
    "adaptive_max_pool",
    family="pool",
    channels="alone",
    nonnegative="keeps",
    constant=known.window,
    unordered=uneven_windows,
)
def adaptive_max_pool(at: At, x: ValueType, size: Sizes) -> ValueType:
    """Maximum over windows chosen so that the output is `size` (height, width)."""
    return _adapted(at, x, size)


def _adapted(at: At, x: ValueType, size: PerAxis) -> ValueType:
    channels, sides = places(at, x)
    (wanted,) = each(at, len(sides), size=size)
    return over_places(x, channels, wanted)
