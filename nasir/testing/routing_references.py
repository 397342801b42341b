"""References and cases of the ops that send samples through ways."""

from __future__ import annotations

import numpy as np

from nasir.ir import JSON
from nasir.testing.interpreter import Array, Attrs, Weights, reference, shares
from nasir.testing.op_case import IMAGE, TOKENS, VECTOR, OpCase


@reference("gate")
def _gate(attrs: Attrs, weights: Weights, train: bool, x: Array, *, channel: int) -> Array:
    if attrs["train" if train else "evaluate"] == "soft":
        return shares(x / attrs["temperature"], channel)
    largest = np.expand_dims(x.argmax(axis=channel), channel)
    hard = np.zeros_like(x)
    np.put_along_axis(hard, largest, 1.0, axis=channel)
    return hard


@reference("route")
def _route(attrs: Attrs, weights: Weights, train: bool, x: Array, *ways: Array) -> Array:
    parts = []
    for number, way in enumerate(ways):
        share = x[..., number]
        parts.append(way * share.reshape(*share.shape, *(1,) * (way.ndim - share.ndim)))
    return sum(parts[1:], start=parts[0])


def routing_cases() -> dict[str, tuple[OpCase, ...]]:
    """Cases of these ops, by op."""
    soft = {"evaluate": "soft", "temperature": 0.5}
    ways: list[dict[str, JSON]] = [{}, soft, {"train": "soft"}, {"evaluate": "soft", "train": "soft"}]
    ways.append({"noise": "gumbel"})
    return {
        "gate": (
            *[OpCase("gate", (shape,), way) for shape in (VECTOR, TOKENS) for way in ways],
            OpCase("gate", (TOKENS,), {"evaluate": "soft"}, channel_axis=0),
        ),
        "route": (
            OpCase("route", ((2,), IMAGE, IMAGE)),
            OpCase("route", ((3,), VECTOR, VECTOR, VECTOR)),
            OpCase("route", ((2,), TOKENS, TOKENS)),
            OpCase("route", ((TOKENS[0], 2), TOKENS, TOKENS)),
        ),
    }
