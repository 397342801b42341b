"""The cost axis against its definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_records import made

from nasir.errors import UsageError
from nasir.search.axis import MOST, Curve, cost_of


def steps(axis: str, width: float, epochs: list[tuple[float, float]]) -> list[tuple[int, float]]:
    curve = Curve(axis, width)
    return [step for cost, value in epochs for step in curve.add(cost, value)] + curve.end()


def test_epochs_are_their_own_steps() -> None:
    assert steps("epoch", 1, [(1, 0.1), (1, 0.2), (1, 0.3)]) == [(1, 0.1), (2, 0.2), (3, 0.3)]


def test_a_step_has_the_newest_value_at_its_cost() -> None:
    # costs 4, 8, 25, 30: nothing is known at 0; 8 at step 1 (10); at 20 still that of the second epoch
    values = steps("cpu_seconds", 10, [(4, 0.1), (4, 0.2), (17, 0.3), (5, 0.4)])
    assert values == [(1, 0.2), (2, 0.2), (3, 0.4)]


def test_an_epoch_that_ends_on_a_step_counts_there() -> None:
    assert steps("macs", 10, [(10, 0.1), (10, 0.2)]) == [(1, 0.1), (2, 0.2)]


def test_values_come_as_soon_as_they_are_known() -> None:
    curve = Curve("macs", 10)
    assert curve.add(7, 0.1) == []
    assert curve.add(20, 0.2) == [(1, 0.1), (2, 0.1)]
    assert curve.add(1, 0.3) == []
    assert curve.end() == [(3, 0.3)]


def test_nothing_is_known_without_an_epoch() -> None:
    assert Curve("macs", 10).end() == []


@given(
    st.sampled_from([0.1, 0.3, 1.0, 7.0, 1e9]),
    st.lists(st.tuples(st.floats(0, 30), st.floats(0, 1)), min_size=1, max_size=12),
)
def test_every_step_agrees_with_the_definition(width: float, epochs: list[tuple[float, float]]) -> None:
    epochs = [(cost * width, value) for cost, value in epochs]
    values = steps("cpu_seconds", width, epochs)
    reached, costs = 0.0, []
    for cost, _ in epochs:
        reached += cost
        costs.append(reached)
    for step, value in values:
        known = [index for index, cost in enumerate(costs) if cost <= step * width]
        assert known and value == epochs[known[-1]][1]
    numbers = [step for step, _ in values]
    last = numbers[-1]
    first = min(step for step in range(last + 1) if step * width >= costs[0])
    assert numbers == list(range(first, last + 1))
    assert last * width >= costs[-1] and (last == 0 or (last - 1) * width < costs[-1])


def test_costs_of_a_record() -> None:
    record = made("epoch", {"cpu_seconds": 2.5, "samples": 10, "macs": 300})
    assert [cost_of(axis, record) for axis in ("epoch", "cpu_seconds", "macs")] == [1, 2.5, 3000]
    with pytest.raises(UsageError, match="samples"):
        cost_of("macs", made("epoch", {"macs": 300}))


def test_a_width_far_too_small_is_refused_with_a_better_one() -> None:
    curve = Curve("cpu_seconds", 0.001)
    curve.add(0.001, 0.1)
    with pytest.raises(UsageError, match=r"search\.axis\.cpu_seconds: 0\.001 is too narrow.*at least 0\.5"):
        curve.add(50, 0.2)
    assert MOST < 50 / 0.001
