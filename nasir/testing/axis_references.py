"""References of the ops that rearrange axes, for the interpreter; cases that their laws are tested on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from nasir.ir import JSON
from nasir.testing.interpreter import Array, Attrs, Weights, reference
from nasir.testing.op_case import OpCase

IMAGE, VECTOR, TOKENS = (4, 5, 6), (6,), (5, 6)


def _axis(attrs: Attrs, channel: int) -> int:
    """The axis that an attribute names, else that of the channels."""
    return channel if attrs["axis"] is None else int(attrs["axis"]) + 1


@reference("concat")
def _concat(attrs: Attrs, weights: Weights, train: bool, *x: Array, channel: int) -> Array:
    return np.concatenate(x, axis=_axis(attrs, channel))


@reference("stack")
def _stack(attrs: Attrs, weights: Weights, train: bool, *x: Array) -> Array:
    return np.stack(x, axis=attrs["axis"] + 1)


@reference("split")
def _split(attrs: Attrs, weights: Weights, train: bool, x: Array, *, channel: int) -> tuple[Array, ...]:
    ends = [int(end) for end in np.cumsum(attrs["sizes"])]
    return tuple(np.split(x, ends[:-1], axis=_axis(attrs, channel)))


@reference("slice")
def _slice(attrs: Attrs, weights: Weights, train: bool, x: Array, *, channel: int) -> Array:
    return np.take(x, range(attrs["start"], attrs["stop"], attrs["step"]), axis=_axis(attrs, channel))


@reference("select")
def _select(attrs: Attrs, weights: Weights, train: bool, x: Array) -> Array:
    place: Array = np.take(x, attrs["index"], axis=attrs["axis"] + 1)
    return place


@reference("unbind")
def _unbind(attrs: Attrs, weights: Weights, train: bool, x: Array) -> tuple[Array, ...]:
    return tuple(np.moveaxis(x, attrs["axis"] + 1, 0))


@reference("permute")
def _permute(attrs: Attrs, weights: Weights, train: bool, x: Array) -> Array:
    return x.transpose(0, *[number + 1 for number in attrs["order"]])


@reference("flatten")
def _flatten(attrs: Attrs, weights: Weights, train: bool, x: Array) -> Array:
    return x.reshape(len(x), -1)


@reference("reshape")
def _reshape(attrs: Attrs, weights: Weights, train: bool, x: Array) -> Array:
    rows = len(x) if attrs["rows"] is None else -1
    return x.reshape(rows, *attrs["shape"])


@reference("contiguous")
@reference("layout")
def _layout(attrs: Attrs, weights: Weights, train: bool, x: Array) -> Array:
    return x


@reference("reduce")
def _reduce(attrs: Attrs, weights: Weights, train: bool, x: Array) -> Array:
    axes = tuple([axis + 1 for axis in attrs["axes"]])
    functions: dict[str, Callable[..., Array]] = {"mean": np.mean, "sum": np.sum, "amax": np.max, "amin": np.min}
    return functions[attrs["how"]](x, axis=axes, keepdims=attrs["keep"])


@reference("channel_shuffle")
def _channel_shuffle(attrs: Attrs, weights: Weights, train: bool, x: Array) -> Array:
    count, groups = x.shape[1], attrs["groups"]
    return x[:, [place % groups * (count // groups) + place // groups for place in range(count)]]


@reference("pixel_shuffle")
def _pixel_shuffle(attrs: Attrs, weights: Weights, train: bool, x: Array) -> Array:
    r = attrs["factor"]
    out = np.empty((len(x), x.shape[1] // (r * r), x.shape[2] * r, x.shape[3] * r))
    for row in range(r):
        for column in range(r):
            out[:, :, row::r, column::r] = x[:, row * r + column :: r * r]
    return out


@reference("pixel_unshuffle")
def _pixel_unshuffle(attrs: Attrs, weights: Weights, train: bool, x: Array) -> Array:
    r = attrs["factor"]
    out = np.empty((len(x), x.shape[1] * r * r, x.shape[2] // r, x.shape[3] // r))
    for row in range(r):
        for column in range(r):
            out[:, row * r + column :: r * r] = x[:, :, row::r, column::r]
    return out


@reference("roll")
def _roll(attrs: Attrs, weights: Weights, train: bool, x: Array) -> Array:
    for shift, axis in zip(attrs["shifts"], attrs["axes"], strict=True):
        size = x.shape[axis + 1]
        x = np.take(x, [(place - shift) % size for place in range(size)], axis=axis + 1)
    return x


@reference("repeat")
def _repeat(attrs: Attrs, weights: Weights, train: bool, x: Array) -> Array:
    for axis, count in enumerate(attrs["counts"], start=1):
        places = np.arange(x.shape[axis] * count)
        x = np.take(x, places // count if attrs["each"] else places % x.shape[axis], axis=axis)
    return x


Shapes = tuple[tuple[int, ...], ...]
CASES: Mapping[str, list[tuple[Shapes, dict[str, JSON]]]] = {
    "concat": [
        ((IMAGE, (2, 5, 6)), {}),
        ((VECTOR, (3,), (1,)), {}),
        ((TOKENS, (5, 2)), {}),
        ((IMAGE, (4, 2, 6)), {"axis": 1}),
        ((TOKENS, TOKENS), {"axis": 0}),
    ],
    "stack": [((IMAGE, IMAGE), {}), ((VECTOR,) * 3, {"axis": 1}), ((TOKENS,), {"axis": 1})],
    "split": [
        ((TOKENS,), {"sizes": [2, 4]}),
        ((IMAGE,), {"sizes": [1, 3]}),
        ((VECTOR,), {"sizes": (1, 2, 3)}),
        ((IMAGE,), {"sizes": [4, 2], "axis": 2}),
        ((TOKENS,), {"sizes": [2, 2, 1], "axis": 0}),
    ],
    "slice": [
        ((IMAGE,), {"start": 1, "stop": 3}),
        ((VECTOR,), {"start": 0, "stop": 6}),
        ((TOKENS,), {"start": 2, "stop": 5}),
        ((IMAGE,), {"start": 1, "stop": 5, "axis": 1, "step": 2}),
        ((IMAGE,), {"start": 0, "stop": 4, "step": 3}),
    ],
    "select": [((IMAGE,), {"axis": 0}), ((IMAGE,), {"axis": 2, "index": 3}), ((TOKENS,), {"axis": 0, "index": 4})],
    "unbind": [((IMAGE,), {}), ((IMAGE,), {"axis": 1}), ((TOKENS,), {})],
    "flatten": [((IMAGE,), {}), ((VECTOR,), {}), ((TOKENS,), {})],
    "reshape": [
        ((IMAGE,), {"shape": [4, 30]}),
        ((IMAGE,), {"shape": [8, 15]}),
        ((IMAGE,), {"shape": IMAGE}),
        ((IMAGE,), {"shape": [2, 2, 5, 6], "channel_axis": 1}),
        ((TOKENS,), {"shape": [5, 2, 3], "channel_axis": 2}),
        ((VECTOR,), {"shape": [1, 6, 1, 1], "channel_axis": 1}),
        ((IMAGE,), {"shape": [4, 1, 5, 2, 3]}),
    ],
    "contiguous": [((IMAGE,), {}), ((TOKENS,), {})],
    "layout": [((IMAGE,), {"channel_axis": 2}), ((TOKENS,), {"channel_axis": 0}), ((VECTOR,), {"channel_axis": 0})],
    "reduce": [
        ((IMAGE,), {"how": "mean", "axes": [1, 2]}),
        ((IMAGE,), {"how": "mean", "axes": [1, 2], "keep": True}),
        ((IMAGE,), {"how": "amax", "axes": [0], "keep": True}),
        ((IMAGE,), {"how": "sum", "axes": [0, 2]}),
        ((TOKENS,), {"how": "amin", "axes": [0]}),
        ((VECTOR,), {"how": "sum", "axes": [0]}),
    ],
    "channel_shuffle": [((IMAGE,), {"groups": 2}), ((IMAGE,), {"groups": 4}), ((IMAGE,), {"groups": 1})],
    "pixel_shuffle": [((IMAGE,), {"factor": 2}), ((IMAGE,), {"factor": 1})],
    "pixel_unshuffle": [(((2, 4, 6),), {"factor": 2}), ((IMAGE,), {"factor": 1})],
    "roll": [((IMAGE,), {"shifts": [1, -2], "axes": [1, 2]}), ((TOKENS,), {"shifts": [2], "axes": [0]})],
    "repeat": [
        ((IMAGE,), {"counts": [1, 2, 3]}),
        ((IMAGE,), {"counts": [2, 1, 2], "each": True}),
        ((TOKENS,), {"counts": [1, 2]}),
        (((4, 1, 1),), {"counts": [1, 5, 6]}),
    ],
    "permute": [((IMAGE,), {"order": [1, 2, 0]}), ((TOKENS,), {"order": [1, 0]}), ((VECTOR,), {"order": [0]})],
}
LAID_OUT: Mapping[str, tuple[Shapes, dict[str, JSON]]] = {
    "concat": (((5, 6), (2, 6)), {}),
    "split": ((IMAGE,), {"sizes": [2, 4]}),
    "slice": ((IMAGE,), {"start": 1, "stop": 3}),
}
"""With the last axis of an image, the first of tokens, as channels."""


def axis_cases() -> dict[str, tuple[OpCase, ...]]:
    """Cases of every op that rearranges axes, by op."""
    cases = {op: tuple([OpCase(op, shapes, given) for shapes, given in known]) for op, known in CASES.items()}
    for op, (shapes, given) in LAID_OUT.items():
        cases[op] += (OpCase(op, shapes, given, channel_axis=2 if shapes == (IMAGE,) else 0),)
    return cases
