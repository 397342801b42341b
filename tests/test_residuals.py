"""The residual sums of networks, shipped and imported."""

from __future__ import annotations

from typing import Any

import pytest

from nasir.analysis.residuals import residual_depth, residual_sums
from nasir.blocks import build_block
from nasir.ir import Draft, Graph
from nasir.passes.insert_router import InsertRouter
from nasir.passes.split_branches import SplitBranches
from tests.grown import pyramid
from tests.networks import small_resnet


def test_a_resnet_has_one_in_each_block() -> None:
    graph = small_resnet((1, 2))
    found = residual_sums(graph)
    assert [item.block for item in found] == ["s1.0", "s2.0", "s2.1"]
    assert [item.projected for item in found] == [False, True, False]
    for item in found:
        assert graph.nodes[item.branch.node].label == f"{item.block}.bn2"
    assert graph.nodes[found[1].stream.node].label == "s2.0.downsample.1"
    assert graph.nodes[found[2].stream.node].label == "s2.0.relu_out"


def one_block(block: str, channels: int = 4, stride: int = 1, **options: object) -> Graph:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[4, 6, 6])
    y = build_block(draft, x, "b", {"block": block, "options": {"out": channels, **options}}, stride=stride)
    draft.output(y)
    return draft.commit()


@pytest.mark.parametrize("block", ["basic", "bottleneck", "preact_basic"])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_residual_block_has_one(block: str, stride: int) -> None:
    [found] = residual_sums(one_block(block, stride=stride, channels=4 if block != "bottleneck" or stride > 1 else 1))
    assert found.projected == (stride == 2)


def test_a_branch_with_as_many_kernels_as_its_projection_is_the_one_that_is_not_linear() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[4, 6, 6])
    definition = {"branch": [{"conv": {"out": "out", "stride": "stride"}}, "relu"], "shortcut": "projection"}
    draft.output(build_block(draft, x, "b", {"block": definition, "options": {"out": 8}}, stride=2))
    graph = draft.commit()
    [found] = residual_sums(graph)
    assert found.projected and graph.nodes[found.stream.node].label == "b.downsample.1"


def test_a_block_without_a_shortcut_has_none() -> None:
    assert residual_sums(one_block("plain")) == ()


def test_a_transformers_block_has_two() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 8, 8])
    x = draft.add("conv2d", x, "patch", out=8, kernel=4, stride=4)
    x = draft.add("tokens", x, "tokens")
    y = build_block(draft, x, "b", {"block": "transformer", "options": {"heads": 2, "mlp": 16}})
    draft.output(y)
    graph = draft.commit()
    first, second = residual_sums(graph)
    assert (first.stream, second.stream) == (x, type(x)(first.node))
    assert not first.projected and not second.projected


def test_of_sums_in_parallel_only_those_of_one_way_are_its_depth() -> None:
    graph = small_resnet((2, 3))
    assert residual_depth(graph) == len(residual_sums(graph)) == 5
    split = SplitBranches(branches=2, planes="keep").attempt(graph, "s2.0").graph
    assert (residual_depth(split), len(residual_sums(split))) == (5, 8)
    assert residual_depth(one_block("plain")) == 0


@pytest.mark.parametrize("actions", [("skip",), ("skip", "reuse", "exit")])
def test_routed_blocks_have_those_that_they_had(actions: Any) -> None:
    graph = pyramid((1, 3), 4, size=8)
    routed = InsertRouter(actions=actions).attempt(graph, "s2").graph
    sums, before = residual_sums(routed), residual_sums(graph)
    assert [(found.node, found.block, found.branch) for found in sums] == [
        (found.node, found.block, found.branch) for found in before
    ]
