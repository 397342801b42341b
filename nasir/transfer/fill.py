"""Named initializers, drawn from numpy Philox streams so that a replay is bitwise on every device.

The stream of an array is keyed by (run seed, rewrite ordinal, node id, slot): independent of the order in which
arrays are filled, of the device and of the backend.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from math import prod, sqrt
from typing import Any, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nasir.errors import PlanError
from nasir.ir.types import Fill

WORTH_THREADS = {"random": 16, "standard_normal": 4}  # least number of pieces, by the time they take
PIECE = 1 << 16  # entries drawn from one stream; part of what a seed means, so it never changes

Array = NDArray[Any]


def random_stream(seed: int, ordinal: int, node: int, slot: str, purpose: str = "fill") -> Generator:
    """The random stream of one array; `ordinal` counts the rewrites of a run, 0 is the initial network."""
    text = f"{seed}/{ordinal}/{node}/{slot}/{purpose}".encode()
    key = int.from_bytes(hashlib.sha256(text).digest()[:16], "little")
    return Generator(np.random.Philox(key=key))


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan in, fan out) of a weight [out, in, ...], as torch counts them."""
    if len(shape) < 2:
        raise PlanError(f"fan in and fan out need at least 2 axes, the array has shape {shape}; use another rule")
    field = prod(shape[2:])
    return shape[1] * field, shape[0] * field


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="fill")


def _drawn(shape: tuple[int, ...], rng: Generator, method: str, scale: float, shift: float) -> Array:
    """scale * draw + shift in float32, in pieces that each have their own jump of the stream: equal for any number of
    threads."""
    values = np.empty(prod(shape), dtype=np.float32)

    def draw(stream: Generator, piece: Array) -> None:
        getattr(stream, method)(out=piece, dtype=np.float32)
        piece *= np.float32(scale)
        if shift:
            piece += np.float32(shift)

    pieces = [values[start : start + PIECE] for start in range(0, len(values), PIECE)]
    if len(pieces) == 1:
        draw(rng, pieces[0])
    elif pieces:
        root = rng.bit_generator
        assert isinstance(root, np.random.Philox)
        streams = [Generator(root.jumped(index)) for index in range(len(pieces))]
        # waking threads costs milliseconds; numpy releases the interpreter lock while it draws
        list((_pool().map if len(pieces) >= WORTH_THREADS[method] else map)(draw, streams, pieces))
        root.state = root.jumped(len(pieces)).state  # the next array of this stream draws something else
    return values.reshape(shape)


Shape: TypeAlias = tuple[int, ...]


def _uniform(shape: Shape, whole: Shape, rng: Generator, low: float, high: float) -> Array:
    return _drawn(shape, rng, "random", high - low, low)


def _normal(shape: Shape, whole: Shape, rng: Generator, mean: float = 0.0, std: float = 1.0) -> Array:
    return _drawn(shape, rng, "standard_normal", std, mean)


def _kaiming_uniform(shape: Shape, whole: Shape, rng: Generator, a: float = 0.0) -> Array:
    bound = sqrt(6.0 / ((1.0 + a * a) * fans(whole)[0]))
    return _uniform(shape, whole, rng, -bound, bound)


def _kaiming_normal(shape: Shape, whole: Shape, rng: Generator, mode: str = "fan_in", gain: float = 1.0) -> Array:
    fan = fans(whole)[1 if mode == "fan_out" else 0]
    return _normal(shape, whole, rng, 0.0, gain * sqrt(2.0 / fan))


def _xavier_uniform(shape: Shape, whole: Shape, rng: Generator) -> Array:
    bound = sqrt(6.0 / sum(fans(whole)))
    return _uniform(shape, whole, rng, -bound, bound)


def _dirac(shape: Shape, whole: Shape, rng: Generator) -> Array:
    values = np.zeros(shape, dtype=np.float32)
    middle = tuple(size // 2 for size in shape[2:])
    for channel in range(min(shape[0], shape[1])):
        values[(channel, channel, *middle)] = 1.0
    return values


# (shape to draw, shape of the whole array that it is a part of, stream, arguments)
RULES: Mapping[str, Callable[..., Array]] = {
    "zeros": lambda shape, whole, rng: np.zeros(shape, dtype=np.float32),
    "ones": lambda shape, whole, rng: np.ones(shape, dtype=np.float32),
    "constant": lambda shape, whole, rng, value: np.full(shape, value, dtype=np.float32),
    "uniform": _uniform,
    "normal": _normal,
    "kaiming_uniform": _kaiming_uniform,  # He et al. 2015; a = sqrt(5) is torch's default for conv and linear
    "kaiming_normal": _kaiming_normal,
    "xavier_uniform": _xavier_uniform,  # Glorot & Bengio 2010
    "dirac": _dirac,  # identity convolution
}


CONSTANT = frozenset({"zeros", "ones", "constant", "dirac"})  # rules that draw nothing


def fill(rule: Fill, shape: Shape, rng: Generator | None, whole: Shape | None = None) -> Array:
    """A float32 array of `shape`; rules in CONSTANT need no stream. PlanError: unknown rule or wrong arguments.

    `whole`: the shape of the array that it is a part of, whose fans give the scale.
    """
    if rule.rule not in RULES:
        raise PlanError(f"unknown initializer {rule.rule!r}; known: {', '.join(RULES)}")
    try:
        return RULES[rule.rule](shape, whole or shape, rng, **rule.args)
    except TypeError as error:
        raise PlanError(f"initializer {rule.rule!r} with {dict(rule.args)}: {error}") from None
