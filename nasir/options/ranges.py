"""Numbers with the ranges that most options have; other ranges are written at their fields."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from annotated_types import Ge, Gt, Le, Lt

from nasir.options.annotations import WithThousands, WithUnit

Count: TypeAlias = Annotated[int, Ge(1)]
"""A whole number of at least 1."""
Whole: TypeAlias = Annotated[int, Ge(0)]
"""A whole number of at least 0."""
Positive: TypeAlias = Annotated[float, Gt(0)]
Cost: TypeAlias = Annotated[float, Gt(0), WithThousands()]
"""A number of parameters or multiply-accumulates: `40M` or 40000000."""
NotNegative: TypeAlias = Annotated[float, Ge(0)]
Share: TypeAlias = Annotated[float, Ge(0), Le(1)]
"""A part of something, 0 to 1."""
Rate: TypeAlias = Annotated[float, Ge(0), Lt(1)]
"""A part that is never the whole, such as a probability of dropout."""
Epochs: TypeAlias = Annotated[int, Ge(1), WithUnit("epochs")]
"""A whole number of epochs, at least 1: `3 epochs` or 3."""
EpochLength: TypeAlias = Annotated[float, Ge(0), WithUnit("epochs")]
"""A length in epochs that need not be whole: `0.5 epochs`."""
