"""Sums and products."""

from __future__ import annotations

from nasir.importing.recording import Ref
from nasir.importing.rules.place import Place, Typed, rule
from nasir.ir import ValueType


@rule("torch.Tensor.add", "torch.add", "operator.add")
def _add(place: Place, x: int, value: ValueType) -> Typed | None:
    return _of_two("add", place, x, value)


@rule("torch.Tensor.mul", "torch.mul", "operator.mul")
def _mul(place: Place, x: int, value: ValueType) -> Typed | None:
    return _of_two("mul", place, x, value)


def _of_two(op: str, place: Place, x: int, value: ValueType) -> Typed | None:
    other = place.given(1, "other", None)
    if not isinstance(other, Ref) or len(place.call.args) > 2 or place.call.kwargs.keys() - {"other"}:
        return None
    second = place.types(other.number)
    fits = len(second.shape) == len(value.shape) and second.channel_axis == value.channel_axis
    if not fits or any(a != b and 1 not in (a, b) for a, b in zip(value.shape, second.shape, strict=True)):
        return None
    return Typed(op, (x, other.number), {})
