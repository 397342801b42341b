"""Pooling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nasir.importing.rules.place import Place, Typed, pair, rule
from nasir.ir import ValueType


@rule("torch.nn.modules.pooling.MaxPool2d")
def _max_pool(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    if not value.is_image or a["ceil_mode"] or a["return_indices"] or pair(a["dilation"]) != (1, 1):
        return None
    return _pool("max_pool", a, x)


@rule("torch.nn.modules.pooling.AvgPool2d")
def _avg_pool(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    uncounted = not a["count_include_pad"] and pair(a["padding"]) != (0, 0)
    if not value.is_image or a["ceil_mode"] or uncounted or a["divisor_override"] is not None:
        return None
    return _pool("avg_pool", a, x)


def _pool(op: str, a: Mapping[str, Any], x: int) -> Typed:
    attrs = {"kernel": a["kernel_size"], "stride": a["stride"], "padding": a["padding"]}
    return Typed(op, (x,), attrs)


@rule("torch.nn.modules.pooling.AdaptiveAvgPool2d", "torch.nn.functional.adaptive_avg_pool2d")
def _adaptive_avg_pool(place: Place, x: int, value: ValueType) -> Typed | None:
    size = place.call.attributes.get("output_size", place.given(1, "output_size", None))
    if not value.is_image or size is None:
        return None
    wanted = [whole if part is None else part for part, whole in zip(pair(size), value.shape[1:], strict=True)]
    return Typed("adaptive_avg_pool", (x,), {"size": wanted})
