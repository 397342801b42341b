"""Rules for the scale of residual branches: golden numbers, and the response function's maximum."""

from __future__ import annotations

from math import e, erf, inf, sqrt

import numpy as np
import pytest

from nasir.analysis.branch_scales import (
    RULES,
    activation_response,
    activation_variance,
    most_responsive,
    path_mass,
    path_weights,
    response,
    variance_growth,
)
from nasir.errors import UsageError


@pytest.mark.parametrize(
    ("rule", "n", "mass"),
    [
        ("1/n", 10, 2.594),
        ("1/n", 1000, 2.717),
        ("1/sqrt(n)", 10, 15.6),
        ("1/sqrt(n)", 50, 745.0),
        ("1/sqrt(n)", 100, 1.38e4),
    ],
)
def test_the_path_mass_of_the_rules(rule: str, n: int, mass: float) -> None:
    assert path_mass(RULES[rule](n), n) == pytest.approx(mass, rel=2e-3)


def test_without_a_scale_the_paths_double_with_every_sum() -> None:
    assert path_mass(1.0, 10) == pytest.approx(1024.0, rel=1e-14)
    assert path_mass(1.0, 5000) == inf


@pytest.mark.parametrize("n", [1, 10, 100, 1000])
def test_the_variance_grows_by_less_than_e_at_one_by_the_root_of_n(n: int) -> None:
    growth = variance_growth(RULES["1/sqrt(n)"](n), n)
    assert growth == pytest.approx((1 + 1 / n) ** n, rel=1e-13) and growth < e
    assert variance_growth(1.0, n) == pytest.approx(2.0**n, rel=1e-12)


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, -0.5])
def test_the_paths_by_order_sum_up_to_the_path_mass(scale: float) -> None:
    weights = path_weights(scale, 12)
    assert len(weights) == 13 and weights[:2] == pytest.approx((1.0, 12 * scale))
    assert sum(weights) == pytest.approx(path_mass(scale, 12), rel=1e-12)
    assert 0.0 < path_weights(0.5, 2000)[1000] < inf  # its binomial coefficient alone is beyond a float


def test_the_activations_variance_and_response_are_those_of_drawn_numbers() -> None:
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    for variance in (0.05, 0.4, 1.0):
        squares = np.array([erf(sqrt(variance) * x) ** 2 for x in points])
        assert activation_variance(variance) == pytest.approx(float(squares @ weights / weights.sum()), rel=1e-6)
        step = 1e-6
        slope = (activation_variance(variance + step) - activation_variance(variance - step)) / (2 * step)
        assert activation_response(variance) == pytest.approx(slope, rel=1e-8)


@pytest.mark.parametrize("n", [1, 2, 10, 54, 300])
def test_the_response_has_one_maximum_inside(n: int) -> None:
    best = most_responsive(n)
    scales = np.linspace(0.0, 4 * best, 401)
    values = np.array([response(float(scale), n) for scale in scales])
    assert abs(scales[values.argmax()] - best) <= scales[1] and 0 < values.argmax() < 400
    rises = np.diff(values) > 0
    assert rises.sum() == values.argmax() and not rises[values.argmax() :].any()
    assert response(best, n) >= max(response(best * 0.999, n), response(best * 1.001, n))


def test_the_most_responsive_scale() -> None:
    found = [most_responsive(n) for n in (10, 40, 54, 10_000)]
    assert found == pytest.approx([0.366618, 0.174710, 0.149762, 0.010881], abs=1e-6)
    # without biases only the scale's square times the weights' variance counts
    assert most_responsive(54, weight_variance=4.0) == pytest.approx(most_responsive(54) / 2, rel=1e-9)
    assert all(0.1 <= most_responsive(n) <= 0.3 for n in range(15, 101))
    with pytest.raises(UsageError, match=r"largest at scale 0 .* smaller input_variance"):
        most_responsive(10, input_variance=1.0)
