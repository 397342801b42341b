"""`shrink-widths`: what is alive stays, ties are kept, dead layers take their block along (MorphNet, step 2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from grown import images, lived, logits, pyramid

from nasir.backends.torch.penalties.group import GroupPenalty
from nasir.backends.torch.penalties.regularize import alive as penalty_alive
from nasir.errors import Decline, OptionError
from nasir.ir import Atom, Graph
from nasir.passes.shrink_widths import ShrinkWidths
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import WHOLE
from nasir.testing import PassContract
from nasir.testing.interpreter import evaluate
from nasir.testing.weights import random_batch, random_weights, silence, transferred
from nasir.training.plans import PenaltyPlan


def space(graph: Graph, name: str) -> Atom:
    return next(space for space in graph.infer.spaces if space.name == name)


def alive(graph: Graph, counts: dict[str, int], kind: str = "group_lasso") -> Evidence:
    """All units alive, but of the named spaces only the last `counts`."""
    measured = {}
    for unit in graph.infer.spaces:
        values = np.full(unit.size, 0.1)
        if unit.name in counts:
            values[: unit.size - counts[unit.name]] = 0.001
        measured[unit.name] = values
    return Evidence({kind: measured})


def sizes(graph: Graph) -> dict[str, int]:
    return {unit.name: unit.size for unit in graph.infer.spaces if unit.resizable}


class TestShrinkWidthsContract(PassContract):
    make = staticmethod(lambda: ShrinkWidths(threshold=0.5))

    def graphs(self) -> list[Graph]:
        return [pyramid((2, 1), 8, size=8), pyramid((1, 1), 8, block="resbuilder", size=8)]


class TestRescratchContract(PassContract):
    make = staticmethod(lambda: ShrinkWidths(threshold=0.5, width_step="rescratch", initializer="he_normal"))

    def graphs(self) -> list[Graph]:
        return [pyramid((2, 1), 8, size=8)]


def test_only_alive_units_stay_and_ties_are_kept() -> None:
    graph = pyramid((2, 1), 8, size=8)
    assert sizes(graph) == {"conv1": 8, "s1.0.conv1": 8, "s1.1.conv1": 8, "s2.0.conv1": 16, "s2.0.conv2": 16}
    seen = alive(graph, {"conv1": 5, "s1.1.conv1": 3, "s2.0.conv2": 9})
    after = ShrinkWidths().attempt(graph, WHOLE, seen).graph
    assert sizes(after) == {"conv1": 5, "s1.0.conv1": 8, "s1.1.conv1": 3, "s2.0.conv1": 16, "s2.0.conv2": 9}
    assert after.nodes[after.find("s1.1.conv2")].attrs["out"] == 5  # tied by the sum


def test_one_alive_member_keeps_a_tied_unit() -> None:
    graph = pyramid((1,), 4, size=8)
    rows = np.array([[0.1, 0.001, 0.001, 0.001], [0.001, 0.001, 0.1, 0.001]])
    measured = {unit.name: np.full(unit.size, 0.1) for unit in graph.infer.spaces} | {"conv1": rows}
    rewrite = ShrinkWidths().attempt(graph, WHOLE, Evidence({"group_lasso": measured}))
    assert sizes(rewrite.graph)["conv1"] == 2
    [take] = [take for key, take in rewrite.plan.sources.items() if key == (graph.find("conv1"), "weight")]
    assert take.axes[0].index.tolist() == [0, 2]  # type: ignore[union-attr]


def test_tied_rows_can_be_added_up_instead() -> None:
    graph = pyramid((1,), 4, size=8)
    rows = np.array([[0.1, 0.008, 0.006, 0.001], [0.001, 0.008, 0.006, 0.1]])
    measured = {unit.name: np.full(unit.size, 0.1) for unit in graph.infer.spaces} | {"conv1": rows}
    for grouping, left in (("max", 2), ("l2", 3)):  # the root of twice 0.008 squared is above 0.01, of 0.006 below
        rule = ShrinkWidths(grouping=grouping)  # type: ignore[arg-type]
        assert sizes(rule.attempt(graph, WHOLE, Evidence({"group_lasso": measured})).graph)["conv1"] == left


def test_excluded_layers_stay_as_they_are() -> None:
    graph = pyramid((2, 1), 8, size=8)
    seen = alive(graph, {"conv1": 5, "s1.1.conv1": 3, "s2.0.conv2": 9})
    after = ShrinkWidths(exclude=("s1.1",)).attempt(graph, WHOLE, seen).graph  # its last convolution writes the stream
    assert sizes(after) == {**sizes(graph), "s2.0.conv2": 9}
    with pytest.raises(Decline, match="nothing is labelled 's9'"):
        ShrinkWidths(exclude=("s9",)).attempt(graph, WHOLE, seen)


@pytest.mark.parametrize("l1", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("grouping", ["max", "l2"])
def test_what_stays_is_what_the_penalty_calls_alive(l1: float, grouping: Any) -> None:
    model = lived(pyramid((2, 1), 8, size=8))
    plan = PenaltyPlan("group-lasso", 1.0, l1=l1, grouping=grouping, exclude=("s1.1.conv1",))
    values = GroupPenalty(model.graph, plan, torch.device("cpu")).values(model.tensor).units
    plan = replace(plan, threshold=float(values.median()))
    rule = ShrinkWidths(threshold=plan.threshold, l1=l1, grouping=grouping, exclude=plan.exclude)
    wanted = {name: int(units.sum()) for name, units in penalty_alive(model, plan).items()}
    assert model.apply(rule, WHOLE) is not None
    assert {name: max(1, wanted[name]) for name in sizes(model.graph)} == sizes(model.graph)


@pytest.mark.parametrize(("rate", "left"), [(1.0, 3), (0.5, 5), (0.25, 6)])  # of 8, with 3 alive
def test_the_rate_goes_part_of_the_way_and_takes_the_weakest_first(rate: float, left: int) -> None:
    graph = pyramid((1,), 8, size=8)
    seen = alive(graph, {"s1.0.conv1": 3})
    seen.measured["group_lasso"]["s1.0.conv1"][:5] = [0.005, 0.001, 0.004, 0.003, 0.002]
    rewrite = ShrinkWidths(rate=rate).attempt(graph, WHOLE, seen)
    assert sizes(rewrite.graph)["s1.0.conv1"] == left
    take = rewrite.plan.sources[graph.find("s1.0.conv1"), "weight"]  # type: ignore[index]
    assert take.axes[0].index.tolist() == sorted([5, 6, 7, 0, 2, 3][:left])  # type: ignore[union-attr]


def test_a_layer_without_alive_units_takes_its_block_along_or_keeps_the_floor() -> None:
    graph = pyramid((2, 1), 8, size=8)
    rewrite = ShrinkWidths().attempt(graph, WHOLE, alive(graph, {"s1.1.conv1": 0}))
    assert rewrite.graph.depths() == {"s1": 1, "s2": 1}
    for name in ("s2.0.conv1", "conv1"):  # a block that halves the image; the stream itself
        after = ShrinkWidths(floor=2).attempt(graph, WHOLE, alive(graph, {name: 0})).graph
        assert after.depths() == {"s1": 2, "s2": 1} and sizes(after)[name] == 2


def test_pruning_dead_channels_of_a_block_is_silent_and_removes_the_parameters_of_the_reference() -> None:
    graph = pyramid((1, 1), 16, size=8)  # s2.0: 16 channels in, 32 out
    model = lived(graph)
    dead = [3, 9, 20, 31]
    with torch.no_grad():
        for name in ("weight", "bias"):
            model.get_parameter(f"s2.0.bn1.{name}")[dead] = 0.0
    before = [logits(model, images(size=8), training) for training in (False, True)]
    params = graph.cost().params
    rewrite = model.apply(ShrinkWidths(score="norm_scale", threshold=1e-6), WHOLE)
    assert rewrite is not None
    assert params - model.graph.cost().params == 1736
    for training, old in zip((False, True), before, strict=True):
        assert (logits(model, images(size=8), training) - old).abs().max() < 1e-6


def test_dead_channels_are_exact_in_double_precision() -> None:
    graph = pyramid((2, 1), 8, size=8)
    weights = random_weights(graph, 0)
    units = {space(graph, name): np.array([0, 5]) for name in ("s1.0.conv1", "s2.0.conv1", "s1.1.conv1")}
    silence(graph, weights, units)
    seen = alive(graph, {})
    for unit, dead in units.items():
        seen.measured["group_lasso"][unit.name][dead] = 0.0
    rewrite = ShrinkWidths().attempt(graph, WHOLE, seen)
    batch = random_batch(graph, 1)
    old = evaluate(graph, weights, batch)
    new = evaluate(rewrite.graph, transferred(rewrite.plan, rewrite.graph, weights), batch)
    assert abs(new - old).max() <= 1e-12 * abs(old).max()


def test_from_scratch_all_weights_are_drawn_anew() -> None:
    model = lived(pyramid((1, 1), 8, size=8))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    seen = alive(model.graph, {"s1.0.conv1": 6})
    rewrite = ShrinkWidths(width_step="rescratch", initializer="he_normal").attempt(model.graph, WHOLE, seen)
    model.apply(rewrite)
    drawn = {name: p for name, p in model.named_parameters() if p.dim() > 1}
    assert all(p.shape != before[name].shape or not torch.equal(p, before[name]) for name, p in drawn.items())
    weight = model.get_parameter("s2.0.conv2.weight").detach()
    assert float(weight.std()) == pytest.approx((2 / (9 * 16)) ** 0.5, rel=0.1)
    assert bool((model.get_buffer("bn1.running_var") == 1).all())


def test_refusals_and_options() -> None:
    graph = pyramid((1,), 8, size=8)
    with pytest.raises(Decline, match=r"all channels have a group_lasso above 0\.01"):
        ShrinkWidths().attempt(graph, WHOLE, alive(graph, {}))
    empty = {unit.name: np.empty((0, unit.size)) for unit in graph.infer.spaces}
    with pytest.raises(Decline, match="norm_scale was measured on none of the spaces"):
        ShrinkWidths(score="norm_scale").attempt(graph, WHOLE, Evidence({"norm_scale": empty}))
    for options, words in (
        ({"l1": 1.5}, "l1: must be at most 1, found 1.5"),
        ({"l1": 0.5, "score": "norm_scale"}, "l1 is 0.5; it must be 0 for the score norm_scale"),
        ({"threshold": -1.0}, "threshold: must be at least 0, found -1.0"),
        ({"rate": 0.0}, "rate: must be above 0, found 0.0"),
        ({"floor": 0}, "floor: must be at least 1, found 0"),
    ):
        with pytest.raises(OptionError, match=words):
            ShrinkWidths(**options)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="unknown initializer 'best'; known: 'default', "):
        ShrinkWidths(initializer="best")
