"""Conditions over the epochs of a phase: do they hold, and a sentence that says so with the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from nasir.errors import RunError
from nasir.policy.base import Condition, Moment, Plateau, Record, Threshold

# A validation accuracy is a count over a fixed size, so an improvement of exactly `less_than` does occur (5 images
# of 10,000 are 0.0005). In binary fractions it lands on either side; this slack makes a tie never count as less.
SLACK = 1e-12
BESIDE = ("lr", "seconds")  # numbers that an epoch record keeps beside its metrics


class Verdict(NamedTuple):
    """Whether a condition holds, and the sentence that explains it either way."""

    holds: bool
    sentence: str


def evaluate(condition: Condition, epochs: Sequence[Record]) -> Verdict:
    """Test a condition on the `epoch` records of one phase, oldest first; never holds before the first epoch.

    Raises RunError if the records lack the metric.
    """
    if not epochs:
        return Verdict(False, "no epoch of the phase is done")
    if isinstance(condition, Plateau):
        return _plateau(condition, epochs)
    if isinstance(condition, Threshold):
        return _threshold(condition, epochs)
    done = len(epochs)
    if isinstance(condition, Moment):
        return Verdict(False, f"{condition.at} is a moment of the phase, not a property of its epochs")
    if done in condition.epochs:
        return Verdict(True, f"epoch {done} of the phase is listed")
    return Verdict(False, f"epoch {done} of the phase is not among {', '.join(map(str, condition.epochs))}")


def metric_values(name: str, epochs: Sequence[Record]) -> list[float]:
    """One value per epoch record; raises RunError naming the epoch and the metrics it does have."""
    values = []
    for record in epochs:
        metrics = {**{key: record[key] for key in BESIDE if key in record}, **record["metrics"]}
        if name not in metrics:
            known = ", ".join(sorted(metrics)) or "none"
            raise RunError(f"epoch {record['epoch']} has no metric {name!r} for a condition; it has {known}")
        values.append(float(metrics[name]))
    return values


def improvement(plateau: Plateau, values: Sequence[float]) -> float:
    """The improvement of the smoothed metric over the window, as `Plateau` defines it; positive is better.

    NaN entries (a diverged loss) are no improvement: the smoothed value stays where it was. It is NaN as long as
    nothing else was seen, and so then is the result.
    """
    lower_is_better = _is_loss(plateau.metric)
    signed = [-value for value in values] if lower_is_better else list(values)
    if len(signed) > plateau.window:
        return _smoothed(plateau, signed) - _smoothed(plateau, signed[: -plateau.window])
    return math.inf if lower_is_better else _smoothed(plateau, signed)


def _smoothed(plateau: Plateau, values: Sequence[float]) -> float:
    """The last entry of the smoothed series."""
    real = [value for value in values if not math.isnan(value)]
    if not real:
        return math.nan
    if plateau.smooth == "running_max":
        return max(real)
    if plateau.smooth == "none":
        return values[-1]
    average = real[0]
    for value in real[1:]:
        average = plateau.decay * average + (1.0 - plateau.decay) * value
    return average


def _plateau(plateau: Plateau, epochs: Sequence[Record]) -> Verdict:
    values = metric_values(plateau.metric, epochs)
    delta = improvement(plateau, values)
    holds = delta < plateau.less_than - SLACK * max(1.0, abs(values[-1]))
    name = plateau.metric + {"running_max": "", "ema": " (moving average)", "none": " (unsmoothed)"}[plateau.smooth]
    if plateau.smooth == "running_max":
        name = f"best {plateau.metric}"
    if len(values) <= plateau.window:
        short = f"{len(values)} of the {plateau.window + 1} epochs that a window of {plateau.window} needs are done"
        return Verdict(holds, f"{short}; {name} itself is under {plateau.less_than:.6g}" if holds else short)
    relation = "less than" if holds else "not less than"
    return Verdict(
        holds,
        f"{name} improved by {delta:.6g} in {plateau.window} epochs, {relation} {plateau.less_than:.6g}",
    )


def _threshold(threshold: Threshold, epochs: Sequence[Record]) -> Verdict:
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
