"""Optimizer moments of a resized array, derived from the plan of its values.

With w' = A w (a gather with gains), gradients map by A's pseudo-inverse transpose: along each axis
m_j = gain_j / sum of gain_k**2 over k with the same source, and of a sum of n parts m = sum of m_k / (n gain). First
moments follow it, second moments its square (exact for equal replicas; Net2Net, arXiv:1511.05641, section 3).
"""

from __future__ import annotations

import numpy as np

from nasir.ir.source import AxisTake, Gain, Source, Stack, Sum, Take
from nasir.ir.types import Fill

ZEROS = Fill("zeros")
MEAN = Fill("mean")  # of the source array: understood by the executor for moments only


def moment_source(source: Source, order: int) -> Source | None:
    """How the first (`order` 1) or second (2) moment of a weight follows its source; None: it starts empty.

    Fresh rows of a first moment start at zero; of a second moment at the tensor's mean: Adam's step counter is one
    number per tensor, so a zero there would make their first update about three times the learning rate.
    """
    if isinstance(source, Stack | Sum):
        sources = [moment_source(part, order) for part in source.parts]
        parts = tuple([part for part in sources if part is not None])
        if len(parts) < len(sources) or (isinstance(source, Sum) and not source.gain):
            return None
        return Stack(source.axis, parts) if isinstance(source, Stack) else Sum(parts, _sum_gain(source, order))
    if not isinstance(source, Take):
        return None
    hole = ZEROS if order == 1 else MEAN
    axes = [None if axis is None else AxisTake(axis.index, _gains(axis, order), hole) for axis in source.axes]
    return Take(source.key, tuple(axes))


def _sum_gain(source: Sum, order: int) -> float:
    """The pseudo-inverse's for a first moment; of a second one what is exact for parts with equal gradients."""
    count = len(source.parts)
    return 1 / (count * source.gain) if order == 1 else 1 / (count * source.gain**2)


def _gains(axis: AxisTake, order: int) -> Gain | None:
    gain = axis.gain if axis.gain is not None else np.ones(len(axis.index))
    real = axis.index >= 0
    if not real.any():
        return None
    squares = np.bincount(axis.index[real], weights=gain[real] ** 2)
    mapped = np.ones(len(gain))
    mapped[real] = gain[real] / squares[axis.index[real]]
    if bool((mapped == 1.0).all()):
        return None
    return mapped if order == 1 else mapped**2
