"""Padding and interpolation."""

from __future__ import annotations

from math import floor, isfinite
from typing import get_args

from nasir.importing.recording import Tree
from nasir.importing.rules.place import Place, Typed, rule, whole
from nasir.ir import ValueType
from nasir.ops.resizing import Interpolation
from nasir.ops.windows import has_places

PADDING = "torch.nn.modules.padding"
MODES = {"Zero": "constant", "Constant": "constant", "Reflection": "reflect", "Replication": "replicate"}
MODES["Circular"] = "circular"
CUBIC = "bicubic"


@rule(*[f"{PADDING}.{kind}Pad{rank}d" for kind in MODES for rank in (1, 2, 3)])
def _pad_module(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    kind = place.call.operation.removeprefix(f"{PADDING}.").partition("Pad")[0]
    return _padded(x, value, a["padding"], MODES[kind], a.get("value", 0.0))


@rule("torch.nn.functional.pad")
def _pad(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.options(pad=None, mode="constant", value=None)
    return None if a is None else _padded(x, value, a["pad"], a["mode"], a["value"])


def _padded(x: int, value: ValueType, widths: Tree, mode: Tree, filled: Tree) -> Typed | None:
    """`widths`: both ends of each axis, the last axis first."""
    filled = 0.0 if filled is None else filled
    if not whole(widths) or type(filled) not in (int, float) or not isfinite(filled) or min(widths, default=0) < 0:
        return None
    count = len(value.shape)
    if len(widths) > 2 * count and any(widths[2 * count :]):
        return None  # the batch
    ends = [(0, 0)] * count
    for number in range(min(len(widths) // 2, count)):
        ends[count - 1 - number] = (widths[2 * number], widths[2 * number + 1])
    channels = ends.pop(value.channel_axis)
    beside = any(part for pair in ends for part in pair)
    if channels != (0, 0):
        zeros = mode == "constant" and filled == 0.0 and not beside
        return Typed("pad_channels", (x,), {"before": channels[0], "after": channels[1]}) if zeros else None
    if not beside:
        return Typed("identity", (x,), {})
    if mode != "constant" and not has_places(value):
        return None
    before, after = ([pair[end] for pair in ends] for end in (0, 1))
    return Typed("pad", (x,), {"before": before, "after": after, "mode": mode, "value": float(filled)})


@rule(
    "torch.nn.functional.interpolate",
    *[f"torch.nn.modules.upsampling.{kind}" for kind in ("Upsample", "UpsamplingNearest2d", "UpsamplingBilinear2d")],
)
def _interpolate(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.options(
        size=None, scale_factor=None, mode="nearest", align_corners=None, recompute_scale_factor=None, antialias=False
    )
    if a is None or not has_places(value) or a["mode"] not in (*get_args(Interpolation), CUBIC):
        return None
    size, factor = a["size"], a["scale_factor"]
    if factor is not None:
        factors = factor if isinstance(factor, tuple | list) else (factor,) * (len(value.shape) - 1)
        if not all(type(part) in (int, float) for part in factors):
            return None
        factor = [float(part) for part in factors]
        if a["recompute_scale_factor"]:
            size = [floor(length * part) for length, part in zip(value.shape[1:], factor, strict=True)]
            factor = None
    elif not whole(size):
        return None
    given = {"size": size, "scale_factor": factor}
    given |= {name: bool(a[name]) for name in ("align_corners", "antialias")}
    if a["mode"] == CUBIC:
        return Typed("bicubic", (x,), given)
    return Typed("interpolate", (x,), {**given, "mode": a["mode"]})
