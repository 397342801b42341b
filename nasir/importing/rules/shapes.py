"""Axes in another order, and shapes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from nasir.importing.recording import Tree
from nasir.importing.rules.place import Place, Step, Typed, axis_of, plain, rule
from nasir.ir import ValueType
from nasir.ir.space import size_of
from nasir.ir.types import usual_channel_axis

FUNCTIONS = ("flatten", "unflatten", "reshape", "squeeze", "unsqueeze", "ravel")


@rule(
    "torch.nn.modules.flatten.Flatten",
    "torch.nn.modules.flatten.Unflatten",
    *[f"{home}.{name}" for home in ("torch", "torch.Tensor") for name in FUNCTIONS],
    "torch.Tensor.view",
)
def _reshape(place: Place, x: int, value: ValueType) -> Typed | None:
    """Entries in the order in which they lie, whatever the call is named: all is said by the shape of the result."""
    (made,) = place.results
    if made.dtype != value.dtype or (made.batch > 0) != (value.batch > 0):  # bytes taken for others
        return None
    op, attrs = reshaped(value, made)
    return Typed(op, (x,), attrs)


def reshaped(value: ValueType, made: ValueType) -> Step:
    """The op that lays the entries of a value out as another one."""
    if (value.shape, value.batch) == (made.shape, made.batch):
        return "identity", {}
    if len(made.shape) == 1 and value.batch == made.batch:
        return "flatten", {}
    axis = _holding(value, made)
    usual = axis == usual_channel_axis(len(made.shape))
    rows = None if made.batch == value.batch else made.batch
    return "reshape", {"shape": made.shape, "channel_axis": None if usual else axis, "rows": rows}


def _holding(value: ValueType, made: ValueType) -> int:
    """The axis that holds the channels once a value is reshaped; of several, the one whose places lie closest."""
    behind = prod(value.shape[value.channel_axis + 1 :])
    low, high = behind, behind * size_of(value.channels)
    stride = 1
    for axis in reversed(range(len(made.shape))):
        if max(stride, low) < min(stride * made.shape[axis], high):
            return axis
        stride *= made.shape[axis]
    return usual_channel_axis(len(made.shape))


@rule("torch.Tensor.permute", "torch.permute")
def _permute(place: Place, x: int, value: ValueType) -> Typed | None:
    axes = place.call.args[1:] or (place.call.kwargs.get("dims", ()),)
    return _ordered(x, value, list(axes[0]) if isinstance(axes[0], tuple | list) else list(axes))


@rule(*[f"{home}.{name}" for home in ("torch", "torch.Tensor") for name in ("transpose", "swapaxes", "swapdims")])
def _transpose(place: Place, x: int, value: ValueType) -> Typed | None:
    names = ("dim0", "dim1") if place.call.operation.endswith(("transpose", "dims")) else ("axis0", "axis1")
    return _exchanged(x, value, *[place.given(number, name, None) for number, name in enumerate(names, start=1)])


@rule("torch.Tensor.mT.__get__")
def _matrix(place: Place, x: int, value: ValueType) -> Typed | None:
    return _exchanged(x, value, -2, -1)


def _exchanged(x: int, value: ValueType, a: Tree, b: Tree) -> Typed | None:
    order: list[Tree] = list(range(len(value.shape) + (1 if value.batch else 0)))
    if type(a) is not int or type(b) is not int:
        return None
    order[a], order[b] = order[b], order[a]
    return _ordered(x, value, order)


@rule(*[f"{home}.{name}" for home in ("torch", "torch.Tensor") for name in ("movedim", "moveaxis")])
def _moved(place: Place, x: int, value: ValueType) -> Typed | None:
    source, target = (place.given(number, name, None) for number, name in ((1, "source"), (2, "destination")))
    pairs = [(source, target)] if type(source) is int else list(zip(source, target, strict=True))
    count = len(value.shape) + (1 if value.batch else 0)
    moves = {to % count: axis % count for axis, to in pairs}
    rest = iter([axis for axis in range(count) if axis not in moves.values()])
    return _ordered(x, value, [moves[place] if place in moves else next(rest) for place in range(count)])


def _ordered(x: int, value: ValueType, order: Sequence[Tree]) -> Typed | None:
    """The axes, the batch axis among them, in another order."""
    count = len(value.shape) + (1 if value.batch else 0)
    if value.batch and order[0] % count != 0:
        return None
    axes = [axis_of(axis, value) for axis in (order[1:] if value.batch else order)]
    return Typed("permute", (x,), {"order": axes})


plain("contiguous", "torch.Tensor.contiguous")
