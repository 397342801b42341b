"""Shares of a whole: softmax."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from annotated_types import doc

from nasir.ir.infer import At
from nasir.ir.op import op
from nasir.ir.types import ValueType
from nasir.options.ranges import Whole

Along: TypeAlias = Annotated[Whole | None, doc("over which axis, the batch not counted; null: over the channels")]


def _over(at: At, x: ValueType, axis: int | None) -> None:
    if axis is not None and axis >= len(x.axes):
        at.fail(f"axis {axis} of a value that has {len(x.axes)}; count from 0, without the batch axis")
    at.mix(x.channels if axis is None else x.axes[axis])


@op("softmax", family="activation", nonnegative="always", later=("axis",))
def softmax(at: At, x: ValueType, axis: Along = None) -> ValueType:
    """exp(x) over its sum along an axis, that of the channels unless `axis` says which."""
    _over(at, x, axis)
    return x


@op("log_softmax", family="activation")
def log_softmax(at: At, x: ValueType, axis: Along = None) -> ValueType:
    """The logarithm of softmax."""
    _over(at, x, axis)
    return x
