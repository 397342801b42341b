"""The weights of classes in the loss, from what a plan says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nasir.errors import DataError
from nasir.options import suggestion
from nasir.training.data import DataPlan


def class_weights(
    plan: DataPlan, class_names: Sequence[str], counts: Sequence[int]
) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """A weight for each class, float64 [C]; None where the plan has none. `counts`: training examples of each class.

    DataError where the plan names other classes than there are.
    """
    given = plan.class_weights
    if given is None:
        return None
    place = f"data set {plan.dataset!r}: class_weights"
    if given == "balanced":
        each = np.asarray(counts, np.float64)
        # a class without examples has no say in training, whatever its weight
        return np.where(each > 0, each.sum() / (np.count_nonzero(each) * np.maximum(each, 1.0)), 1.0)
    if isinstance(given, Mapping):
        for name in given:
            if name not in class_names:
                raise DataError(f"{place}: there is no class {name!r}; {suggestion(name, class_names[:20])}")
        return np.array([given.get(name, 1.0) for name in class_names], np.float64)
    if len(given) != len(class_names):
        raise DataError(
            f"{place} has {len(given)} numbers, and there are {len(class_names)} classes "
            f"({', '.join(class_names[:20])}); give one for each, or a mapping from names"
        )
    return np.array(given, np.float64)
