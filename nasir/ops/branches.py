"""Ops where branches meet."""

from __future__ import annotations

from typing import Literal, TypeAlias

from nasir.ir.infer import At
from nasir.ir.op import op
from nasir.ir.types import ValueType
from nasir.ops.merging import merged

Average: TypeAlias = Literal["probabilities", "logits"]
Training: TypeAlias = Literal["separate", "joint"]


@op("ensemble", family="ensemble", mixes=True)
def ensemble(at: At, *x: ValueType, average: Average = "probabilities", train: Training = "separate") -> ValueType:
    """The mean prediction of branches that put out logits (C,) each.

    average   probabilities: log of the mean of the branches' softmax, so that cross-entropy of it is the ensemble's;
              logits: mean of the logits
    train     separate: in training mode the logits of all branches go on, [N, branches, C], and each branch has its
              own cross-entropy; joint: the mean is trained. An ensemble that trains separately ends its network.
    """
    if len(x[0].axes) != 1:
        at.fail(f"needs vectors of logits, got shape {x[0].shape}; put a classifier at the end of each branch")
    return merged(at, x)
