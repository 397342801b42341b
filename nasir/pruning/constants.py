"""Which parts of every value are constant in evaluation mode, whatever the input: constant propagation.

A channel is constant when it holds the same number for every sample: behind a norm whose scale is zero,
behind weights that are all zero, and behind whatever maps constants to constants. Units that put out constant zero
can be removed exactly, others that are constant can be folded into what reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import erf, exp, sqrt
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nasir.evidence import Evidence
from nasir.ir.graph import Graph, Node
from nasir.ir.op import pair
from nasir.ir.types import Port, ValueType, channel_axis

Values: TypeAlias = NDArray[np.float64]  # axes of a value, each whole or 1 (the same all along); NaN: varies
Known: TypeAlias = Values | None  # None: all of it varies
Fetch: TypeAlias = Callable[[str], NDArray[Any]]

FUNCTIONS: Mapping[str, Callable[[float], float]] = {
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: 0.5 * x * (1.0 + erf(x / sqrt(2.0))),
    "silu": lambda x: x * _sigmoid(x),
    "sigmoid": lambda x: _sigmoid(x),
    "hardswish": lambda x: x * min(max(x + 3.0, 0.0), 6.0) / 6.0,
}
SAME = frozenset({"identity", "dropout"})
WINDOWS = frozenset({"subsample", "max_pool", "avg_pool", "adaptive_avg_pool"})
SHAPES = frozenset({"flatten", "reshape", "tokens", "select_token", "mean_tokens", "global_avg_pool"})
NORMS = frozenset({"batch_norm", "group_norm", "layer_norm"})
SUMS = frozenset({"add", "mean"})
# ops that act on each channel alone, or move channels: removing channels of theirs leaves the others as they are
CHANNELWISE = (
    frozenset(FUNCTIONS)
    | SAME
    | WINDOWS
    | SHAPES
    | SUMS
    | {"batch_norm", "mul", "concat", "split", "slice", "pad_channels", "scale", "class_token", "position_embedding"}
)


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + exp(-x)) if x > -700.0 else 0.0


def constants(graph: Graph, seen: Evidence) -> dict[Port, Known]:
    """What is constant of every value, by the weights in `seen`."""
    found: dict[Port, Known] = {}
    types = graph.infer.types
    for node_id in graph.order:
        node = graph.nodes[node_id]
        known = [found[port] for port in node.inputs]
        out = types[Port(node_id)]
        if node.op == "split":
            for number, part in enumerate(_parts(known[0], out.channel_axis, node.attrs["sizes"])):
                found[Port(node_id, number)] = part
            continue
        inputs = [types[port] for port in node.inputs]
        found[Port(node_id)] = _constant(node, known, inputs, out, partial(seen.weight, node.label))
    return found


def _constant(node: Node, known: list[Known], inputs: list[ValueType], out: ValueType, weight: Fetch) -> Known:
    op, first = node.op, known[0] if known else None
    if op in NORMS:
        return _norm(node, first, out, weight)
    if op in ("conv2d", "linear"):
        return _product(node, first, inputs[0], out, weight)
    if op in SUMS or op in ("mul", "concat", "pad_channels"):
        return _merged(node, known, inputs, out)
    if first is None:
        return None
    if op in SAME:
        return first
    if op in FUNCTIONS:
        return _each(FUNCTIONS[op], first)
    if op in WINDOWS:
        return _windowed(node, first)
    if op in SHAPES:
        return _reshaped(node, first, inputs[0], out)
    if op == "scale":
        return first * float(weight("weight") if node.attrs["learnable"] else node.attrs["value"])
    if op == "position_embedding":
        moved: Values = first + weight("weight")[0]
        return moved
    if op == "class_token":
        return np.where(weight("weight")[0] == 0.0, _zeros_only(_even(first)), np.nan)
    if op == "self_attention":  # every row of the softmax sums to 1
        return _even(first)[:, 2 * node.attrs["heads"] * node.attrs["head_dim"] :]
    if op == "slice":
        part: Values = np.take(first, np.arange(node.attrs["start"], node.attrs["stop"]), axis=out.channel_axis)
        return part
    return None


def _merged(node: Node, known: list[Known], inputs: list[ValueType], out: ValueType) -> Known:
    """Ops of several inputs, and padding of channels."""
    if all(part is None for part in known) and node.op != "pad_channels":
        return None
    filled = [_filled(part, value) for part, value in zip(known, inputs, strict=True)]
    if node.op in SUMS:
        total: Values = sum(filled[1:], start=filled[0])
        return total / len(filled) if node.op == "mean" else total
    if node.op == "mul":
        product, zero = filled[0], filled[0] == 0.0
        for part in filled[1:]:
            product, zero = product * part, zero | (part == 0.0)
        return np.where(zero, 0.0, product)
    axis = out.channel_axis
    if node.op == "concat":
        rest = np.broadcast_shapes(*[part.shape[:axis] + part.shape[axis + 1 :] for part in filled])
        sizes = [(*rest[:axis], part.shape[axis], *rest[axis:]) for part in filled]
        return np.concatenate([np.broadcast_to(part, size) for part, size in zip(filled, sizes, strict=True)], axis)
    widths = [(0, 0)] * filled[0].ndim
    widths[axis] = (node.attrs["before"], node.attrs["after"])
    return np.pad(filled[0], widths)


def _norm(node: Node, known: Known, out: ValueType, weight: Fetch) -> Known:
    scale = weight("weight")
    silent = scale == 0.0
    if known is None and not silent.any():
        return None
    shift = _lifted(weight("bias"), out)
    values = np.full_like(shift, np.nan)
    if known is not None and node.op == "batch_norm":
        mean, variance = _lifted(weight("running_mean"), out), _lifted(weight("running_var"), out)
        values = (known - mean) / np.sqrt(variance + node.attrs["eps"]) * _lifted(scale, out) + shift
    return np.where(_lifted(silent, out) > 0.0, shift, values)


def _product(node: Node, known: Known, value: ValueType, out: ValueType, weight: Fetch) -> Known:
    """A convolution or linear layer: units whose weights are all zero put out their bias."""
    weights = weight("weight")
    first: Any = (slice(None), *[0] * (weights.ndim - 1))
    silent = weights[first] == 0.0
    depthwise = known is not None and node.op == "conv2d" and 1 < node.attrs["groups"] == value.shape[0]
    if not silent.any() and not depthwise:
        return None
    rows = weights.reshape(len(weights), -1)
    if silent.any():
        silent[silent] = ~rows[silent].any(axis=1)
    shift = np.asarray(weight("bias") if node.attrs["bias"] else np.zeros(len(rows)), dtype=np.float64)
    values = np.full(len(rows), np.nan)
    if depthwise and known is not None:
        even = _even(known)
        each = (_zeros_only(even) if max(pair(node.attrs["padding"])) else even).reshape(-1)
        values = np.repeat(each, len(rows) // value.shape[0]) * rows.sum(axis=1, dtype=np.float64) + shift
    return _lifted(np.where(silent, shift, values), out)


def _windowed(node: Node, known: Values) -> Values:
    even = _even(known)
    padded = node.op == "avg_pool" and max(pair(node.attrs["padding"])) > 0
    return _zeros_only(even) if padded else even


def _reshaped(node: Node, known: Values, before: ValueType, after: ValueType) -> Values:
    if node.op == "global_avg_pool":
        return known.mean(axis=(1, 2))  # type: ignore[no-any-return]
    if node.op == "mean_tokens":
        return known.mean(axis=0)  # type: ignore[no-any-return]
    if node.op == "select_token":
        return known[node.attrs["index"] if len(known) > 1 else 0]
    if node.op == "tokens":
        return np.broadcast_to(known, before.shape).reshape(after.shape[::-1]).T
    return np.broadcast_to(known, before.shape).reshape(after.shape)


def _each(function: Callable[[float], float], values: Values) -> Values:
    result = values.copy()
    flat = result.reshape(-1)
    for place in np.flatnonzero(~np.isnan(flat)):
        flat[place] = function(float(flat[place]))
    return result


def _parts(known: Known, axis: int, sizes: Sequence[int]) -> list[Known]:
    if known is None:
        return [None] * len(sizes)
    return [*np.split(known, np.cumsum(sizes)[:-1], axis=axis)]


def _lifted(vector: NDArray[Any], value: ValueType) -> Values:
    """A number per channel, with as many axes as the value."""
    shape = [1] * len(value.shape)
    shape[value.channel_axis] = -1
    return np.asarray(vector, dtype=np.float64).reshape(shape)


def _filled(known: Known, value: ValueType) -> Values:
    return _lifted(np.full(value.shape[value.channel_axis], np.nan), value) if known is None else known


def _even(known: Values) -> Values:
    """One number per channel: NaN where a channel is not the same at all its places."""
    axis = channel_axis(known.ndim)
    others = tuple([n for n in range(known.ndim) if n != axis])
    if all(known.shape[n] == 1 for n in others):
        return known
    low = known.min(axis=others, keepdims=True)
    return np.where(low == known.max(axis=others, keepdims=True), low, np.nan)


def _zeros_only(known: Values) -> Values:
    """Only constant zeros stay constant where zeros are added at the borders."""
    return np.where(known == 0.0, 0.0, np.nan)
