"""The type of what several inputs become, number by number."""

from __future__ import annotations

from nasir.ir.infer import At
from nasir.ir.space import Axis, pin, size_of
from nasir.ir.types import ValueType


def merged(at: At, inputs: tuple[ValueType, ...], begin: int = 0) -> ValueType:
    """The inputs side by side: axes of one unit are broadcast, all others run over the same units.

    `begin`: which input of the node is the first of them.
    """
    lead = 0 if inputs[0].batch else _lead(inputs)
    first = inputs[lead]
    for index, other in enumerate(inputs):
        if index == lead:
            continue
        axes = first.axes
        for number, (a, b) in enumerate(zip(axes, _beside(at, begin + lead, begin + index, first, other), strict=True)):
            if a is b or a == b:
                continue
            if b == 1:  # one number for all of the other's
                continue
            size, other_size = size_of(a), size_of(b)
            if a == 1:
                wider = b
            elif size != other_size and 1 in (size, other_size):
                alone, wider = (a, b) if size == 1 else (b, a)
                pin(alone, f"{at.node.op} '{at.label}' takes its one unit for all of another axis")
            else:
                at.same(a, b, f"axis {number + 1}", (begin + lead, begin + index))
                continue
            if wider is not a:
                axes = (*axes[:number], wider, *axes[number + 1 :])
        if axes is not first.axes:
            first = first.over(axes)
    return first


def _lead(inputs: tuple[ValueType, ...]) -> int:
    """Which of the inputs has what the others lie beside: the first with a batch axis, else the first of most axes."""
    batched = [number for number, value in enumerate(inputs) if value.batch]
    return batched[0] if batched else max(range(len(inputs)), key=lambda number: len(inputs[number].axes))


def _beside(at: At, lead: int, index: int, first: ValueType, other: ValueType) -> tuple[Axis, ...]:
    """The axes of input `index` that lie on those of `first`; of a value without a batch axis the last on the last."""
    if not other.batch:
        missing = len(first.axes) - len(other.axes)
        if missing >= 0:
            return (1,) * missing + other.axes
        if missing == -1 and first.batch and other.shape[0] == 1:  # in the place of the batch
            return other.axes[1:]
    if len(other.axes) != len(first.axes):
        at.fail(
            f"inputs have shapes {first.shape} (from {at.source(lead, first.channels)}) and "
            f"{other.shape} (from {at.source(index, other.channels)})"
        )
    if other.channel_axis != first.channel_axis:
        at.fail(
            f"inputs have their channels on axis {first.channel_axis + 1} (from {at.source(lead, first.channels)}) "
            f"and on axis {other.channel_axis + 1} (from {at.source(index, other.channels)})"
        )
    return other.axes
