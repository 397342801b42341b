"""Passes on networks whose residual branches are scaled: their claims hold, and the scales stay what they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from grown import images, lived, logits, pyramid

from nasir.analysis.residuals import residual_sums
from nasir.errors import Decline
from nasir.ir import Graph
from nasir.passes.insert_block import InsertBlock
from nasir.passes.merge_branches import MergeBranches
from nasir.passes.prune_channels import PruneChannels
from nasir.passes.remove_block import RemoveBlock
from nasir.passes.scale_branches import ScaleBranches
from nasir.passes.split_branches import SplitBranches
from nasir.passes.widen import Widen
from nasir.rewriting.rewrite import Rewrite
from nasir.testing import PassContract


class Scaled(PassContract):
    """On networks with fixed and learned scales."""

    def graphs(self) -> list[Graph]:
        return [
            pyramid((1, 2), 4, options="branch_scale: 1/n", size=8),
            pyramid((2, 1), 4, block="preact_basic", options="norm: none, branch_scale: {skipinit: 0.3}", size=8),
            pyramid((1, 2), 4, block="resbuilder", options="branch_scale: fischer", size=8),
        ]


class TestWiden(Scaled):
    make = staticmethod(lambda: Widen(units=2, how="fresh"))
    bound = 1e-12


class TestPrune(Scaled):
    make = staticmethod(lambda: PruneChannels(fraction=0.25))


class TestRemoveBlock(Scaled):
    make = staticmethod(RemoveBlock)


class TestNearZero(Scaled):
    make = staticmethod(lambda: InsertBlock(init="near_zero", sigma=1e-4))


class TestRescale(Scaled):
    make = staticmethod(lambda: InsertBlock(init="near_zero", branch_scale="rescale"))


def attributes(graph: Graph) -> list[dict[str, Any]]:
    """Of the scale of every branch, in the order of the network."""
    ends = [graph.nodes[item.branch.node] for item in residual_sums(graph)]
    return [dict(node.attrs) for node in ends if node.facts.family == "scale"]


def test_the_state_of_learned_scales_stays_with_them() -> None:
    model = lived(pyramid((1, 1), 4, block="preact_basic", options="norm: none, branch_scale: {skipinit: 0.5}", size=8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    torch.nn.functional.cross_entropy(model(images(size=8)), torch.arange(4)).backward()
    optimizer.step()
    scale = model.get_parameter("s1.0.scale.weight")
    value, moment = scale.item(), optimizer.state[scale]["momentum_buffer"].item()
    assert value != 0.5 and moment != 0.0
    for change, site in ((InsertBlock(), "s1"), (Widen(units=2, how="fresh"), "network")):
        assert model.apply(change, site, optimizers=[optimizer]) is not None
    kept = model.get_parameter("s1.0.scale.weight")
    assert kept is scale and kept.item() == value and optimizer.state[kept]["momentum_buffer"].item() == moment
    assert model.get_parameter("s1.1.scale.weight").item() == 0.0  # init: zero silences the new one by it


def test_splitting_and_merging_keep_the_scales() -> None:
    graph = pyramid((1, 2), 4, options="branch_scale: 1/n", size=8)
    split = SplitBranches(branches=2, planes="keep").attempt(graph, "s2.0").graph
    assert [round(attrs["value"], 6) for attrs in attributes(split)] == [0.333333] * 5
    grown = InsertBlock().attempt(split, "branches.1.s2").graph
    assert [round(1 / attrs["value"]) for attrs in attributes(grown)] == [3] * 5 + [4]  # one more on the longest way
    merged = MergeBranches().attempt(split, "network").graph
    assert [round(attrs["value"], 6) for attrs in attributes(merged)] == [0.333333] * 3


def test_scales_stay_when_a_block_goes_until_they_are_set_to_what_n_is_now() -> None:
    graph = pyramid((2,), 4, block="preact_basic", options="branch_scale: 1/n", size=8)
    model = lived(graph, dtype=torch.float64)
    x = images(size=8).double()
    with pytest.raises(Decline, match="nothing to change"):
        ScaleBranches(to="1/n").attempt(model.graph, "network")
    rewrite = model.apply(RemoveBlock(), "s1.1")
    assert isinstance(rewrite, Rewrite) and attributes(model.graph) == [{"value": 0.5, "learnable": False}]
    frozen = logits(model, x)
    model.apply(ScaleBranches(to="1/n"), "network")  # what removing leaves to this pass
    assert attributes(model.graph) == [{"value": 1.0, "learnable": False}]
    assert not torch.equal(logits(model, x), frozen)
