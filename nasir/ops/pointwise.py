"""Functions of one number, element by element. Each is one op: what it computes, its attributes and its facts, once.

Functions take and give float64 arrays; by them constants are folded. What follows the first parameter is the op's
attributes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nasir.ir.infer import At
from nasir.ir.op import Family, Sign, Taken, Unchanged, op
from nasir.ir.types import JSON, ValueType

Values: TypeAlias = NDArray[np.float64]
Function: TypeAlias = Callable[..., Values]


def pointwise(
    name: str,
    *,
    family: Family = "activation",
    unchanged: Unchanged | None = None,
    nonnegative: Sign | None = None,
    random: bool = False,
    view: bool = False,
    takes: tuple[Taken, ...] = ("unbatched",),
    later: tuple[str, ...] = (),
    fault: Callable[..., str] | None = None,
) -> Callable[[Function], Function]:
    """Register a function of an array, element by element, as an op of one input; see `OpDef` for the facts.

    `fault`: what is wrong with attributes that fit their annotations one by one, "" where nothing is.
    """

    def add(function: Function) -> Function:
        rule = _rule(fault)
        update_wrapper(rule, function)
        own = list(inspect.signature(function).parameters.values())[1:]
        inputs = [
            inspect.Parameter(word, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=kind)
            for word, kind in (("at", At), ("x", ValueType))
        ]
        rule.__signature__ = inspect.Signature([*inputs, *own], return_annotation=ValueType)  # type: ignore[attr-defined]
        op(
            name,
            family=family,
            pointwise=np.errstate(all="ignore")(function),  # where it is not defined it gives NaN or inf, as torch does
            unchanged=unchanged,
            nonnegative=nonnegative,
            random=random,
            view=view,
            takes=takes,
            later=later,
        )(rule)
        return function

    return add


def _rule(fault: Callable[..., str] | None) -> Callable[..., ValueType]:
    def rule(at: At, x: ValueType, **attrs: JSON) -> ValueType:
        return x

    def checked(at: At, x: ValueType, **attrs: JSON) -> ValueType:
        problem = fault(**attrs) if fault is not None else ""
        if problem:
            at.fail(problem)
        return x

    return rule if fault is None else checked


def _gauss(x: Values) -> Values:
    """Phi(x), the distribution function of the normal distribution."""
    return 0.5 * (1.0 + erf(x / math.sqrt(2.0)))


def _misordered(low: float | None, high: float | None) -> str:
    return f"low {low} is above high {high}" if low is not None and high is not None and low > high else ""


# -- rectifiers


@pointwise("relu", unchanged="nonnegative", nonnegative="always")
def relu(x: Values) -> Values:
    """max(x, 0)."""
    return np.maximum(x, 0.0)


@pointwise("relu6", unchanged="zero", nonnegative="always")
def relu6(x: Values) -> Values:
    """min(max(x, 0), 6)."""
    return np.clip(x, 0.0, 6.0)


@pointwise("leaky_relu", unchanged="nonnegative", nonnegative="keeps")
def leaky_relu(x: Values, slope: float = 0.01) -> Values:
    """x where it is positive, else `slope` * x."""
    return np.where(x > 0.0, x, slope * x)


@pointwise("elu", unchanged="nonnegative", nonnegative="keeps")
def elu(x: Values, alpha: float = 1.0) -> Values:
    """x where it is positive, else `alpha` * (exp(x) - 1)."""
    return np.where(x > 0.0, x, alpha * np.expm1(np.minimum(x, 0.0)))


def _no_alpha(alpha: float) -> str:
    return "alpha must not be 0: x is divided by it" if alpha == 0.0 else ""


@pointwise("celu", unchanged="nonnegative", nonnegative="keeps", fault=_no_alpha)
def celu(x: Values, alpha: float = 1.0) -> Values:
    """x where it is positive, else `alpha` * (exp(x / `alpha`) - 1)."""
    return np.where(x > 0.0, x, alpha * np.expm1(np.minimum(x, 0.0) / alpha))


@pointwise("selu", unchanged="zero", nonnegative="keeps")
def selu(x: Values) -> Values:
    """1.0507 * (x where it is positive, else 1.6733 * (exp(x) - 1)) (Klambauer et al. 2017)."""
    return 1.0507009873554804934193349852946 * elu(x, 1.6732632423543772848170429916717)


@pointwise("hardtanh", fault=_misordered)
def hardtanh(x: Values, low: float = -1.0, high: float = 1.0) -> Values:
    """x within `low` to `high`, whose gradient is 0 at both of them."""
    return np.clip(x, low, high)


@pointwise("clamp", fault=_misordered)
def clamp(x: Values, low: float | None = None, high: float | None = None) -> Values:
    """x within `low` to `high`, null: without an end; unlike that of hardtanh its gradient is 1 at both of them."""
    return np.clip(x, -np.inf if low is None else low, np.inf if high is None else high)


@pointwise("abs", unchanged="nonnegative", nonnegative="always")
def absolute(x: Values) -> Values:
    """|x|."""
    return np.abs(x)


# -- smooth and hard gates


@pointwise("gelu", unchanged="zero", later=("approximate",))
def gelu(x: Values, approximate: Literal["none", "tanh"] = "none") -> Values:
    """x * Phi(x): exact, or by a tanh (Hendrycks & Gimpel 2016)."""
    if approximate == "tanh":
        return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    return x * _gauss(x)


@pointwise("quick_gelu", unchanged="zero")
def quick_gelu(x: Values) -> Values:
    """x * sigmoid(1.702 * x)."""
    return x * sigmoid(1.702 * x)


@pointwise("sigmoid", nonnegative="always")
def sigmoid(x: Values) -> Values:
    """1 / (1 + exp(-x))."""
    power = np.exp(-np.abs(x))  # at most 1: nothing overflows
    return np.where(x >= 0.0, 1.0, power) / (1.0 + power)


@pointwise("logsigmoid")
def logsigmoid(x: Values) -> Values:
    """log(1 / (1 + exp(-x)))."""
    return -np.logaddexp(0.0, -x)


@pointwise("silu", unchanged="zero")
def silu(x: Values) -> Values:
    """x * sigmoid(x)."""
    return x * sigmoid(x)


@pointwise("mish", unchanged="zero", nonnegative="keeps")
def mish(x: Values) -> Values:
    """x * tanh(softplus(x))."""
    return x * np.tanh(np.logaddexp(0.0, x))


@pointwise("hardsigmoid", nonnegative="always")
def hardsigmoid(x: Values) -> Values:
    """relu6(x + 3) / 6."""
    return np.clip(x + 3.0, 0.0, 6.0) / 6.0


@pointwise("hardswish", unchanged="zero")
def hardswish(x: Values) -> Values:
    """x * relu6(x + 3) / 6."""
    return x * hardsigmoid(x)


def _no_beta(beta: float, threshold: float) -> str:
    return "beta must not be 0: the result is divided by it" if beta == 0.0 else ""


@pointwise("softplus", fault=_no_beta)
def softplus(x: Values, beta: float = 1.0, threshold: float = 20.0) -> Values:
    """log(1 + exp(`beta` * x)) / `beta`; x itself where `beta` * x is above `threshold`."""
    return np.where(beta * x > threshold, x, np.logaddexp(0.0, beta * x) / beta)


@pointwise("softsign", unchanged="zero", nonnegative="keeps")
def softsign(x: Values) -> Values:
    """x / (1 + |x|)."""
    return x / (1.0 + np.abs(x))


@pointwise("tanh", unchanged="zero", nonnegative="keeps")
def tanh(x: Values) -> Values:
    """The hyperbolic tangent."""
    return np.tanh(x)


# -- functions of mathematics; NaN where they are not defined


@pointwise("exp", nonnegative="always")
def exponential(x: Values) -> Values:
    """e to the power x."""
    return np.exp(x)


@pointwise("log")
def logarithm(x: Values) -> Values:
    """The natural logarithm."""
    return np.log(x)


@pointwise("sqrt", unchanged="zero", nonnegative="keeps")
def square_root(x: Values) -> Values:
    """The square root."""
    return np.sqrt(x)


@pointwise("rsqrt", nonnegative="keeps")
def reciprocal_square_root(x: Values) -> Values:
    """1 / sqrt(x)."""
    return 1.0 / np.sqrt(x)


@pointwise("reciprocal", nonnegative="keeps")
def reciprocal(x: Values) -> Values:
    """1 / x."""
    return 1.0 / x


@pointwise("pow", nonnegative="keeps")
def power(x: Values, exponent: float) -> Values:
    """x to the power `exponent`."""
    return np.power(x, exponent)


@pointwise("sin", unchanged="zero")
def sine(x: Values) -> Values:
    """The sine of x in radians."""
    return np.sin(x)


@pointwise("cos")
def cosine(x: Values) -> Values:
    """The cosine of x in radians."""
    return np.cos(x)


_erf = np.vectorize(math.erf, otypes=[np.float64])


@pointwise("erf", unchanged="zero", nonnegative="keeps")
def erf(x: Values) -> Values:
    """The error function."""
    values: Values = _erf(x)
    return values


# -- what only training changes


def same(x: Values, **attrs: Any) -> Values:
    """x."""
    return x


@pointwise(
    "identity", family="passive", unchanged="all", nonnegative="keeps", view=True, takes=("integers", "unbatched")
)
def identity(x: Values) -> Values:
    """The input, unchanged."""
    return x


@pointwise("cast", family="passive", unchanged="all", nonnegative="keeps")
def cast(x: Values, dtype: Literal["float32", "float64", "float16", "bfloat16"]) -> Values:
    """The same numbers in a floating-point type, as far as it can hold them; in that of the network nothing changes."""
    return x
