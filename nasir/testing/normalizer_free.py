"""Cases and references of the ops of networks without norms."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nasir.testing.interpreter import Array, Attrs, along, biased, evaluate_op, reference
from nasir.testing.op_case import IMAGE, OpCase, anywhere
from nasir.testing.window_cases import CONVOLUTIONS, OF_IMAGES


def normalizer_free_cases() -> dict[str, tuple[OpCase, ...]]:
    """Cases by op."""
    ways = [*CONVOLUTIONS, *OF_IMAGES, {"out": 2, "kernel": 3, "gamma": 0.5, "eps": 0.1, "gain": False}]
    return {
        "affine": anywhere("affine"),
        "scalar_bias": anywhere("scalar_bias"),
        "ws_conv2d": tuple([OpCase("ws_conv2d", (IMAGE,), way) for way in ways]),
    }


@reference("affine")
def _affine(attrs: Attrs, weights: Mapping[str, Array], train: bool, x: Array, *, channel: int) -> Array:
    return biased(weights, x * along(weights["weight"], x, channel), channel)


@reference("scalar_bias")
def _scalar_bias(attrs: Attrs, weights: Mapping[str, Array], train: bool, x: Array) -> Array:
    return x + weights["bias"]


@reference("ws_conv2d")
def _ws_conv2d(attrs: Attrs, weights: Mapping[str, Array], train: bool, x: Array) -> Array:
    rows = weights["weight"].reshape(len(weights["weight"]), -1)
    centred = rows - rows.mean(axis=1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=1, keepdims=True) + attrs["eps"])
    kernel = attrs["gamma"] * centred / deviation / np.sqrt(rows.shape[1])
    own = {**weights, "weight": kernel.reshape(weights["weight"].shape) * weights.get("gain", 1.0)}
    convolved: Array = evaluate_op("conv2d", attrs, own, [x], train)
    return convolved
