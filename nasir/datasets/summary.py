"""The summary of data: counted, and looked through for what makes accuracies mislead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nasir.datasets.decoded import Sizes
from nasir.records.data import PARTS, DataSummary
from nasir.training.data import DataPlan

ODDS = 19  # of the most frequent class to the rarest one, from which on it is told: 95 of 100 examples
NAMED = 10
_Array = np.ndarray[Any, Any]


def counted(labels: _Array, classes: int) -> tuple[int, ...]:
    """Examples of each class."""
    return tuple(np.bincount(labels, minlength=classes).tolist())


def summarize(
    plan: DataPlan,
    classes: Sequence[str],
    counts: Mapping[str, tuple[int, ...]],
    shape: Sequence[int],
    *,
    sizes: Sizes | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    skipped: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> DataSummary:
    """The summary of data that were split as `plan` says, with its warnings; `notes` come first among these.

    `counts` are empty where nobody has counted."""
    told = [*notes]
    if skipped:
        told.append(f"{_number(len(skipped), 'damaged image')} left out: {_some(skipped)}")
    if counts:
        told += _absent(classes, counts)
        told += _uneven(classes, counts["train"], weighted=plan.class_weights is not None)
    return DataSummary(
        dataset=plan.dataset,
        classes=tuple(classes),
        counts=dict(counts),
        shape=tuple(shape),
        sizes={} if sizes is None else sizes._asdict(),
        mean=tuple(round(float(value), 6) for value in mean),
        std=tuple(round(float(value), 6) for value in std),
        skipped=tuple(skipped),
        warnings=tuple(told),
    )


def _absent(classes: Sequence[str], counts: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Classes that a part has no examples of, if it has any at all."""
    told = []
    effects = {
        "train": "cannot be learned",
        "validation": "have no part in what is decided",
        "test": "have no part in the test accuracy",
    }
    for part in PARTS:
        missing = [name for name, count in zip(classes, counts[part], strict=True) if not count]
        if missing and any(counts[part]):
            told.append(f"no {_called(part)} examples of {_some(missing)}: such classes {effects[part]}")
    return told


def _uneven(classes: Sequence[str], counts: Sequence[int], weighted: bool) -> list[str]:
    """Whether one class is so much more frequent than another that an accuracy hides the other."""
    most = max(range(len(classes)), key=lambda place: counts[place])
    there = [place for place in range(len(classes)) if counts[place]]
    least = min(there, key=lambda place: counts[place])
    if counts[most] < ODDS * counts[least]:
        return []
    share = counts[most] / sum(counts)
    remedy = "" if weighted else ", and consider `class_weights: balanced`"
    return [
        f"uneven classes: {classes[most]} has {counts[most]:,} training examples, {classes[least]} {counts[least]:,}: "
        f"who always answers {classes[most]} is right in {100 * share:.1f} % of them; look at the balanced accuracy"
        f"{remedy}"
    ]


def _called(part: str) -> str:
    return "training" if part == "train" else part


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
