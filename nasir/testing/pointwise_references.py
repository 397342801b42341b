"""References of functions of one or two numbers, written from other formulas than those that fold constants."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from nasir.testing.interpreter import REFERENCES, Array, Attrs, Weights, along, reference, shares

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _softplus(x: Array, beta: float = 1.0) -> Array:
    straight: Array = np.maximum(x, 0.0) + np.log1p(np.exp(-abs(beta * x))) / beta
    return straight


def _steps(x: Array, alpha: float, width: float = 1.0) -> Array:
    below: Array = alpha * (np.exp(np.minimum(x, 0.0) / width) - 1.0)
    return np.maximum(x, 0.0) + below


def _soft(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _picked(where: Array, x: Array, y: Array) -> Array:
    return np.where(where, x, y)


FUNCTIONS: Mapping[str, Callable[..., Array]] = {
    "identity": lambda x: x,
    "cast": lambda x, dtype: x,
    "relu": lambda x: np.maximum(x, 0.0),
    "relu6": lambda x: np.minimum(np.maximum(x, 0.0), 6.0),
    "leaky_relu": lambda x, slope: np.maximum(x, 0.0) + slope * np.minimum(x, 0.0),
    "elu": lambda x, alpha: _steps(x, alpha),
    "celu": lambda x, alpha: _steps(x, alpha, alpha),
    "selu": lambda x: 1.0507009873554805 * _steps(x, 1.6732632423543772),
    "hardtanh": lambda x, low, high: np.minimum(np.maximum(x, low), high),
    "clamp": lambda x, low, high: np.minimum(
        np.maximum(x, -math.inf if low is None else low), math.inf if high is None else high
    ),
    "abs": lambda x: np.maximum(x, -x),
    "gelu": lambda x, approximate: (
        0.5 * x * (1.0 + _erf(x / math.sqrt(2.0)))
        if approximate == "none"
        else x * _soft(1.5957691216057308 * x * (1.0 + 0.044715 * x * x))
    ),
    "quick_gelu": lambda x: x * _soft(1.702 * x),
    "sigmoid": _soft,
    "logsigmoid": lambda x: -_softplus(-x),
    "silu": lambda x: x * _soft(x),
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "hardsigmoid": lambda x: np.clip(x + 3.0, 0.0, 6.0) / 6.0,
    "hardswish": lambda x: x * np.clip(x + 3.0, 0.0, 6.0) / 6.0,
    "softplus": lambda x, beta, threshold: np.where(beta * x > threshold, x, _softplus(x, beta)),
    "softsign": lambda x: np.sign(x) * (1.0 - 1.0 / (1.0 + abs(x))),
    "tanh": lambda x: 2.0 * _soft(2.0 * x) - 1.0,
    "exp": np.exp,
    "log": lambda x: np.log2(x) * math.log(2.0),
    "sqrt": lambda x: np.power(x, 0.5),
    "rsqrt": lambda x: np.power(x, -0.5),
    "reciprocal": lambda x: np.power(x, -1.0),
    "pow": lambda x, exponent: np.float_power(x, exponent),
    "sin": np.sin,
    "cos": np.cos,
    "erf": _erf,
    "shift": lambda x, value: value + x,
    "divide_by": lambda x, value: x / value,
    "sub": lambda x, y, alpha: -alpha * y + x,
    "addcmul": lambda x, y, z, value: z * y * value + x,
    "div": lambda x, y: x / y,
    "maximum": lambda x, y: _picked(x > y, x, y),
    "minimum": lambda x, y: _picked(x > y, y, x),
}


def _of(function: Callable[..., Array]) -> Callable[..., Array]:
    @np.errstate(all="ignore")
    def run(attrs: Attrs, weights: Weights, train: bool, *x: Array) -> Array:
        return function(*x, **attrs)

    return run


for _name, _function in FUNCTIONS.items():
    REFERENCES[_name] = _of(_function)


@reference("softmax")
def _softmax(attrs: Attrs, weights: Weights, train: bool, x: Array, *, channel: int) -> Array:
    return shares(x, channel if attrs["axis"] is None else attrs["axis"] + 1)


@reference("log_softmax")
def _log_softmax(attrs: Attrs, weights: Weights, train: bool, x: Array, *, channel: int) -> Array:
    logs: Array = np.log(_softmax(attrs, weights, train, x, channel=channel))
    return logs


@reference("prelu")
def _prelu(attrs: Attrs, weights: Mapping[str, Array], train: bool, x: Array, *, channel: int) -> Array:
    slope = weights["weight"]
    return np.where(x > 0.0, x, x * (along(slope, x, channel) if attrs["per_channel"] else slope))
