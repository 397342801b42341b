"""The cost axis of intermediate values: what a trial was worth once it had cost so much.

Trials of growing networks pay differently for an epoch, so epochs do not compare them. On a cost axis, value v of a
trial at step b is its newest value when its cumulative cost was b * width: with c_j the cost up to epoch j, every b
with c_j <= b * width < c_(j+1) has the value v_j. It is known once epoch j+1 has ended, or the run has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from nasir.errors import UsageError
from nasir.records import EpochRecord

__all__ = ["AxisError", "Curve", "cost_of"]

MOST = 10_000  # steps that one epoch may span

Step = tuple[int, float]
"""Step of the axis and the value there."""


class AxisError(UsageError):
    """The axis of a search does not suit its trials: each of them would meet the same."""


def cost_of(axis: str, record: EpochRecord) -> float:
    """What an epoch record adds on an axis: 1, CPU-seconds, or multiply-accumulates of its forward passes."""
    if axis == "epoch":
        return 1
    if axis == "cpu_seconds":
        return float(record.cpu_seconds)
    if record.samples is None or record.macs is None:
        raise AxisError(
            "search.axis.macs: this backend does not journal `samples` of an epoch; use epoch or cpu_seconds"
        )
    return record.samples * record.macs


@dataclass(slots=True)
class Curve:
    """The intermediate values of one trial. Give it each epoch by `add`, in order, and the end by `end`."""

    axis: str
    width: float = 1.0  # cost per step; of the axis `epoch` it is 1
    cost: float = 0  # cumulative, up to the newest epoch
    value: float | None = None  # of the newest epoch
    epochs: int = 0
    _next: int = field(default=0, repr=False)  # lowest step that has no value yet

    def add(self, cost: float, value: float) -> list[Step]:
        """Steps that an epoch of this cost and value makes known, ascending.

        Raises AxisError where the epoch spans more steps than are of use.
        """
        self.epochs += 1
        if self.axis == "epoch":
            self.cost, self.value = self.cost + 1, value
            return [(self.epochs, value)]
        reached = self.cost + cost
        first, before = self._next, self.value
        self.cost, self.value, self._next = reached, value, _at_or_after(reached, self.width)
        if self._next - first > MOST:
            raise AxisError(
                f"search.axis.{self.axis}: {self.width:g} is too narrow: epoch {self.epochs} alone costs {cost:g}; "
                f"use steps of at least {cost / 100:.2g}"
            )
        return [] if before is None else [(step, before) for step in range(first, self._next)]

    def end(self) -> list[Step]:
        """The first step at or after the end of the run: it has the last value, so does every later one."""
        if self.axis == "epoch" or self.value is None:
            return []
        return [(self._next, self.value)]


def _at_or_after(cost: float, width: float) -> int:
    """The lowest step b with b * width >= cost, rounding of the division undone."""
    step = math.ceil(cost / width)
    while step > 0 and (step - 1) * width >= cost:
        step -= 1
    while step * width < cost:
        step += 1
    return step
