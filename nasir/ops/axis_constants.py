"""Which parts of the outputs of ops that rearrange axes are constant, given which parts of their inputs are.

See `nasir.ops.constants`.
"""

from __future__ import annotations

from collections.abc import Callable

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
    if x is None:
        return None
    before, after = node.inputs[0], node.out
    rows = np.broadcast_to(x, (max(before.batch, 1), *before.shape)).reshape(max(after.batch, 1), *after.shape)
    return rows[0] if len(rows) == 1 else np.where((rows == rows[0]).all(axis=0), rows[0], np.nan)


def reduced(node: NodeView, x: Known) -> Known:
    """One number of all along some axes."""
    if x is None:
        return None
    how, axes = node.attrs["how"], tuple(node.attrs["axes"])
    full = x
    for axis in axes if how == "sum" else ():
        full = whole(full, axis, node.inputs[0].shape[axis])
    functions: dict[str, Callable[..., Values]] = {"mean": np.mean, "sum": np.sum, "amax": np.max, "amin": np.min}
    return functions[how](full, axis=axes, keepdims=node.attrs["keep"])


def shuffled(node: NodeView, x: Known) -> Known:
    """Channels of equal groups one by one."""
    if x is None:
        return None
    groups = node.attrs["groups"]
    return whole(x, 0, node.out.shape[0]).reshape(groups, -1, *x.shape[1:]).swapaxes(0, 1).reshape(-1, *x.shape[1:])


def spread(node: NodeView, x: Known) -> Known:
    """Channels as squares of places."""
    if x is None:
        return None
    (channels, *_), r = node.out.shape, node.attrs["factor"]
    height, width = node.inputs[0].shape[1:]
    full = np.broadcast_to(x, node.inputs[0].shape).reshape(channels, r, r, height, width)
    return full.transpose(0, 3, 1, 4, 2).reshape(node.out.shape)


def gathered(node: NodeView, x: Known) -> Known:
    """Squares of places as channels."""
    if x is None:
        return None
    (channels, *_), r = node.inputs[0].shape, node.attrs["factor"]
    height, width = node.out.shape[1:]
    full = np.broadcast_to(x, node.inputs[0].shape).reshape(channels, height, r, width, r)
    return full.transpose(0, 2, 4, 1, 3).reshape(node.out.shape)


def rolled(node: NodeView, x: Known) -> Known:
    """Axes shifted around."""
    return None if x is None else np.roll(x, node.attrs["shifts"], node.attrs["axes"])


def repeated(node: NodeView, x: Known) -> Known:
    """Axes several times."""
    if x is None:
        return None
    for axis, count in enumerate(node.attrs["counts"]):
        if x.shape[axis] > 1 or node.inputs[0].shape[axis] == 1:
            x = np.repeat(x, count, axis) if node.attrs["each"] else np.concatenate([x] * count, axis)
    return x


def untouched(node: NodeView, x: Known) -> Known:
    """The value itself."""
    return x
