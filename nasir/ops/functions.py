"""The functions of the shipped activations: float64 arrays, element by element."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def same(x: Values, **attrs: object) -> Values:
    """x."""
    return x


def rectified(x: Values) -> Values:
    """max(x, 0)."""
    return np.maximum(x, 0.0)


def gaussian_gated(x: Values) -> Values:
    """x * Phi(x)."""
    gated: Values = 0.5 * x * (1.0 + _erf(x / math.sqrt(2.0)))
    return gated


def logistic(x: Values) -> Values:
    """1 / (1 + exp(-x))."""
    power = np.exp(-np.abs(x))  # at most 1: nothing overflows
    return np.where(x >= 0.0, 1.0, power) / (1.0 + power)


def sigmoid_gated(x: Values) -> Values:
    """x / (1 + exp(-x))."""
    return x * logistic(x)


def hard_sigmoid(x: Values) -> Values:
    """relu6(x + 3) / 6."""
    return np.clip(x + 3.0, 0.0, 6.0) / 6.0


def hard_gated(x: Values) -> Values:
    """x * relu6(x + 3) / 6."""
    return x * hard_sigmoid(x)
