"""Axes rearranged, taken apart, joined."""

from __future__ import annotations

from nasir.importing.recording import Batch, Ref, Tree
from nasir.importing.rules.place import Place, Typed, rule
from nasir.ir import ValueType


@rule("torch.nn.modules.flatten.Flatten")
def _flatten_module(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    return Typed("flatten", (x,), {}) if a["start_dim"] == 1 and a["end_dim"] in (-1, len(value.shape)) else None


@rule("torch.flatten", "torch.Tensor.flatten")
def _flatten(place: Place, x: int, value: ValueType) -> Typed | None:
    start, end = place.given(1, "start_dim", 0), place.given(2, "end_dim", -1)
    return Typed("flatten", (x,), {}) if start == 1 and end in (-1, len(value.shape)) else None


@rule("torch.Tensor.view", "torch.Tensor.reshape", "torch.reshape")
def _flattened(place: Place, x: int, value: ValueType) -> Typed | None:
    """A view of each sample as one row; other ones have no op that says exactly what they do."""
    sizes = place.call.args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = tuple(sizes[0])
    return Typed("flatten", (x,), {}) if len(sizes) == 2 and sizes[0] == Batch(1) and value.batch == 1 else None


@rule("torch.Tensor.permute", "torch.permute")
def _permute(place: Place, x: int, value: ValueType) -> Typed | None:
    axes = place.call.args[1:] or (place.call.kwargs.get("dims", ()),)
    order = list(axes[0]) if len(axes) == 1 and isinstance(axes[0], tuple | list) else list(axes)
    return _ordered(x, value, [axis % (len(value.shape) + 1) for axis in order])


@rule("torch.transpose", "torch.Tensor.transpose", "torch.Tensor.swapaxes", "torch.swapaxes")
def _transpose(place: Place, x: int, value: ValueType) -> Typed | None:
    count = len(value.shape) + 1
    order = list(range(count))
    a, b = place.given(1, "dim0", None), place.given(2, "dim1", None)
    if not isinstance(a, int) or not isinstance(b, int):
        return None
    order[a % count], order[b % count] = order[b % count], order[a % count]
    return _ordered(x, value, order)


def _ordered(x: int, value: ValueType, order: list[int]) -> Typed | None:
    if order[:1] != [0] or len(order) != len(value.shape) + 1:
        return None
    return Typed("permute", (x,), {"order": [axis - 1 for axis in order[1:]]})


@rule("torch.chunk", "torch.Tensor.chunk")
def _chunk(place: Place, x: int, value: ValueType) -> Typed | None:
    count, axis = place.given(1, "chunks", None), place.given(2, "dim", 0)
    if not isinstance(count, int) or not _is_channels(axis, value):
        return None
    size = value.shape[value.channel_axis]
    part = -(-size // count)
    return _split(x, [part] * (size // part) + ([size % part] if size % part else []))


@rule("torch.split", "torch.Tensor.split", "torch.functional.split")
def _parts(place: Place, x: int, value: ValueType) -> Typed | None:
    sizes, axis = (
        place.given(1, "split_size_or_sections", place.call.kwargs.get("split_size")),
        place.given(2, "dim", 0),
    )
    if not _is_channels(axis, value):
        return None
    if isinstance(sizes, int):
        size = value.shape[value.channel_axis]
        sizes = [sizes] * (size // sizes) + ([size % sizes] if size % sizes else [])
    return _split(x, list(sizes)) if isinstance(sizes, tuple | list) and all(type(n) is int for n in sizes) else None


def _split(x: int, sizes: list[int]) -> Typed | None:
    return Typed("split", (x,), {"sizes": sizes}) if min(sizes) > 0 else None


def _is_channels(axis: Tree, value: ValueType) -> bool:
    return isinstance(axis, int) and axis % (len(value.shape) + 1) == value.channel_axis + 1


@rule("torch.cat", "torch.concat", "torch.concatenate")
def _concatenate(place: Place, x: int, value: ValueType) -> Typed | None:
    parts, axis = place.given(0, "tensors", ()), place.given(1, "dim", 0)
    if not isinstance(parts, tuple | list) or not all(isinstance(part, Ref) for part in parts):
        return None
    types = [place.types(part.number) for part in parts]
    dims = len(value.shape) + 1
    alike = all(len(t.shape) + 1 == dims and t.channel_axis == value.channel_axis for t in types)
    if not alike or not isinstance(axis, int) or axis % dims != value.channel_axis + 1:
        return None
    return Typed("concat", tuple([part.number for part in parts]), {})
