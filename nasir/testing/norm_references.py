"""References of norms, written from their definitions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from nasir.testing.interpreter import Array, Attrs, along, biased, reference

Own: TypeAlias = Mapping[str, Array]


def _affine(weights: Own, value: Array, channel: int) -> Array:
    """Times the weight, plus the bias, where there are such."""
    scaled = value * along(weights["weight"], value, channel) if "weight" in weights else value
    return biased(weights, scaled, channel)


def _over(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    """x less its mean, over the root of its variance."""
    centred = x - x.mean(axis=axes, keepdims=True)
    normal: Array = centred / np.sqrt((centred**2).mean(axis=axes, keepdims=True) + eps)
    return normal


def _by_statistics(weights: Own, x: Array, eps: float) -> Array:
    mean, variance = (along(weights[name], x, 1) for name in ("running_mean", "running_var"))
    normal: Array = (x - mean) / np.sqrt(variance + eps)
    return normal


@reference("batch_norm")
def _batch_norm(attrs: Attrs, weights: Own, train: bool, x: Array) -> Array:
    if train or not attrs["statistics"]:
        return _affine(weights, _over(x, (0, *range(2, x.ndim)), attrs["eps"]), 1)
    return _affine(weights, _by_statistics(weights, x, attrs["eps"]), 1)


@reference("frozen_batch_norm")
def _frozen_batch_norm(attrs: Attrs, weights: Own, train: bool, x: Array) -> Array:
    return _affine(weights, _by_statistics(weights, x, attrs["eps"]), 1)


@reference("instance_norm")
def _instance_norm(attrs: Attrs, weights: Own, train: bool, x: Array) -> Array:
    if attrs["statistics"] and not train:
        return _affine(weights, _by_statistics(weights, x, attrs["eps"]), 1)
    return _affine(weights, _over(x, tuple(range(2, x.ndim)), attrs["eps"]), 1)


@reference("group_norm")
def _group_norm(attrs: Attrs, weights: Own, train: bool, x: Array) -> Array:
    grouped = _over(x.reshape(len(x), attrs["groups"], -1), (2,), attrs["eps"])
    return _affine(weights, grouped.reshape(x.shape), 1)


@reference("layer_norm")
def _layer_norm(attrs: Attrs, weights: Own, train: bool, x: Array) -> Array:
    normal = _over(x, tuple(range(x.ndim - attrs["axes"], x.ndim)), attrs["eps"])
    return normal * weights.get("weight", 1.0) + weights.get("bias", 0.0)


@reference("layer_norm2d")
def _layer_norm2d(attrs: Attrs, weights: Own, train: bool, x: Array) -> Array:
    return _affine(weights, _over(x, (1,), attrs["eps"]), 1)


@reference("rms_norm")
def _rms_norm(attrs: Attrs, weights: Own, train: bool, x: Array) -> Array:
    eps = np.finfo(x.dtype).eps if attrs["eps"] is None else attrs["eps"]
    return _affine(weights, x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps), x.ndim - 1)


@reference("response_norm")
def _response_norm(attrs: Attrs, weights: Own, train: bool, x: Array, *, channel: int) -> Array:
    places = tuple([axis for axis in range(1, x.ndim) if axis != channel])
    sizes = np.sqrt((x * x).sum(axis=places, keepdims=True))
    shares = sizes / (sizes.mean(axis=channel, keepdims=True) + attrs["eps"])
    return x + _affine(weights, x * shares, channel)


@reference("local_response_norm")
def _local_response_norm(attrs: Attrs, weights: Own, train: bool, x: Array) -> Array:
    """Channel c sees c - size // 2 to c + (size - 1) // 2; those beside the first and last count as 0."""
    size, squares = attrs["size"], x * x
    means = np.zeros_like(x)
    for offset in range(-(size // 2), (size - 1) // 2 + 1):
        start, stop = max(0, -offset), min(x.shape[1], x.shape[1] - offset)
        means[:, start:stop] += squares[:, start + offset : stop + offset] / size
    out: Array = x / (attrs["k"] + attrs["alpha"] * means) ** attrs["beta"]
    return out
