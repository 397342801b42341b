"""Which parts of the outputs of ops that rearrange axes are constant, given which parts of their inputs are.

See `nasir.ops.constants`.
"""

from __future__ import annotations

import numpy as np

from nasir.ops.constants import Known, NodeView, Values, concatenated, filled, whole


def _axis(node: NodeView) -> int:
    axis: int | None = node.attrs["axis"]
    return node.inputs[0].channel_axis if axis is None else axis


def joined(node: NodeView, *known: Known) -> Known:
    """Inputs one after another along an axis."""
    return None if all(part is None for part in known) else concatenated(known, node.inputs, _axis(node))


def stacked(node: NodeView, *known: Known) -> Known:
    """Inputs as the places of a new axis."""
    if all(part is None for part in known):
        return None
    parts = [filled(part, value) for part, value in zip(known, node.inputs, strict=True)]
    return np.stack(np.broadcast_arrays(*parts), axis=node.attrs["axis"])


def split(node: NodeView, x: Known) -> tuple[Known, ...]:
    """Consecutive parts of an axis."""
    sizes, axis = node.attrs["sizes"], _axis(node)
    if x is None:
        return (None,) * len(sizes)
    return tuple(np.split(whole(x, axis, sum(sizes)), np.cumsum(sizes)[:-1], axis=axis))


def part(node: NodeView, x: Known) -> Known:
    """One part of an axis."""
    if x is None:
        return None
    axis = _axis(node)
    index = np.arange(node.attrs["start"], node.attrs["stop"], node.attrs["step"])
    picked: Values = np.take(whole(x, axis, node.inputs[0].shape[axis]), index, axis=axis)
    return picked


def selected(node: NodeView, x: Known) -> Known:
    """One place of an axis, which goes."""
    if x is None:
        return None
    axis = node.attrs["axis"]
    return _place(x, axis, node.attrs["index"])


def unbound(node: NodeView, x: Known) -> tuple[Known, ...]:
    """Each place of an axis, which goes."""
    axis, count = node.attrs["axis"], node.inputs[0].shape[node.attrs["axis"]]
    if x is None:
        return (None,) * count
    return tuple([_place(x, axis, number) for number in range(count)])


def _place(x: Values, axis: int, index: int) -> Values:
    """One place of an axis, which goes."""
    place: Values = np.moveaxis(x, axis, 0)[index if x.shape[axis] > 1 else 0, ...]
    return place


def permuted(node: NodeView, x: Known) -> Known:
    """The axes in another order."""
    return None if x is None else x.transpose(node.attrs["order"])


def reshaped(node: NodeView, x: Known) -> Known:
    """The same entries, row-major, in another shape."""
    if x is None or node.inputs[0].batch != node.out.batch:
        return None
    return np.broadcast_to(x, node.inputs[0].shape).reshape(node.out.shape)
