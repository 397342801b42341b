"""Mean and standard deviation of the channels of examples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

_Array = np.ndarray[Any, Any]


def moments(parts: Iterable[_Array]) -> tuple[_Array, _Array]:
    """Mean and standard deviation of each channel of parts [n, C, H, W] or [n, D].

    Exact integer sums for uint8, float64 otherwise.
    """
    total: Any = 0
    squares: Any = 0
    count = 0
    for values in parts:
        whole = values.dtype == np.uint8
        axes = (0, 2, 3) if values.ndim == 4 else (0,)
        total = total + values.sum(axis=axes, dtype=np.uint64 if whole else np.float64)
        wide: Any = values.astype(np.uint32 if whole else np.float64)
        squares = squares + (wide * wide).sum(axis=axes, dtype=np.uint64 if whole else np.float64)
        count += values.size // values.shape[1]
    mean = np.asarray(total, np.float64) / count
    variance = np.asarray(squares, np.float64) / count - mean * mean
    return mean, np.sqrt(np.maximum(variance, 0.0))


def normalisation(parts: Iterable[_Array], unit: float) -> tuple[_Array, _Array]:
    """The same as numbers to subtract and to divide by: a channel that is constant keeps its scale, which `unit` is."""
    mean, deviation = moments(parts)
    return mean, np.where(deviation > 1e-6 * unit, deviation, unit)
