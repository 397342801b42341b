"""Arithmetic of two values, and of a value and a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from types import MappingProxyType
from typing import TypeAlias

from nasir.importing.recording import Ref, Tree
from nasir.importing.rules.place import Place, Typed, is_number, rule
from nasir.ir import JSON, ValueType

Of: TypeAlias = Callable[[float], Typed]


def names(*functions: str) -> tuple[str, ...]:
    """Operations that lie in torch and are methods of tensors."""
    return tuple([f"{home}.{function}" for function in functions for home in ("torch", "torch.Tensor")])


@rule(*names("add"), "operator.add", "torch.Tensor.__radd__")
def _add(place: Place, x: int, value: ValueType) -> Typed | None:
    alpha = place.call.kwargs.get("alpha", 1)
    if not is_number(alpha):
        return None
    if alpha == 1:
        return _of_two(place, x, value, "add", lambda number: _shift(x, number))
    return _of_two(place, x, value, "sub", lambda number: _shift(x, alpha * number), {"alpha": float(-alpha)})


@rule(*names("sub", "subtract"), "operator.sub")
def _sub(place: Place, x: int, value: ValueType) -> Typed | None:
    alpha = place.call.kwargs.get("alpha", 1)
    if not is_number(alpha):
        return None
    return _of_two(place, x, value, "sub", lambda number: _shift(x, -alpha * number), {"alpha": float(alpha)})


@rule(*names("rsub"), "torch.Tensor.__rsub__")
def _reverse_sub(place: Place, x: int, value: ValueType) -> Typed | None:
    """A number minus the value."""
    number = place.given(1, "other", None)
    if not is_number(number) or len(place.call.args) > 2 or place.call.kwargs.get("alpha", 1) != 1:
        return None
    return Typed("scale", (x,), _times(-1.0), then=(("shift", {"value": float(number)}),))


@rule(*names("mul", "multiply"), "operator.mul", "torch.Tensor.__rmul__")
def _mul(place: Place, x: int, value: ValueType) -> Typed | None:
    return _of_two(place, x, value, "mul", lambda number: Typed("scale", (x,), _times(number)))


@rule(*names("neg", "negative"), "torch.Tensor.__neg__")
def _neg(place: Place, x: int, value: ValueType) -> Typed | None:
    return Typed("scale", (x,), _times(-1.0))


@rule(*names("div", "divide", "true_divide"), "operator.truediv")
def _div(place: Place, x: int, value: ValueType) -> Typed | None:
    if place.call.kwargs.get("rounding_mode") is not None or place.given(1, "other", None) == 0:
        return None
    return _of_two(place, x, value, "div", lambda number: Typed("divide_by", (x,), {"value": float(number)}))


@rule("torch.Tensor.__rdiv__", "torch.Tensor.__rtruediv__")
def _reverse_div(place: Place, x: int, value: ValueType) -> Typed | None:
    """A number divided by the value, which torch computes as a product with the reciprocal."""
    number = place.given(1, "other", None)
    if not is_number(number):
        return None
    return Typed("reciprocal", (x,), {}, then=(("scale", _times(number)),))


@rule(*names("addcmul"))
def _addcmul(place: Place, x: int, value: ValueType) -> Typed | None:
    others, scale = (
        [place.given(1, "tensor1", None), place.given(2, "tensor2", None)],
        place.call.kwargs.get("value", 1),
    )
    if len(place.call.args) > 3 or not is_number(scale) or not all(isinstance(other, Ref) for other in others):
        return None
    inputs = (x, *[other.number for other in others])
    types = [place.types(number) for number in inputs]
    if not all(_fits(one, other) for one, other in combinations(types, 2)):
        return None
    return Typed("addcmul", inputs, {"value": float(scale)})


@rule("torch.maximum", "torch.Tensor.maximum", "torch.max", "torch.Tensor.max")
def _maximum(place: Place, x: int, value: ValueType) -> Typed | None:
    return _of_two(place, x, value, "maximum")


@rule("torch.minimum", "torch.Tensor.minimum", "torch.min", "torch.Tensor.min")
def _minimum(place: Place, x: int, value: ValueType) -> Typed | None:
    return _of_two(place, x, value, "minimum")


def _shift(x: int, value: float) -> Typed:
    return Typed("shift", (x,), {"value": float(value)})


def _times(value: float) -> dict[str, JSON]:
    return {"value": float(value), "learnable": False}


def _of_two(
    place: Place,
    x: int,
    value: ValueType,
    op: str,
    of_number: Of | None = None,
    attrs: Mapping[str, JSON] = MappingProxyType({}),
) -> Typed | None:
    """`op` of two values of one shape, axes of 1 repeated; of a value and a number what `of_number` says."""
    other: Tree = place.given(1, "other", None)
    if len(place.call.args) > 2 or place.call.kwargs.keys() - {"other", "alpha", "rounding_mode"}:
        return None
    if is_number(other) and of_number is not None:
        return of_number(other)
    if not isinstance(other, Ref):
        return None
    return Typed(op, (x, other.number), attrs) if _fits(value, place.types(other.number)) else None


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
