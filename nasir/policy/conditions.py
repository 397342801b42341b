"""Conditions over the epochs of a phase: do they hold, and a sentence that says so with the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

from nasir.counted import counted
from nasir.errors import RunError
from nasir.growing import GrowingSequence, fold
from nasir.policy.plans import Condition, Moment, Plateau, Threshold
from nasir.records import EpochRecord, TrialRecord

# A validation accuracy is a count over a fixed size, so an improvement of exactly `less_than` does occur (5 images
# of 10,000 are 0.0005). In binary fractions it lands on either side; this slack makes a tie never count as less.
SLACK = 1e-12
BESIDE = ("lr", "seconds")  # numbers that an epoch record keeps beside its metrics


class Verdict(NamedTuple):
    """Whether a condition holds, and the sentence that explains it either way."""

    holds: bool
    sentence: str


def evaluate(condition: Condition, epochs: Sequence[EpochRecord], rewritten: int | None = None) -> Verdict:
    """Test a condition on the `epoch` records of one phase, oldest first; never holds before the first epoch.

    `rewritten`: epochs of the phase that were done at the rewrite which a plateau with `since` judges; None: there was
    none. Raises RunError if the records lack the metric.
    """
    if not epochs:
        return Verdict(False, "no epoch of the phase is done")
    if isinstance(condition, Plateau):
        return _plateau(condition, epochs) if condition.since is None else _since(condition, epochs, rewritten)
    if isinstance(condition, Threshold):
        return _threshold(condition, epochs)
    done = len(epochs)
    if isinstance(condition, Moment):
        return Verdict(False, f"{condition.at} is a moment of the phase, not a property of its epochs")
    if done in condition.epochs:
        return Verdict(True, f"epoch {done} of the phase is listed")
    return Verdict(False, f"epoch {done} of the phase is not among {', '.join(map(str, condition.epochs))}")


def metric_values(name: str, epochs: Sequence[EpochRecord | TrialRecord]) -> list[float]:
    """One value per epoch record; raises RunError naming the epoch and the metrics it does have."""
    return [_value(name, record) for record in epochs]


def _value(name: str, record: EpochRecord | TrialRecord) -> float:
    metrics = record.metrics
    if name not in metrics:
        metrics = {**{key: record[key] for key in BESIDE if key in record}, **metrics}
    if name not in metrics:
        known = ", ".join(sorted(metrics)) or "none"
        raise RunError(f"epoch {record.epoch} has no metric {name!r} for a condition; it has {known}")
    return float(metrics[name])


@dataclass(frozen=True, slots=True)
class _Curve:
    """The smoothed metric of a plateau after each epoch, signed so that more is better.

    NaN entries (a diverged loss) are no improvement: the smoothed value stays where it was. It is NaN as long as
    nothing else was seen.
    """

    plateau: Plateau
    values: GrowingSequence[float] = field(default_factory=GrowingSequence)

    def after(self, record: EpochRecord) -> Self:
        value = _value(self.plateau.metric, record)
        value = -value if _is_loss(self.plateau.metric) else value
        return replace(self, values=self.values.grown(self._smoothed(value)))

    def _smoothed(self, value: float) -> float:
        before = self.values[-1] if self.values else math.nan
        if self.plateau.smooth == "none" or math.isnan(before):
            return value
        if math.isnan(value):
            return before
        if self.plateau.smooth == "running_max":
            return max(before, value)
        return self.plateau.decay * before + (1.0 - self.plateau.decay) * value

    @property
    def improvement(self) -> float:
        """Over the window, as `Plateau` defines it; NaN while nothing but NaN was seen."""
        if len(self.values) > self.plateau.window:
            return self.values[-1] - self.values[-1 - self.plateau.window]
        return self.values[-1] if self.plateau.early == "code" and not _is_loss(self.plateau.metric) else math.inf


def _plateau(plateau: Plateau, epochs: Sequence[EpochRecord]) -> Verdict:
    curve = fold(epochs, _Curve(plateau))
    delta, done = curve.improvement, len(curve.values)
    holds, name = _is_less(delta, plateau, epochs), _shown(plateau)
    if done <= plateau.window:
        short = f"{done} of the {plateau.window + 1} epochs that a window of {plateau.window} needs are done"
        return Verdict(holds, f"{short}; {name} itself is under {plateau.less_than:.6g}" if holds else short)
    relation = "less than" if holds else "not less than"
    return Verdict(
        holds,
        f"{name} improved by {delta:.6g} in {counted(plateau.window, 'epoch')}, {relation} {plateau.less_than:.6g}",
    )


def _since(plateau: Plateau, epochs: Sequence[EpochRecord], rewritten: int | None) -> Verdict:
    """Whether the rewrite after epoch `rewritten` did not help, `window` epochs later or more."""
    if rewritten is None:
        return Verdict(False, "nothing was rewritten yet")
    curve = fold(epochs, _Curve(plateau))
    passed = len(curve.values) - rewritten
    if passed < plateau.window:
        return Verdict(False, f"{passed} of the {counted(plateau.window, 'epoch')} that a rewrite has are done")
    if not rewritten:
        return Verdict(False, "the rewrite was before the first epoch of the phase, there is nothing to compare with")
    delta = curve.values[-1] - curve.values[rewritten - 1]
    holds = _is_less(delta, plateau, epochs)
    relation = "less than" if holds else "not less than"
    return Verdict(
        holds,
        f"{_shown(plateau)} improved by {delta:.6g} in the {counted(passed, 'epoch')} since the last rewrite, "
        f"{relation} {plateau.less_than:.6g}",
    )


def _is_less(delta: float, plateau: Plateau, epochs: Sequence[EpochRecord]) -> bool:
    return delta < plateau.less_than - SLACK * max(1.0, abs(_value(plateau.metric, epochs[-1])))


def _shown(plateau: Plateau) -> str:
    """Its metric, and how that is smoothed."""
    if plateau.smooth == "running_max":
        return f"best {plateau.metric}"
    return plateau.metric + {"ema": " (moving average)", "none": " (unsmoothed)"}[plateau.smooth]


def _threshold(threshold: Threshold, epochs: Sequence[EpochRecord]) -> Verdict:
    value = metric_values(threshold.metric, epochs[-1:])[0]
    parts, holds = [], True
    if threshold.above is not None:
        met = value > threshold.above
        holds = holds and met
        parts.append(f"{'above' if met else 'not above'} {threshold.above:.6g}")
    if threshold.below is not None:
        met = value < threshold.below
        holds = holds and met
        parts.append(f"{'below' if met else 'not below'} {threshold.below:.6g}")
    return Verdict(holds, f"{threshold.metric} {value:.6g} is {' and '.join(parts)}")


def _is_loss(metric: str) -> bool:
    return metric.rsplit(".", 1)[-1] == "loss"
