"""Cases of norms."""

from __future__ import annotations

from typing import TypeAlias

from nasir.ir import JSON
from nasir.testing.op_case import IMAGE, TOKENS, VECTOR, VOLUME, OpCase

Laid: TypeAlias = tuple[tuple[int, ...], int | None]  # a shape, and the axis of its channels: None is the usual one
LINE: Laid = (TOKENS, 0)  # channels and one axis behind them
LAST: Laid = (IMAGE, 2)


def norm_cases() -> dict[str, tuple[OpCase, ...]]:
    """Cases by op."""
    usual: list[Laid] = [(shape, None) for shape in (IMAGE, VECTOR, VOLUME)]
    behind: list[Laid] = [(IMAGE, None), (VOLUME, None), LINE]
    features: list[Laid] = [(VECTOR, None), (TOKENS, None), LAST]
    rows: list[tuple[str, list[Laid], list[dict[str, JSON]]]] = [
        ("batch_norm", [*usual, LINE], [{}, {"affine": False, "eps": 0.1}, {"statistics": False, "momentum": None}]),
        ("batch_norm", usual[:1], [{"counts": False}, {"affine": False, "statistics": False}]),
        ("instance_norm", behind, [{}, {"affine": True, "eps": 0.1}, {"statistics": True, "affine": True}]),
        ("group_norm", usual[:1], [{"groups": 2}, {"groups": 1}, {"groups": 2, "affine": False}]),
        ("group_norm", usual[1:2], [{"groups": 3}]),
        ("layer_norm", features, [{}, {"affine": False}, {"bias": False, "eps": 0.1}]),
        ("layer_norm", [(IMAGE, None), (TOKENS, None), LAST], [{"axes": 2}, {"axes": 2, "affine": False}]),
        ("layer_norm", usual[:1], [{"axes": 3}]),
        ("layer_norm2d", usual[:1], [{}, {"affine": False}, {"bias": False, "eps": 0.1}]),
        ("rms_norm", features, [{}, {"eps": 0.1}, {"affine": False}]),
        ("response_norm", [(IMAGE, None), LAST], [{}, {"eps": 0.1}]),
        ("local_response_norm", behind, [{"size": 2, "alpha": 0.3}, {"size": 3, "beta": 0.5, "k": 2}, {"size": 5}]),
        ("frozen_batch_norm", usual[:1], [{}, {"eps": 0.1}]),
    ]
    by_op: dict[str, tuple[OpCase, ...]] = {}
    for op, values, ways in rows:
        made = tuple([OpCase(op, (shape,), way, axis) for shape, axis in values for way in ways])
        by_op[op] = by_op.get(op, ()) + made
    return by_op
