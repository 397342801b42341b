"""Ops that make one number of all that lie along some axes. Axes are counted without the batch axis."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from annotated_types import MinLen, doc

from nasir.ir.infer import At
from nasir.ir.op import op
from nasir.ir.types import ValueType
from nasir.ops import axis_constants as known
from nasir.options.ranges import Whole

Reduction: TypeAlias = Literal["mean", "sum", "amax", "amin"]


@op(
    "reduce",
    family="shape",
    averages=lambda attrs: attrs["how"] == "mean",
    channels="moves",
    nonnegative="keeps",
    takes=("unbatched",),
    constant=known.reduced,
)
def reduce(
    at: At,
    x: ValueType,
    how: Reduction,
    axes: Annotated[tuple[Whole, ...], MinLen(1), doc("which axes, without the batch axis, in rising order")],
    keep: Annotated[bool, doc("they stay, with one place each")] = False,
) -> ValueType:
    """Mean, sum, maximum or minimum over one axis or several: (C, H, W) over [1, 2] is (C,), or (C, 1, 1) if kept."""
    if sorted(set(axes)) != list(axes) or axes[-1] >= len(x.axes):
        at.fail(
            f"axes must rise from 0 to at most {len(x.axes) - 1}, not {list(axes)}, for an input of shape {x.shape}"
        )
    for number in axes:
        at.mix(x.axes[number])
    if keep:
        return x.over(tuple([1 if number in axes else axis for number, axis in enumerate(x.axes)]))
    rest = [number for number in range(len(x.axes)) if number not in axes]
    channels = rest.index(x.channel_axis) if x.channel_axis in rest else None
    return ValueType(tuple([x.axes[number] for number in rest]), channels, x.dtype, x.batch)
