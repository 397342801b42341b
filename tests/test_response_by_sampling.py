"""The formulas of residual scaling against sampled networks: paths, variance growth, the response and its maximum."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from nasir.analysis.branch_scales import most_responsive, path_weights, response, variance_growth

WIDTH = 400
ERF = np.vectorize(math.erf)


def sampled_response(scale: float, n: int, networks: int, seed: int, variance: float = 0.1) -> tuple[float, float]:
    """(estimate, its standard error) of d E[erf(x_n)^2] / d E[x_0^2] over random networks of width `WIDTH`:
    x_l = x_(l-1) + scale * W_l erf(x_(l-1)), entries of W_l ~ N(0, 1 / WIDTH).

    The input of each network is taken a little larger and a little smaller: its own difference has little noise.
    """
    rng = np.random.default_rng(seed)
    step = 0.05
    slopes = []
    for _ in range(networks):
        start = rng.standard_normal(WIDTH)
        start *= math.sqrt(WIDTH / (start @ start))  # its mean square is 1, so that the input's variance is exact
        states = [start * math.sqrt(variance * (1 + sign * step)) for sign in (1, -1)]
        for _ in range(n):
            weights = rng.standard_normal((WIDTH, WIDTH)) / math.sqrt(WIDTH)
            states = [x + scale * weights @ ERF(x) for x in states]
        high, low = (float(np.mean(ERF(x) ** 2)) for x in states)
        slopes.append((high - low) / (2 * step * variance))
    return float(np.mean(slopes)), float(np.std(slopes) / math.sqrt(networks))


@pytest.mark.parametrize(("scale", "n"), [(0.0, 4), (0.3, 4), (0.6, 6), (1.0, 4)])
def test_the_response_is_that_of_sampled_networks(scale: float, n: int) -> None:
    estimate, error = sampled_response(scale, n, networks=24, seed=n)
    # 4 standard errors, and 2 % for the finite width and the finite difference
    assert abs(estimate - response(scale, n)) < 4 * error + 0.02 * response(scale, n)


def test_sampled_networks_respond_most_at_an_inner_scale() -> None:
    n = 6
    best = most_responsive(n)
    estimates = [sampled_response(factor * best, n, networks=12, seed=1) for factor in (0.2, 1.0, 2.5)]
    (low, low_error), (inner, error), (high, high_error) = estimates
    assert inner - low > 3 * (error + low_error) and inner - high > 3 * (error + high_error)
    grid = [response(step * best / 50, n) for step in range(1, 151)]
    assert abs(int(np.argmax(grid)) + 1 - 50) <= 1  # the maximum itself


def linear_products(scale: float, n: int, draws: int, size: int = 64) -> NDArray[np.float64]:
    """Mean squares of x after n random linear branches that keep its variance, of `draws` networks."""
    rng = np.random.default_rng(0)
    ends = []
    for _ in range(draws):
        x = rng.standard_normal(size)
        before = np.mean(x**2)
        for _ in range(n):
            x = x + scale * rng.standard_normal((size, size)) @ x / math.sqrt(size)
        ends.append(np.mean(x**2) / before)
    return np.array(ends)


@pytest.mark.parametrize(("scale", "n"), [(0.1, 10), (1 / math.sqrt(10), 10), (1.0, 4)])
def test_variance_grows_as_the_formula_says(scale: float, n: int) -> None:
    ends = linear_products(scale, n, draws=400)
    error = ends.std() / math.sqrt(len(ends))
    assert abs(ends.mean() - variance_growth(scale, n)) < 4 * error


def test_path_weights_are_those_of_drawn_paths() -> None:
    """A path takes each branch with odds `scale`: how many it takes is the share of `path_weights`."""
    scale, n = 0.5, 6
    taken = (np.random.default_rng(0).random((40_000, n)) < scale / (1 + scale)).sum(1)
    weights = np.array(path_weights(scale, n))
    shares = np.bincount(taken, minlength=n + 1) / len(taken)
    assert np.abs(shares - weights / weights.sum()).max() < 4 * 0.5 / math.sqrt(len(taken))
    assert taken.mean() == pytest.approx(n * scale / (1 + scale), rel=0.02)  # the effective depth
