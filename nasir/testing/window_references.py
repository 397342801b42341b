"""References of ops over windows: convolutions, pools, padding, interpolation, over any number of axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from nasir.ir import per_axis
from nasir.ir.op import PerAxis
from nasir.testing.interpreter import Array, Attrs, Weights, biased, reference


def _windows(
    x: Array,
    kernel: PerAxis,
    stride: PerAxis,
    ends: Sequence[tuple[int, int]],
    dilation: PerAxis = 1,
    **pad: object,
) -> Array:
    """[N, C, places..., window...]: what the window sees at each of its places; `pad` as of numpy."""
    rank = x.ndim - 2
    kernel, stride, dilation = (per_axis(value, rank) for value in (kernel, stride, dilation))
    padded = np.pad(x, [(0, 0), (0, 0), *ends], **pad)  # type: ignore[call-overload]
    spans = tuple([step * (size - 1) + 1 for size, step in zip(kernel, dilation, strict=True)])
    seen = sliding_window_view(padded, spans, axis=tuple(range(2, 2 + rank)))
    steps = [slice(None, None, step) for step in (*stride, *dilation)]
    windows: Array = seen[(slice(None), slice(None), *steps)]
    return windows


def _pool_windows(attrs: Attrs, x: Array, value: float, beyond: float | None = None) -> Array:
    """Windows of a pool as rows, padded with `value`, and with `beyond` where the last one hangs over the padding."""
    rank = x.ndim - 2
    kernel, stride, padding = (per_axis(attrs[name], rank) for name in ("kernel", "stride", "padding"))
    stride = kernel if attrs["stride"] == 0 else stride
    dilation = per_axis(attrs.get("dilation", 1), rank)
    x = np.pad(x, [(0, 0), (0, 0), *[(pad, pad) for pad in padding]], constant_values=value)
    hanging = []
    for length, size, hop, pad, step in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True):
        span = step * (size - 1) + 1
        starts = [start for start in range(0, length, hop) if start + span <= length or start < length - pad]
        if not attrs["ceil_mode"]:
            starts = [start for start in starts if start + span <= length]
        while len(starts) > 1 and starts[-2] + span >= length:
            starts.pop()  # one window reaches the end
        hanging.append((0, max(0, starts[-1] + span - length)))
    seen = _windows(x, kernel, stride, hanging, dilation, constant_values=value if beyond is None else beyond)
    return seen.reshape(*seen.shape[: 2 + rank], -1)


@reference("max_pool")
def _max_pool(attrs: Attrs, weights: Weights, train: bool, x: Array) -> Array:
    largest: Array = _pool_windows(attrs, x, -np.inf).max(axis=-1)
    return largest


@reference("avg_pool")
def _avg_pool(attrs: Attrs, weights: Weights, train: bool, x: Array) -> Array:
    counted = _pool_windows(attrs, np.ones_like(x), float(attrs["count_include_pad"]), 0.0).sum(axis=-1)
    divisor = attrs["divisor_override"]
    total: Array = _pool_windows(attrs, x, 0.0).sum(axis=-1)
    mean: Array = total / (counted if divisor is None else divisor)
    return mean


def _adapted(size: PerAxis, x: Array, function: Callable[..., Array]) -> Array:
    """Bin i of n over a length L is [floor(i L / n), ceil((i + 1) L / n))."""
    rank = x.ndim - 2
    wanted = per_axis(size, rank)
    out = np.empty((*x.shape[:2], *wanted))
    for place in product(*map(range, wanted)):
        bins: list[Any] = [
            slice(n * length // count, -(-(n + 1) * length // count))
            for n, length, count in zip(place, x.shape[2:], wanted, strict=True)
        ]
        entry: tuple[Any, ...] = (slice(None), slice(None), *place)
        out[entry] = function(x[:, :, *bins], axis=tuple(range(2, 2 + rank)))
    return out


@reference("adaptive_avg_pool")
def _adaptive_avg_pool(attrs: Attrs, weights: Weights, train: bool, x: Array) -> Array:
    return _adapted(attrs["size"], x, np.mean)


@reference("adaptive_max_pool")
def _adaptive_max_pool(attrs: Attrs, weights: Weights, train: bool, x: Array) -> Array:
    return _adapted(attrs["size"], x, np.max)


MODES = {"zeros": "constant", "constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
"""numpy's words."""


def _convolution(attrs: Attrs, weights: Mapping[str, Array], train: bool, x: Array) -> Array:
    groups, rank = attrs["groups"], x.ndim - 2
    padding, more = (per_axis(attrs[name], rank) for name in ("padding", "end_padding"))
    ends = [(pad, pad + end) for pad, end in zip(padding, more, strict=True)]
    mode = MODES[attrs["padding_mode"]]
    seen = _windows(x, attrs["kernel"], attrs["stride"], ends, attrs["dilation"], mode=mode)
    seen = seen.reshape(len(x), groups, -1, *seen.shape[2:])
    weight = weights["weight"]
    weight = weight.reshape(groups, -1, *weight.shape[1:])
    places, window = "hwt"[:rank], "klm"[:rank]
    out: Array = np.einsum(f"ngi{places}{window},goi{window}->ngo{places}", seen, weight, optimize=True)
    return biased(weights, out.reshape(len(x), -1, *out.shape[3:]), 1)


def _transposed(attrs: Attrs, weights: Mapping[str, Array], train: bool, x: Array) -> Array:
    """Every input adds the kernel, times itself, to the outputs that lie around it."""
    groups, rank = attrs["groups"], x.ndim - 2
    stride, padding, dilation, more = (
        per_axis(attrs[name], rank) for name in ("stride", "padding", "dilation", "output_padding")
    )
    kernel = weights["weight"]
    given = x.reshape(len(x), groups, -1, *x.shape[2:])
    kernel = kernel.reshape(groups, -1, *kernel.shape[1:])
    window, sizes = kernel.shape[3:], x.shape[2:]
    whole = [
        (n - 1) * hop + step * (k - 1) + 1 for n, hop, step, k in zip(sizes, stride, dilation, window, strict=True)
    ]
    out = np.zeros((len(x), groups, kernel.shape[2], *[n + end for n, end in zip(whole, more, strict=True)]))
    for offset in product(*map(range, window)):
        entry: tuple[Any, ...] = (slice(None), slice(None), slice(None), *offset)
        where: list[Any] = [
            slice(step * at, step * at + (n - 1) * hop + 1, hop)
            for step, at, n, hop in zip(dilation, offset, sizes, stride, strict=True)
        ]
        out[:, :, :, *where] += np.einsum("ngi...,gio->ngo...", given, kernel[entry])
    kept: list[Any] = [slice(pad, out.shape[3 + axis] - pad) for axis, pad in enumerate(padding)]
    out = out[:, :, :, *kept]
    return biased(weights, out.reshape(len(x), -1, *out.shape[3:]), 1)


for _rank in (1, 2, 3):
    reference(f"conv{_rank}d")(_convolution)
    reference(f"conv_transpose{_rank}d")(_transposed)


@reference("pad")
def _pad(attrs: Attrs, weights: Weights, train: bool, x: Array, *, channel: int) -> Array:
    before, after = (per_axis(attrs[name], x.ndim - 2) for name in ("before", "after"))
    ends = list(zip(before, after, strict=True))
    ends.insert(channel - 1, (0, 0))
    filled = {"constant_values": attrs["value"]} if attrs["mode"] == "constant" else {}
    return np.pad(x, [(0, 0), *ends], mode=MODES[attrs["mode"]], **filled)  # type: ignore[call-overload, no-any-return]


@reference("lp_pool")
def _lp_pool(attrs: Attrs, weights: Weights, train: bool, x: Array) -> Array:
    p, given = attrs["p"], {**attrs, "padding": 0}
    means = _pool_windows(given, x**p, 0.0).sum(axis=-1) / _pool_windows(given, np.ones_like(x), 0.0).sum(axis=-1)
    norms: Array = (means * np.prod(per_axis(attrs["kernel"], x.ndim - 2))) ** (1 / p)
    return norms


@reference("interpolate")
def _interpolate(attrs: Attrs, weights: Weights, train: bool, x: Array) -> Array:
    """Axis by axis, each output a weighted mean of inputs."""
    wanted, steps = _steps(attrs, x)
    if attrs["mode"] == "area":
        return _adapted(wanted, x, np.mean)
    spread = (lambda away: np.maximum(1.0 - np.abs(away), 0.0), 1.0) if attrs["antialias"] else None
    return _mixed(x, wanted, steps, lambda *axis: _mixing(attrs, *axis) if spread is None else _spread(*spread, *axis))


@reference("bicubic")
def _bicubic(attrs: Attrs, weights: Weights, train: bool, x: Array) -> Array:
    corners = attrs["align_corners"]
    if attrs["antialias"]:
        return _mixed(x, *_steps(attrs, x), lambda *axis: _spread(partial(_cubic, -0.5), 2.0, *axis))
    return _mixed(x, *_steps(attrs, x), lambda *axis: _through(corners, *axis))


def _steps(attrs: Attrs, x: Array) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Numbers of outputs, and how many inputs they lie apart, along each axis."""
    rank, factor = x.ndim - 2, attrs["scale_factor"]
    factors = factor if isinstance(factor, tuple) else (factor,) * rank
    sizes = x.shape[2:]
    if factor is None:
        wanted = per_axis(attrs["size"], rank)
        steps = [length / count for length, count in zip(sizes, wanted, strict=True)]
    else:
        wanted = tuple([int(length * each) for length, each in zip(sizes, factors, strict=True)])
        steps = [1.0 / each for each in factors]
    if attrs["align_corners"] and attrs["antialias"]:
        steps = [(length - 1) / max(count - 1, 1) for length, count in zip(sizes, wanted, strict=True)]
    return wanted, tuple(steps)


def _mixed(
    x: Array, wanted: Sequence[int], steps: Sequence[float], mixing: Callable[[int, int, float], Array]
) -> Array:
    """Each axis times the [outputs, inputs] that `mixing` makes for lengths and steps."""
    for axis, (length, count, step) in enumerate(zip(x.shape[2:], wanted, steps, strict=True)):
        x = np.moveaxis(np.moveaxis(x, 2 + axis, -1) @ mixing(length, count, step).T, -1, 2 + axis)
    return x


def _cubic(a: float, away: Array) -> Array:
    """Keys' cubic kernel with slope `a` at 1, by the distance."""
    d = np.abs(away)
    near, far = ((a + 2) * d - (a + 3)) * d * d + 1, a * (((d - 5) * d + 8) * d - 4)
    return np.where(d < 1, near, np.where(d < 2, far, 0.0))


def _spread(kernel: Callable[[Array], Array], reach: float, length: int, count: int, step: float) -> Array:
    """[outputs, inputs]: a kernel as wide as outputs lie apart, cut off at the borders."""
    wide = max(step, 1.0)
    rows = np.zeros((count, length))
    for n in range(count):
        middle = step * (n + 0.5)
        first = max(int(middle - reach * wide + 0.5), 0)
        last = min(int(middle + reach * wide + 0.5), length)
        row = kernel((np.arange(first, last) - middle + 0.5) / wide)
        rows[n, first:last] = row / row.sum()
    return rows


def _through(corners: bool, length: int, count: int, step: float) -> Array:
    """[outputs, inputs]: cubic polynomials through four inputs, of which those at the borders are repeated."""
    rows = np.zeros((count, length))
    for n in range(count):
        place = n * (length - 1) / max(count - 1, 1) if corners else (n + 0.5) * step - 0.5
        low = math.floor(place)
        for at in range(low - 1, low + 3):
            rows[n, min(max(at, 0), length - 1)] += _cubic(-0.75, np.asarray(place - at))
    return rows


def _mixing(attrs: Attrs, length: int, count: int, step: float) -> Array:
    """[outputs, inputs] along one axis; outputs lie `step` inputs apart."""
    rows = np.zeros((count, length))
    for n in range(count):
        if attrs["mode"] == "nearest":
            rows[n, min(int(n * step), length - 1)] = 1.0
        elif attrs["mode"] == "nearest-exact":
            rows[n, min(int((n + 0.5) * step), length - 1)] = 1.0
        else:
            place = n * (length - 1) / max(count - 1, 1) if attrs["align_corners"] else max((n + 0.5) * step - 0.5, 0.0)
            low = min(int(place), length - 1)
            rows[n, low] += 1.0 - (place - low)
            rows[n, min(low + 1, length - 1)] += place - low
    return rows
