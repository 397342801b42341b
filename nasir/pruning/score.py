"""How much each unit of a space matters: one number from the measurements of all arrays tied to it.

Aggregation over tied members and division by their mean follow DepGraph (Fang et al. 2023, arXiv:2301.12900).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nasir.ir.space import Atom
from nasir.rewriting.evidence import Evidence

Score: TypeAlias = Literal["l1", "l2", "norm_scale", "taylor", "activation_mean", "random", "group_lasso"]
Aggregate: TypeAlias = Literal["mean", "max", "sum"]
Normalize: TypeAlias = Literal["none", "mean", "max", "sum"]
Scores: TypeAlias = NDArray[np.float64]

MEASURED: dict[str, tuple[str, ...]] = {
    "l1": ("weight_l1",),
    "l2": ("weight_l2",),
    "norm_scale": ("norm_scale",),
    "taylor": ("taylor",),
    "activation_mean": ("activation_mean",),
    "random": (),
    "group_lasso": ("group_lasso",),
}


def measured(score: Score, l1: float) -> tuple[str, ...]:
    """Kinds of evidence that a score is made of; `l1`: share of mean |w| in the group lasso's."""
    return (*MEASURED[score], "weight_mean") if score == "group_lasso" and l1 else MEASURED[score]


def scores_of(
    seen: Evidence, atom: Atom, score: Score, aggregate: Aggregate, normalize: Normalize, l1: float = 0.0
) -> Scores | None:
    """One number per unit, or None where nothing of the kind is tied to the space (say, no norm)."""
    if score == "random":
        return seen.rng(f"prune {atom.name}").random(atom.size)
    rows = seen.members(MEASURED[score][0], atom)
    if l1 and score == "group_lasso":
        rows = (1.0 - l1) * rows + l1 * seen.members("weight_mean", atom)
    if not len(rows):
        return None
    values: Scores = getattr(np, aggregate)(rows, axis=0) if len(rows) > 1 else rows[0]
    if normalize == "none":
        return values
    size = float(getattr(np, normalize)(values))
    return values / size if size > 0.0 else values


def weakest_first(scores: Sequence[Scores]) -> list[NDArray[np.int64]]:
    """For each space its units from the lowest score to the highest; equal ones in their order."""
    return [np.argsort(values, kind="stable") for values in scores]
