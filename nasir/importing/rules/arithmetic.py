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
    return Typed(op, (x, other.number), {}) if _fits(value, place.types(other.number)) else None


def _fits(one: ValueType, other: ValueType) -> bool:
    """Whether axes lie on each other as sums and products take them; a weight's last ones on the last ones."""
    if not (one.batch and other.batch):
        whole, part = (one.shape, other.shape) if one.batch else (other.shape, one.shape)
        if not (one.batch or other.batch):
            whole, part = sorted((one.shape, other.shape), key=len, reverse=True)
        if len(part) == len(whole) + 1 and part[0] == 1:  # in the place of the batch
            part = part[1:]
        pairs = zip(reversed(whole), reversed(part), strict=False)
        return len(part) <= len(whole) and all(a == b or 1 in (a, b) for a, b in pairs)
    alike = len(one.shape) == len(other.shape) and one.channel_axis == other.channel_axis
    return alike and all(a == b or 1 in (a, b) for a, b in zip(one.shape, other.shape, strict=True))
