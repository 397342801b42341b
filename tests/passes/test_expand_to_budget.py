"""`expand-to-budget`: the largest factor by exact search, checked against every factor and the worked examples."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from grown import pyramid
from networks import small_resnet

from nasir.analysis.uniform import uniform_spaces
from nasir.errors import Decline
from nasir.ir import Draft, Graph
from nasir.passes.expand_to_budget import ExpandToBudget, largest_factor
from nasir.rewriting.evidence import Evidence, Need
from nasir.rewriting.rewrite import WHOLE
from nasir.testing import PassContract, random_graph
from nasir.testing.graphs import MIXING


class Budget(PassContract):
    bound = 1e-12

    def graphs(self) -> list[Graph]:
        return [random_graph(seed, steps=4, without=MIXING) for seed in range(3)]


class TestFresh(Budget):
    make = staticmethod(lambda: ExpandToBudget(budget=50_000))


class TestCopies(Budget):
    make = staticmethod(lambda: ExpandToBudget(budget=50_000, how="replicate", symmetry="none", order="random"))


class TestPairs(Budget):
    make = staticmethod(lambda: ExpandToBudget(budget=5_000, resource="params", how="paired"))


class TestShrinking(Budget):
    make = staticmethod(lambda: ExpandToBudget(budget=2_000, shrink=True, keep="norm"))


def widths(graph: Graph) -> list[int]:
    return [graph.nodes[graph.labels[f"s{stage}.0.conv1"]].attrs["out"] for stage in (1, 2, 3)]


@pytest.mark.parametrize(
    ("budget", "factor", "expected", "macs"),
    [
        (25e6, 1.4375, [22, 45, 91], 24_120_910),
        (50e6, 2.0469, [32, 65, 130], None),
        (100e6, 2.875, [45, 91, 183], None),
    ],
)
def test_the_worked_examples(budget: float, factor: float, expected: list[int], macs: int | None) -> None:
    """Basic3-1-1-1 of 12,501,632 MACs; the square-root rule would say 1.4141 for the first."""
    graph = pyramid((1, 1, 1), 16)
    assert graph.cost().macs == 12_501_632
    largest, _ = largest_factor(graph, budget)
    assert round(float(largest), 4) == factor
    rewrite = ExpandToBudget(budget=budget).attempt(graph, WHOLE)
    assert widths(rewrite.graph) == expected and rewrite.preserves == "exact"
    assert rewrite.graph.cost().macs <= budget
    assert macs is None or rewrite.graph.cost().macs == macs
    assert ExpandToBudget(budget=2 * budget, resource="flops").attempt(graph, WHOLE).graph == rewrite.graph


def cost_at(graph: Graph, factor: Fraction, multiple_of: int = 1) -> int:
    draft = graph.draft()
    for space in uniform_spaces(graph):
        size = int(space.size * factor) // multiple_of * multiple_of
        size = max(size, space.size) if factor >= 1 else max(size, min(space.size, multiple_of))
        draft.select(space, np.where(np.arange(size) < space.size, np.arange(size), -1))
    return draft.commit().cost().params


@pytest.mark.parametrize("multiple_of", [1, 4])
@pytest.mark.parametrize("times", [0.3, 0.7, 1.8, 3.1])
def test_no_larger_factor_fits_and_every_smaller_one_does(times: float, multiple_of: int) -> None:
    graph = small_resnet((1, 1), width=8)
    budget = int(graph.cost().params * times)
    factor, sizes = largest_factor(graph, budget, "params", multiple_of)
    assert cost_at(graph, factor, multiple_of) > budget
    step = Fraction(1, 1000)
    below = factor - step
    while below > max(Fraction(1, 100), factor - Fraction(1, 5)) and (below >= 1) is (times > 1):
        assert cost_at(graph, below, multiple_of) <= budget, below
        below -= step * 7
    assert all(size % multiple_of == 0 or size == space.size for space, size in sizes.items())


def test_a_network_above_the_budget_shrinks_only_when_told_to() -> None:
    graph = small_resnet()
    budget = graph.cost().params // 2
    with pytest.raises(Decline, match="above the budget"):
        ExpandToBudget(budget=budget, resource="params").attempt(graph, WHOLE)
    rule = ExpandToBudget(budget=budget, resource="params", shrink=True)
    rewrite = rule.attempt(graph, WHOLE)
    assert rewrite.preserves == "no" and rewrite.graph.cost().params <= budget
    source = next(s for key, s in rewrite.plan.sources.items() if graph.nodes[key.node].label == "s1.0.conv1")
    index = source.axes[0].index
    assert index.tolist() == list(range(len(index)))


def test_by_norm_the_strongest_units_stay_in_their_order() -> None:
    graph = small_resnet()
    rule = ExpandToBudget(budget=graph.cost().params // 2, resource="params", shrink=True, keep="norm")
    assert rule.needs == (Need("weight_norm"),)
    assert ExpandToBudget(budget=1.0).needs == ()
    measured = {space.name: np.arange(space.size, dtype=float) for space in graph.infer.spaces}
    rewrite = rule.attempt(graph, WHOLE, Evidence({"weight_norm": measured}))
    source = next(s for key, s in rewrite.plan.sources.items() if graph.nodes[key.node].label == "s1.0.conv1")
    index = source.axes[0].index
    assert 0 < len(index) < 4 and index.tolist() == list(range(4))[-len(index) :]


def test_budgets_that_nothing_meets_are_declined_with_the_reason() -> None:
    graph = small_resnet()
    params = graph.cost().params
    with pytest.raises(Decline, match="no width can grow by one step"):
        ExpandToBudget(budget=params, resource="params").attempt(graph, WHOLE)
    with pytest.raises(Decline, match="even the narrowest network"):
        ExpandToBudget(budget=3, resource="params", shrink=True).attempt(graph, WHOLE)
    draft = Draft()
    draft.output(draft.add("linear", draft.add("input", (), "x", shape=[4]), "fc", out=2))
    rigid = draft.commit()
    assert list(ExpandToBudget(budget=100.0).sites(rigid)) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": 0.0}, "budget: must be above 0, found 0.0; give what one sample may cost"),
        ({"budget": 9.0, "multiple_of": 0}, "multiple_of: must be at least 1, found 0"),
        ({"budget": 9.0, "how": "replicate"}, "never separate"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ExpandToBudget(**options)
