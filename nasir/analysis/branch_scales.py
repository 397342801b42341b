"""How strongly a network of n residual sums adds its branches, x + scale * f(x): rules for the scale, and what it does.

n counts the residual sums on the longest way through the network (`nasir.analysis.residuals.residual_depth`), projected
ones and both of a transformer's block included: each doubles the number of paths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from math import asin, comb, exp, inf, log, log1p, pi, sqrt
from types import MappingProxyType
from typing import Literal, TypeAlias

from nasir.errors import UsageError

Rule: TypeAlias = Literal["1/n", "1/sqrt(n)", "fischer"]

WEIGHT_VARIANCE = 1.0
INPUT_VARIANCE = 0.1
"""Defaults of the mean-field network of `response`. Its optimum then is 1.09 / sqrt(n) for large n, and for 15 to 119
sums within 0.1 to 0.3, the range that Szegedy et al. (2017) found to train Inception-ResNets well."""


def path_mass(scale: float, n: int) -> float:
    """(1 + scale)^n, the sum of the weights of all 2^n paths through n residual sums; inf where it is too large."""
    return _exp(n * log1p(scale))


def path_weights(scale: float, n: int) -> tuple[float, ...]:
    """C(n, k) * scale^k for k = 0, ..., n: the weight of all paths through k branches (Dherin & Munn 2025)."""
    return tuple([_product(comb(n, k), scale, k) for k in range(n + 1)])


def variance_growth(scale: float, n: int) -> float:
    """(1 + scale^2)^n: how much n sums multiply the variance of a stream by, where branches are independent of it and
    keep its variance; inf where it is too large."""
    return _exp(n * log1p(scale * scale))


def _exp(exponent: float) -> float:
    try:
        return exp(exponent)
    except OverflowError:
        return inf


def _product(count: int, scale: float, power: int) -> float:
    """count * scale^power, also where one of the factors is beyond what a float holds."""
    if scale == 0.0:
        return float(count) if power == 0 else 0.0
    sign = -1.0 if scale < 0.0 and power % 2 else 1.0
    return sign * _exp(log(count) + power * log(abs(scale)))


# -- the response function


def activation_variance(variance: float) -> float:
    """E[erf(z)^2] of z ~ N(0, variance)."""
    return 2.0 / pi * asin(2.0 * variance / (1.0 + 2.0 * variance))


def activation_response(variance: float) -> float:
    """Derivative of `activation_variance` by the variance."""
    return 4.0 / (pi * (1.0 + 2.0 * variance) * sqrt(1.0 + 4.0 * variance))


def response(
    scale: float,
    n: int,
    weight_variance: float = WEIGHT_VARIANCE,
    input_variance: float = INPUT_VARIANCE,
    bias_variance: float = 0.0,
) -> float:
    """How much the variance of what a readout sees changes with that of the input, in a wide residual network.

    The network: x_0 ~ N(0, input_variance), x_l = x_{l-1} + scale * (W_l erf(x_{l-1}) + b_l), read out is erf(x_n),
    with independent W_l of entries of variance weight_variance / width. Width to infinity gives for the variance K of
    an entry K_l = K_{l-1} + scale^2 * (weight_variance * C(K_{l-1}) + bias_variance), C = `activation_variance`; this
    is the derivative of C(K_n) by K_0. It grows with the scale as each sum adds to it, and falls as the activation
    saturates.

    Our own derivation after the abstract of Fischer, Dahmen & Helias (arXiv:2305.07715), not their formula.
    """
    return exp(_response(scale * scale, n, weight_variance, input_variance, bias_variance)[0])


def _response(t: float, n: int, weights: float, variance: float, bias: float) -> tuple[float, float]:
    """(logarithm of the response, its derivative by t), t = scale^2."""
    k, slope_of_k = variance, 0.0
    value = slope = 0.0
    for _ in range(n):
        gain = weights * activation_response(k)
        value += log1p(t * gain)
        slope += gain * (1.0 + t * _bend(k) * slope_of_k) / (1.0 + t * gain)
        added = weights * activation_variance(k) + bias
        slope_of_k += added + t * gain * slope_of_k
        k += t * added
    return value + log(activation_response(k)), slope + _bend(k) * slope_of_k


def _bend(variance: float) -> float:
    """Derivative of the logarithm of `activation_response`."""
    return -2.0 / (1.0 + 2.0 * variance) - 2.0 / (1.0 + 4.0 * variance)


@lru_cache(maxsize=1024)
def most_responsive(
    n: int,
    weight_variance: float = WEIGHT_VARIANCE,
    input_variance: float = INPUT_VARIANCE,
    bias_variance: float = 0.0,
) -> float:
    """The scale > 0 at which `response` is largest.

    UsageError where it only falls: the input then is so large that every branch saturates the readout.
    """

    def slope(t: float) -> float:
        return _response(t, n, weight_variance, input_variance, bias_variance)[1]

    if slope(0.0) <= 0.0:
        raise UsageError(
            f"the response of {n} residual sums is largest at scale 0 for input_variance {input_variance}, "
            f"weight_variance {weight_variance} and bias_variance {bias_variance}; give a smaller input_variance"
        )
    low, high = 0.0, 1.0
    while slope(high) > 0.0:
        low, high = high, 2.0 * high
    while low < (middle := 0.5 * (low + high)) < high:
        low, high = (middle, high) if slope(middle) > 0.0 else (low, middle)
    return sqrt(low)


# -- rules


RULES: Mapping[Rule, Callable[[int], float]] = MappingProxyType(
    {"1/n": lambda n: 1.0 / n, "1/sqrt(n)": lambda n: 1.0 / sqrt(n), "fischer": lambda n: most_responsive(n)}
)
"""The scale of each branch by n: 1/n keeps the path mass below e, 1/sqrt(n) the growth of the variance; fischer is the
scale at which `response` is largest."""
