"""Optimizer state of a resized array, derived from the plan of its values.

With w' = A w (a gather with gains), gradients map by A's pseudo-inverse transpose: along each axis
m_j = gain_j / sum of gain_k**2 over k with the same source, and of a sum of n parts m = sum of m_k / (n gain). First
moments follow it, second moments its square (exact for equal replicas; Net2Net, arXiv:1511.05641, section 3). What is
measured in weights, as the length of a step, follows the gains themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nasir.ir.source import AxisTake, Gain, Source, Stack, Sum, Take
from nasir.ir.types import Fill

ZEROS = Fill("zeros")
MEAN = Fill("mean")  # of the source array: understood by the executor for moments only


@dataclass(frozen=True, slots=True)
class Moment:
    """What is kept for each weight, by the powers of the `gradient` and of the `weight` that its size goes with.

    `signed`: it may be negative. Entries of new weights then begin with zero, others with the mean of the array: Adam's
    step counter is one number per tensor, so a second moment of zero would make their first update about three times
    the learning rate.
    """

    gradient: int = 0
    weight: int = 0
    signed: bool = True

    @property
    def fresh(self) -> Fill:
        """How entries of new weights begin."""
        return ZEROS if self.signed else MEAN

    def scaled(self, gradient: Gain, weight: Gain) -> Gain:
        """The factor of entries whose gradients and weights are multiplied by these, which are not 0."""
        size: Gain = np.abs(gradient) ** self.gradient * np.abs(weight) ** self.weight
        return np.where(gradient < 0, -size, size) if self.signed else size


FIRST = Moment(gradient=1)
SECOND = Moment(gradient=2, signed=False)


def moment_source(source: Source, moment: Moment) -> Source | None:
    """How the `moment` of a weight follows its source; None: it starts empty."""
    if isinstance(source, Stack | Sum):
        sources = [moment_source(part, moment) for part in source.parts]
        parts = tuple([part for part in sources if part is not None])
        if len(parts) < len(sources) or (isinstance(source, Sum) and not source.gain):
            return None
        return Stack(source.axis, parts) if isinstance(source, Stack) else Sum(parts, _sum_gain(source, moment))
    if not isinstance(source, Take):
        return None
    return Take(source.key, tuple([None if axis is None else _mapped(axis, moment) for axis in source.axes]))


def only_picks(source: Source) -> bool:
    """Whether all that there is of a weight is entries of old ones, none of them twice: a moment of any kind is then
    picked in the same way."""
    if isinstance(source, Stack):
        return all(only_picks(part) for part in source.parts)
    if not isinstance(source, Take):
        return False
    mapped = [_mapped(axis, FIRST) for axis in source.axes if axis is not None]
    return all(axis.gain is None and bool((axis.index >= 0).all()) for axis in mapped)


def _sum_gain(source: Sum, moment: Moment) -> float:
    """The pseudo-inverse's for a first moment; of others what is exact for equal parts with equal gradients."""
    count = len(source.parts)
    return float(moment.scaled(np.array(1 / source.gain), np.array(count * source.gain))) / count


def _mapped(axis: AxisTake, moment: Moment) -> AxisTake:
    gain = np.ones(len(axis.index)) if axis.gain is None else axis.gain
    real = (axis.index >= 0) & (gain != 0)  # what is multiplied by 0 has nothing of the old weight
    index = axis.index if bool((real | (axis.index < 0)).all()) else np.where(real, axis.index, -1)
    if not real.any():
        return AxisTake(index, None, moment.fresh)
    squares = np.bincount(index[real], weights=gain[real] ** 2)
    mapped = np.ones(len(gain))
    mapped[real] = moment.scaled(gain[real] / squares[index[real]], gain[real])
    return AxisTake(index, None if bool((mapped == 1.0).all()) else mapped, moment.fresh)
