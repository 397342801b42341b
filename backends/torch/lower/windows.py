"""How pools, padding and interpolation become torch: functions over one to three axes behind the channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.nn import functional as F

from nasir.backends.torch.lower.ops import Call, Lowered, lowering
from nasir.ir import JSON, ValueType, per_axis
from nasir.ops.pools import even_windows

MAX_POOLS = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
LP_POOLS = (F.lp_pool1d, F.lp_pool2d, F.lp_pool3d)
AVG_POOLS = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
ADAPTIVE_MAX_POOLS = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)
ADAPTIVE_AVG_POOLS = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)


def _window(a: Mapping[str, JSON], rank: int) -> tuple[tuple[int, ...], ...]:
    """(kernel, stride, padding)."""
    kernel, stride, padding = (per_axis(a[name], rank) for name in ("kernel", "stride", "padding"))
    return kernel, kernel if a["stride"] == 0 else stride, padding


@lowering("max_pool")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    rank = len(out.shape) - 1
    more = {"dilation": per_axis(a["dilation"], rank), "ceil_mode": a["ceil_mode"]}
    return Call(MAX_POOLS[rank - 1], _window(a, rank), more)


@lowering("avg_pool")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    rank = len(out.shape) - 1
    more = {name: a[name] for name in ("ceil_mode", "count_include_pad", "divisor_override")[: None if rank > 1 else 2]}
    return Call(AVG_POOLS[rank - 1], _window(a, rank), more)


@lowering("lp_pool")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    rank = len(out.shape) - 1
    kernel, stride = (per_axis(a[name], rank) for name in ("kernel", "stride"))
    hop = None if a["stride"] == 0 else stride
    if rank == 1:  # of which torch takes no sequences
        return Call(F.lp_pool1d, (a["p"], kernel[0], hop and hop[0], a["ceil_mode"]))
    return Call(LP_POOLS[rank - 1], (a["p"], kernel, hop, a["ceil_mode"]))


@lowering("adaptive_avg_pool")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    size, windows = out.shape[1:], even_windows(x[0], a["size"])
    # equal windows by the pool of fixed windows, whose gradient is deterministic on CUDA; 1x1 is a plain mean in torch
    if windows is None or a["size"] == 1:
        return Call(ADAPTIVE_AVG_POOLS[len(size) - 1], (size,))
    return Call(AVG_POOLS[len(size) - 1], (windows, windows))


@lowering("adaptive_max_pool")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    size, windows = out.shape[1:], even_windows(x[0], a["size"])
    if windows is None:
        return Call(ADAPTIVE_MAX_POOLS[len(size) - 1], (size,))
    return Call(MAX_POOLS[len(size) - 1], (windows, windows))


def widths(before: Sequence[int], after: Sequence[int]) -> tuple[int, ...]:
    """What is added to each axis as torch wants it: the last axis first, both ends of it."""
    return tuple([width for ends in zip(reversed(before), reversed(after), strict=True) for width in ends])


@lowering("pad")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    channels, rank = x[0].channel_axis, len(out.shape) - 1
    ends = [list(per_axis(a[name], rank)) for name in ("before", "after")]
    for places in ends if channels else ():
        places.insert(channels, 0)
    filled: tuple[Any, ...] = (a["value"],) if a["mode"] == "constant" else ()
    return Call(F.pad, (widths(*ends), a["mode"], *filled))


@lowering("interpolate")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    corners = a["align_corners"] if a["mode"].endswith("linear") else None
    return _resized(a, out, a["mode"], corners)


@lowering("bicubic")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return _resized(a, out, "bicubic", a["align_corners"])


def _resized(a: Mapping[str, JSON], out: ValueType, mode: str, corners: bool | None) -> Lowered:
    factors = a["scale_factor"]
    how = {"mode": mode, "align_corners": corners, **({"antialias": True} if a["antialias"] else {})}
    return Call(F.interpolate, kwargs={"size": None if factors else out.shape[1:], "scale_factor": factors, **how})
