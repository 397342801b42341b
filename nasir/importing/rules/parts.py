"""Parts of an axis, and axes joined."""

from __future__ import annotations

from types import NoneType

from nasir.importing.recording import Ref, Structure, Tree
from nasir.importing.rules.place import Place, Step, Typed, axis_of, rule
from nasir.importing.rules.shapes import reshaped
from nasir.ir import ValueType
from nasir.ops.axes import without


def _along(axis: int, value: ValueType) -> int | None:
    """The attribute that names an axis: None for that of the channels."""
    return None if axis == value.channel_axis else axis


@rule(
    *[f"{home}.{name}" for home in ("torch", "torch.Tensor") for name in ("chunk", "split", "tensor_split")],
    "torch.functional.split",
    "torch.Tensor.split_with_sizes",
)
def _split(place: Place, x: int, value: ValueType) -> Typed | None:
    """Each part is as long as the result says; with a size, a list of them, or a number of parts, it is one op."""
    axis = axis_of(place.given(2, "dim", 0), value)
    if axis is None:
        return None
    sizes = [part.shape[axis] for part in place.results]
    return Typed("split", (x,), {"sizes": sizes, "axis": _along(axis, value)}) if min(sizes) > 0 else None


@rule("torch.narrow", "torch.Tensor.narrow")
def _narrow(place: Place, x: int, value: ValueType) -> Typed | None:
    axis = axis_of(place.given(1, "dim", None), value)
    start, length = place.given(2, "start", None), place.given(3, "length", None)
    if axis is None or type(start) is not int or type(length) is not int:
        return None
    start %= value.shape[axis]
    steps = _sliced(value, axis, Structure(WHOLE.kind, (("start", start), ("stop", start + length), ("step", 1))))
    return None if steps is None else _chained(x, steps)


@rule("torch.select", "torch.Tensor.select")
def _select(place: Place, x: int, value: ValueType) -> Typed | None:
    axis, index = axis_of(place.given(1, "dim", None), value), place.given(2, "index", None)
    return None if axis is None or type(index) is not int else _chained(x, [_selected(value, axis, index)])


@rule("torch.unbind", "torch.Tensor.unbind")
def _unbind(place: Place, x: int, value: ValueType) -> Typed | None:
    axis = axis_of(place.given(1, "dim", 0), value)
    return None if axis is None else Typed("unbind", (x,), {"axis": axis})


@rule("torch.Tensor.__getitem__")
def _item(place: Place, x: int, value: ValueType) -> Typed | None:
    """Whole numbers, slices, `...` and None; not an index of the batch axis, nor one by tensors or lists."""
    index = place.given(1, "key", None)
    items = list(index) if isinstance(index, tuple) else [index]
    if not all(item is None or item is Ellipsis or type(item) is int or _is_slice(item) for item in items):
        return None
    named = sum([item is not None and item is not Ellipsis for item in items])
    if Ellipsis not in items:
        items.append(Ellipsis)
    at = items.index(Ellipsis)
    items[at : at + 1] = [WHOLE] * (len(value.shape) + (1 if value.batch else 0) - named)
    if value.batch and items.pop(0) != WHOLE:
        return None
    steps: list[Step] = []
    picked: dict[int, int] = {}
    for axis, item in enumerate([item for item in items if item is not None]):
        if isinstance(item, int):
            picked[axis] = item
            continue
        found = _sliced(value, axis, item)
        if found is None:
            return None
        steps += found
    for axis in sorted(picked, reverse=True):
        steps.append(_selected(value, axis, picked[axis]))
        value = without(value, axis)
    if None in items:
        steps.append(reshaped(value, place.results[0]))
    return _chained(x, steps)


WHOLE = Structure("slice", (("start", None), ("stop", None), ("step", None)))


def _is_slice(item: Tree) -> bool:
    """Whether it is a slice of numbers that are the same for every batch size."""
    return (
        isinstance(item, Structure)
        and item.kind == WHOLE.kind
        and all(type(n) in (int, NoneType) for _, n in item.parts)
    )


def _sliced(value: ValueType, axis: int, item: Structure) -> list[Step] | None:
    """The places of an axis that a slice takes: no op where it takes all; None where it takes none, or backwards."""
    size = value.shape[axis]
    start, stop, step = slice(*[number for _, number in item.parts]).indices(size)
    if step < 1 or start >= stop:
        return None
    if (start, stop, step) == (0, size, 1):
        return []
    return [("slice", {"start": start, "stop": stop, "axis": _along(axis, value), "step": step})]


def _selected(value: ValueType, axis: int, index: int) -> Step:
    """One place of an axis."""
    index %= value.shape[axis]
    if value.is_sequence and value.plain and axis == 0:
        return "select_token", {"index": index}
    return "select", {"axis": axis, "index": index}


def _chained(x: int, steps: list[Step]) -> Typed:
    """Ops one after another."""
    (op, attrs), *rest = steps or [("identity", {})]
    return Typed(op, (x,), attrs, then=tuple(rest))


@rule("torch.cat", "torch.concat", "torch.concatenate")
def _concatenate(place: Place, x: int, value: ValueType) -> Typed | None:
    axis = axis_of(place.given(1, "dim", 0), value)
    parts = _parts(place, value)
    return None if axis is None or parts is None else Typed("concat", parts, {"axis": _along(axis, value)})


@rule("torch.stack")
def _stack(place: Place, x: int, value: ValueType) -> Typed | None:
    axis = axis_of(place.given(1, "dim", 0), value, more=1)
    parts = _parts(place, value)
    return None if axis is None or parts is None else Typed("stack", parts, {"axis": axis})


def _parts(place: Place, value: ValueType) -> tuple[int, ...] | None:
    """The values that are joined, where they are alike but for an axis."""
    parts = place.given(0, "tensors", ())
    if not isinstance(parts, tuple | list) or not all(isinstance(part, Ref) for part in parts):
        return None
    types = [place.types(part.number) for part in parts]
    wanted = (len(value.shape), value.channel_axis, value.batch, value.dtype)
    alike = all((len(t.shape), t.channel_axis, t.batch, t.dtype) == wanted for t in types)
    return tuple([part.number for part in parts]) if alike else None
