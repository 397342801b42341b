"""A reference interpreter: every op in plain numpy, float64, written from its definition and nothing else.

It is the oracle that transfers and lowerings are compared with, so it shares no code with either. A third-party op
joins by its own reference:

    @reference("my_op")
    def _(attrs, weights, train, x): return np.sinh(x)

Arrays carry the batch as first axis. Dropout is the identity and batch norm's statistics are read, never updated:
a reference has no randomness and no state.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nasir.errors import NasirError
from nasir.ir import JSON, Graph, Port, per_axis
from nasir.ir.types import usual_channel_axis
from nasir.transfer import Key

Array: TypeAlias = NDArray[Any]
Weights: TypeAlias = Mapping[Key, Array]
Attrs: TypeAlias = Mapping[str, JSON]
Reference: TypeAlias = Callable[..., Array | tuple[Array, ...]]

REFERENCES: dict[str, Reference] = {}


def reference(op: str) -> Callable[[Reference], Reference]:
    """Register `function(attrs, weights, train, *inputs)`; `weights` holds the arrays of the node by slot name.

    With a parameter `channel`, by name only, it is told which axis of its (first) input holds the channels.
    """

    def add(function: Reference) -> Reference:
        REFERENCES[op] = function
        return function

    return add


def evaluate_op(
    op: str,
    attrs: Attrs,
    weights: Mapping[str, Array],
    inputs: Sequence[Array],
    train: bool,
    channel: int | None = None,
) -> Any:
    """The output of one op, or the tuple of its outputs; raises NasirError for an op without a reference.

    `channel`: which axis of the (first) input holds the channels, the batch axis counted; None: the usual one.
    """
    if op not in REFERENCES:
        raise NasirError(f"op {op!r} has no reference; register one with @nasir.testing.reference({op!r})")
    function = REFERENCES[op]
    if not inputs or not _told_channels(function):
        return function(attrs, weights, train, *inputs)
    if channel is None:
        channel = 1 + usual_channel_axis(inputs[0].ndim - 1)
    return function(attrs, weights, train, *inputs, channel=channel)


@cache
def _told_channels(function: Reference) -> bool:
    return "channel" in inspect.signature(function).parameters


def trace(graph: Graph, weights: Weights, x: Array | Sequence[Array], train: bool = False) -> dict[Port, Array]:
    """Every value of the network for a batch `x` ([N, C, H, W] or [N, C]; a sequence for several inputs)."""
    given = dict(zip(graph.inputs, [x] if isinstance(x, np.ndarray) else x, strict=True))
    values: dict[Port, Array] = {}
    for node_id in graph.order:
        node = graph.nodes[node_id]
        if node.facts.family == "input":
            values[Port(node_id)] = given[node_id]
            continue
        own = {slot: weights[Key(node_id, slot)] for slot in graph.infer.slots[node_id]}
        own |= {slot: weights[owner] for slot, (owner, _) in graph.infer.borrowed.get(node_id, {}).items()}
        channel = graph.infer.types[node.inputs[0]].channel_dim if node.inputs else None
        result = evaluate_op(node.op, node.attrs, own, [values[port] for port in node.inputs], train, channel)
        for output, value in enumerate(result if isinstance(result, tuple) else (result,)):
            values[Port(node_id, output)] = value
    return values


def evaluate(graph: Graph, weights: Weights, x: Array | Sequence[Array], train: bool = False) -> Array:
    """The (first) output of the network for a batch; `train` lets batch norm use the batch's own statistics."""
    return trace(graph, weights, x, train)[graph.outputs[0]]


def _elementwise(op: str, function: Callable[[Array], Array]) -> None:
    REFERENCES[op] = lambda attrs, weights, train, x: function(x)


_elementwise("dropout", lambda x: x)
_elementwise("channel_dropout", lambda x: x)
_elementwise("stochastic_depth", lambda x: x)
_elementwise("global_avg_pool", lambda x: x.mean(axis=(2, 3)))
_elementwise("tokens", lambda x: x.reshape(*x.shape[:2], -1).swapaxes(1, 2))
_elementwise("mean_tokens", lambda x: x.mean(axis=1))


_elementwise("only", lambda x: x)


@reference("either")
def _either(attrs: Attrs, weights: Weights, train: bool, evaluated: Array, trained: Array) -> Array:
    return trained if train else evaluated


@reference("assign")
def _assign(attrs: Attrs, weights: Weights, train: bool, held: Array, x: Array) -> Array:
    return x


def shares(x: Array, axis: int) -> Array:
    """exp(x) over its sum along an axis."""
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    shares: Array = powers / powers.sum(axis=axis, keepdims=True)
    return shares


@reference("add")
def _add(attrs: Attrs, weights: Weights, train: bool, *x: Array) -> Array:
    return sum(x[1:], start=x[0])


@reference("mul")
def _mul(attrs: Attrs, weights: Weights, train: bool, *x: Array) -> Array:
    return math.prod(x[1:], start=x[0])


@reference("mean")
def _mean(attrs: Attrs, weights: Weights, train: bool, *x: Array) -> Array:
    return sum(x[1:], start=x[0]) / len(x)


@reference("ensemble")
def _ensemble(attrs: Attrs, weights: Weights, train: bool, *x: Array) -> Array:
    logits = np.stack(x, axis=1)
    if train and attrs["train"] == "separate":
        return logits
    if attrs["average"] == "logits":
        return logits.mean(axis=1)  # type: ignore[no-any-return]
    return np.log(np.mean([shares(branch, 1) for branch in x], axis=0))  # type: ignore[no-any-return]


@reference("subsample")
def _subsample(attrs: Attrs, weights: Weights, train: bool, x: Array) -> Array:
    down, right = per_axis(attrs["stride"], 2)
    return x[:, :, ::down, ::right]


@reference("pad_channels")
def _pad_channels(attrs: Attrs, weights: Weights, train: bool, x: Array, *, channel: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[channel] = (attrs["before"], attrs["after"])
    return np.pad(x, widths)


def biased(weights: Mapping[str, Array], value: Array, channel: int) -> Array:
    """A value, and the bias along its channels where there is one."""
    return value + along(weights["bias"], value, channel) if "bias" in weights else value


def along(vector: Array, like: Array, channel: int) -> Array:
    """A vector over channels, shaped to broadcast over a batch."""
    return vector.reshape(-1, *(1,) * (like.ndim - 1 - channel))


@reference("linear")
def _linear(attrs: Attrs, weights: Mapping[str, Array], train: bool, x: Array) -> Array:
    return biased(weights, x @ weights["weight"].T, x.ndim - 1)


@reference("scale")
def _scale(attrs: Attrs, weights: Mapping[str, Array], train: bool, x: Array) -> Array:
    return x * (weights["weight"] if attrs["learnable"] else attrs["value"])


@reference("parameter")
def _parameter(attrs: Attrs, weights: Mapping[str, Array], train: bool) -> Array:
    return weights["value"]


@reference("embedding")
def _embedding(attrs: Attrs, weights: Mapping[str, Array], train: bool, x: Array) -> Array:
    return weights["weight"][x]


@reference("class_token")
def _class_token(attrs: Attrs, weights: Mapping[str, Array], train: bool, x: Array) -> Array:
    return np.concatenate([np.repeat(weights["weight"], len(x), axis=0), x], axis=1)


@reference("position_embedding")
def _position_embedding(attrs: Attrs, weights: Mapping[str, Array], train: bool, x: Array) -> Array:
    return x + weights["weight"]


@reference("select_token")
def _select_token(attrs: Attrs, weights: Weights, train: bool, x: Array) -> Array:
    return x[:, attrs["index"]]


@reference("self_attention")
def _self_attention(attrs: Attrs, weights: Weights, train: bool, x: Array) -> Array:
    heads, matched = attrs["heads"], attrs["heads"] * attrs["head_dim"]
    q, k, v = (part.reshape(*x.shape[:2], heads, -1) for part in np.split(x, [matched, 2 * matched], axis=2))
    weighed = shares(attrs["scale"] * np.einsum("nqhd,nkhd->nhqk", q, k), 3)
    out: Array = np.einsum("nhqk,nkhd->nqhd", weighed, v)
    return out.reshape(*x.shape[:2], -1)
