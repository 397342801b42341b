"""Which examples are trained on, held out and tested on: draws that are stratified by class and keyed by a seed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np

from nasir.errors import DataError
from nasir.training.data import DataPlan

SPLIT_SEED = 20  # of test parts cut out here: fixed, so that every run of every seed is judged on the same images
MEASURED = 2000  # streamed images that give mean and deviation: both are then known to about 1 % of the deviation
VALIDATION, SUBSET, SAMPLE = 1, 2, 6  # purposes of a draw: no two share a random stream (see the others in the backend)
_Array = np.ndarray[Any, Any]


def split_indices(labels: _Array, count: int, key: tuple[int, ...]) -> _Array:
    """Sorted positions of `count` examples drawn from `labels` so that each class keeps its share.

    Shares are rounded by largest remainder, so exactly `count` come back; `key` seeds the draw.
    """
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    classes, sizes = np.unique(labels, return_counts=True)
    exact = sizes * count / max(len(labels), 1)
    quota = np.floor(exact).astype(np.int64)
    short = count - int(quota.sum())
    quota[np.argsort(-(exact - quota), kind="stable")[:short]] += 1
    picks = [
        random.permutation(np.flatnonzero(labels == label))[:share] for label, share in zip(classes, quota, strict=True)
    ]
    return np.sort(np.concatenate(picks)) if picks else np.zeros(0, np.int64)


def cut(labels: _Array, fraction: float, seed: int) -> tuple[_Array, _Array]:
    """Sorted positions of the training part and of the test part, which is `fraction` of each class."""
    held = split_indices(labels, round(len(labels) * fraction), (seed, len(labels)))
    return np.setdiff1d(np.arange(len(labels)), held, assume_unique=True), held


def partition(labels: _Array, plan: DataPlan) -> tuple[_Array, _Array]:
    """Sorted positions of the training part (after `subset`) and of the validation part."""
    wanted = plan.validation if isinstance(plan.validation, int) else round(plan.validation * len(labels))
    if wanted >= len(labels):
        raise DataError(
            f"data set {plan.dataset!r}: validation takes {wanted} of {len(labels)} training examples; "
            "leave some to train on"
        )
    held = split_indices(labels, wanted, (plan.seed, VALIDATION))
    kept = np.setdiff1d(np.arange(len(labels)), held, assume_unique=True)
    if plan.subset < 1:
        count = max(round(plan.subset * len(kept)), 1)
        kept = kept[split_indices(labels[kept], count, (plan.seed, SUBSET))]
    return kept, held


def sampled(labels: _Array, plan: DataPlan) -> _Array:
    """Sorted positions of the training images to measure where not all are: a stratified draw, or all if few."""
    return split_indices(labels, min(MEASURED, len(labels)), (plan.seed, SAMPLE))


def class_numbers(class_names: Sequence[str], names: Sequence[str], dataset: str) -> _Array:
    """The label that each class gets, int64 [C], when only those of `names` are used, in that order; -1: none.

    DataError where there is no such class.
    """
    for name in names:
        if name not in class_names:
            close = difflib.get_close_matches(name, class_names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"its classes are {', '.join(class_names[:20])}"
            raise DataError(f"data set {dataset!r}: classes: there is no class {name!r}; {hint}")
    number = np.full(len(class_names), -1, dtype=np.int64)
    number[[list(class_names).index(name) for name in names]] = np.arange(len(names))
    return number
