"""Which parts of an op's outputs are constant in evaluation, given which parts of its inputs are.

A rule is a function of the node's `NodeView` and of what is known of each input; see `OpDef.constant`. It is asked for
what the op's family and its pointwise function do not say (`nasir.pruning.constants`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nasir.ir.types import FLOAT, JSON, Port, Slot, ValueType

if TYPE_CHECKING:
    from nasir.ir.graph import Graph

Values: TypeAlias = NDArray[np.float64]  # axes of a value, each whole or 1 (the same all along); NaN: varies
Known: TypeAlias = Values | None  # None: all of it varies


class NodeView:
    """What a rule sees of a node: its attributes and weights, the types of its inputs and of its (first) output."""

    __slots__ = ("_graph", "_id", "_weight")

    def __init__(self, graph: Graph, node_id: int, weight: Callable[[str, str], NDArray[Any]]) -> None:
        """`weight` gives an array by the label of its node and its name."""
        self._graph, self._id, self._weight = graph, node_id, weight

    @property
    def attrs(self) -> Mapping[str, JSON]:
        return self._graph.nodes[self._id].attrs

    @property
    def inputs(self) -> tuple[ValueType, ...]:
        types = self._graph.infer.types
        return tuple([types[port] for port in self._graph.nodes[self._id].inputs])

    @property
    def out(self) -> ValueType:
        return self._graph.infer.types[Port(self._id)]

    @property
    def slots(self) -> Mapping[str, Slot]:
        return {name: slot for name, (_, slot) in self._graph.weights(self._id).items()}

    def weight(self, name: str) -> NDArray[Any]:
        """A weight of the node, whoever owns it."""
        key, _ = self._graph.weights(self._id)[name]
        return self._weight(self._graph.nodes[key.node].label, key.slot)


def window(node: NodeView, x: Known) -> Known:
    """Something of each window, or of each few places, that is v where all of them are v."""
    return None if x is None else even(x, node.inputs[0])


def mean_of_places(node: NodeView, x: Known) -> Known:
    """Mean over everything but the channels."""
    if x is None:
        return None
    channels = node.inputs[0].channel_axis
    mean: Values = x.mean(axis=tuple([n for n in range(x.ndim) if n != channels]))
    return mean


def sequenced(node: NodeView, x: Known) -> Known:
    """The places of an image one after another."""
    return None if x is None else np.broadcast_to(x, node.inputs[0].shape).reshape(node.out.shape[::-1]).T


def one_place(node: NodeView, x: Known) -> Known:
    """One place of a sequence."""
    return None if x is None else x[node.attrs["index"] if len(x) > 1 else 0]


def padded(node: NodeView, x: Known) -> Known:
    """Zero channels around those of the input."""
    known = filled(x, node.inputs[0])
    widths = [(0, 0)] * known.ndim
    widths[node.out.channel_axis] = (node.attrs["before"], node.attrs["after"])
    return np.pad(known, widths)


def scaled(node: NodeView, x: Known) -> Known:
    """Product with one number."""
    if x is None:
        return None
    return x * float(node.weight("weight") if node.slots else node.attrs["value"])


def affine(node: NodeView, x: Known) -> Known:
    """Product with a weight per channel, plus a bias per channel: where the weight is zero the bias is all of it."""
    scale, shift = (lifted(node.weight(name), node.out) for name in ("weight", "bias"))
    if x is None and not (scale == 0.0).any():
        return None
    values = np.full_like(shift, np.nan) if x is None else x * scale + shift
    return np.where(scale == 0.0, shift, values)


def biased(node: NodeView, x: Known) -> Known:
    """Sum with one learned number."""
    if x is None:
        return None
    total: Values = x + float(node.weight("bias"))
    return total


def bent(node: NodeView, x: Known) -> Known:
    """x where it is positive, else a slope times x."""
    if x is None:
        return None
    slope = node.weight("weight")
    return x * np.where(x > 0.0, 1.0, lifted(slope, node.out) if len(slope) > 1 else slope)


def moved(node: NodeView, x: Known) -> Known:
    """Sum with a vector for each place of a sequence."""
    if x is None:
        return None
    total: Values = x + node.weight("weight")[0]
    return total


def preceded(node: NodeView, x: Known) -> Known:
    """One more place before a sequence."""
    return None if x is None else np.where(node.weight("weight")[0] == 0.0, zeros_only(even(x, node.inputs[0])), np.nan)


def attended(node: NodeView, x: Known) -> Known:
    """Means over places by weights that sum to 1, of the last channels: what is the same all over stays so."""
    return None if x is None else even(x, node.inputs[0])[:, 2 * node.attrs["heads"] * node.attrs["head_dim"] :]


def held(node: NodeView) -> Known:
    """The numbers of a weight."""
    return np.asarray(node.weight("value"), dtype=np.float64) if node.out.dtype == FLOAT else None


def looked_up(node: NodeView, x: Known) -> Known:
    """Vectors of a table: what is the same in all of them."""
    table = np.asarray(node.weight("weight"), dtype=np.float64)
    return lifted(np.where((table == table[0]).all(axis=0), table[0], np.nan), node.out)


def normed(node: NodeView, x: Known) -> Known:
    """Normalization of each channel: where the scale is zero the shift is all that is left.

    By running statistics it is a function of what comes in, without them a channel that is the same all over is 0
    before the shift.
    """
    scale, shift = (_affine(node, name, start) for name, start in (("weight", 1.0), ("bias", 0.0)))
    if x is None and not (scale == 0.0).any():
        return None
    values = np.full_like(shift, np.nan)
    if x is not None and "running_mean" in node.slots:
        mean, variance = (lifted(node.weight(name), node.out) for name in ("running_mean", "running_var"))
        values = (x - mean) / np.sqrt(variance + node.attrs["eps"]) * scale + shift
    elif x is not None:
        values = np.where(np.isnan(even(x, node.inputs[0])), np.nan, shift)
    return np.where(scale == 0.0, shift, values)


# -- what rules are made of


def _affine(node: NodeView, name: str, start: float) -> Values:
    """A weight per channel, or the number that does nothing where there is none."""
    if name in node.slots:
        return lifted(node.weight(name), node.out)
    return np.full_like(filled(None, node.out), start)


def lifted(vector: NDArray[Any], value: ValueType) -> Values:
    """A number per channel, with as many axes as the value."""
    shape = [1] * len(value.shape)
    shape[value.channel_axis] = -1
    return np.asarray(vector, dtype=np.float64).reshape(shape)


def filled(known: Known, value: ValueType) -> Values:
    """What is known, NaN all over where that is nothing."""
    if known is not None:
        return known
    return lifted(np.full(value.shape[value.channel_axis], np.nan), value) if value.axes else np.array(np.nan)


def whole(known: Values, axis: int, size: int) -> Values:
    """What is known, with all places of one axis."""
    return np.broadcast_to(known, (*known.shape[:axis], size, *known.shape[axis + 1 :]))


def concatenated(known: Sequence[Known], values: Sequence[ValueType], axis: int) -> Values:
    """What is known of values one after another along an axis."""
    pairs = zip(known, values, strict=True)
    parts = [whole(filled(part, value), axis, value.shape[axis]) for part, value in pairs]
    rest = np.broadcast_shapes(*[part.shape[:axis] + part.shape[axis + 1 :] for part in parts])
    sizes = [(*rest[:axis], part.shape[axis], *rest[axis:]) for part in parts]
    return np.concatenate([np.broadcast_to(part, size) for part, size in zip(parts, sizes, strict=True)], axis)


def even(known: Values, value: ValueType) -> Values:
    """What is known of a value, one number per channel: NaN where a channel is not the same at all its places."""
    others = tuple([n for n in range(known.ndim) if n != value.channel_axis])
    if all(known.shape[n] == 1 for n in others):
        return known
    low = known.min(axis=others, keepdims=True)
    return np.where(low == known.max(axis=others, keepdims=True), low, np.nan)


def zeros_only(known: Values) -> Values:
    """Only constant zeros stay constant where zeros are added at the borders."""
    return np.where(known == 0.0, 0.0, np.nan)
