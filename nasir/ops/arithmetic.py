"""Arithmetic with a number, and of two values, element by element. Sums and products of values: `nasir.ops.plain`."""

from __future__ import annotations

import numpy as np

from nasir.ir.infer import At
from nasir.ir.op import op
from nasir.ir.types import ValueType
from nasir.ops.merging import merged
from nasir.ops.pointwise import Values, pointwise


@pointwise("shift", family="shift")
def shift(x: Values, value: float) -> Values:
    """x + `value`."""
    return x + value


def _zero(value: float) -> str:
    return "value must not be 0: it divides" if value == 0.0 else ""


@pointwise("divide_by", family="scale", unchanged="zero", fault=_zero)
def divide_by(x: Values, value: float) -> Values:
    """x / `value`, which may differ in its last bit from a product with 1 / `value`."""
    return x / value


def _difference(x: Values, y: Values, alpha: float = 1.0) -> Values:
    return x - alpha * y


@op("sub", family="elementwise", pointwise=_difference, takes=("unbatched",))
def sub(at: At, x: ValueType, y: ValueType, alpha: float = 1.0) -> ValueType:
    """x - `alpha` * y of two values of one shape; an axis of 1 is repeated."""
    return merged(at, (x, y))


@np.errstate(all="ignore")
def _quotient(x: Values, y: Values) -> Values:
    return x / y


@op("div", family="elementwise", pointwise=_quotient, nonnegative="keeps", takes=("unbatched",))
def div(at: At, x: ValueType, y: ValueType) -> ValueType:
    """x / y of two values of one shape; an axis of 1 is repeated."""
    return merged(at, (x, y))


def _sum_with_product(x: Values, y: Values, z: Values, value: float = 1.0) -> Values:
    return x + value * y * z


@op("addcmul", family="elementwise", pointwise=_sum_with_product, takes=("unbatched",))
def addcmul(at: At, x: ValueType, y: ValueType, z: ValueType, value: float = 1.0) -> ValueType:
    """x + `value` * y * z of three values of one shape; an axis of 1 is repeated."""
    return merged(at, (x, y, z))


@op("maximum", family="elementwise", pointwise=np.maximum, nonnegative="keeps", takes=("unbatched",))
def maximum(at: At, x: ValueType, y: ValueType) -> ValueType:
    """The larger of two values of one shape, element by element; an axis of 1 is repeated."""
    return merged(at, (x, y))


@op("minimum", family="elementwise", pointwise=np.minimum, nonnegative="keeps", takes=("unbatched",))
def minimum(at: At, x: ValueType, y: ValueType) -> ValueType:
    """The smaller of two values of one shape, element by element; an axis of 1 is repeated."""
    return merged(at, (x, y))
