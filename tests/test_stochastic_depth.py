"""Stochastic depth of blocks: where it lies, by which rule, and what it does in training and to passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from grown import images, lived, logits, pyramid
from small_runs import SPEC, killed_and_resumed, weights, write_spec
from torch import nn
from torchvision.ops import StochasticDepth

import nasir.api
from nasir.analysis.residuals import residual_sums
from nasir.backends.torch import Model
from nasir.backends.torch.lower.compile import BlockCompiler
from nasir.errors import SpecError, TypeRuleError
from nasir.ir import Draft, Graph
from nasir.journal.directory import RunDirectory
from nasir.passes.insert_block import InsertBlock
from nasir.passes.insert_random_block import InsertRandomBlock
from nasir.passes.remove_block import RemoveBlock
from nasir.passes.split_branches import SplitBranches
from nasir.records import EpochRecord
from nasir.rewriting.rewrite import REMARK
from nasir.running.replay import compare
from nasir.spec import loads_spec
from nasir.spec.network import build
from tests.test_blocks import block_net, names

DEFINED = {"branch": [{"conv_bn": {"out": "out", "stride": "stride"}}, {"conv_bn": {"out": "out"}}], "then": ["relu"]}
DEFINED["shortcut"] = "projection"
LINEAR = {"stochastic_depth": {"linear": 0.4}}


def rates(graph: Graph) -> dict[str, float]:
    """The probability of each block, rounded."""
    return {
        node.label.rpartition(".")[0]: round(float(node.attrs["p"]), 6)  # type: ignore[arg-type]
        for node in (graph.nodes[node_id] for node_id in graph.order)
        if node.facts.drops == "samples"
    }


# -- where it lies


@pytest.mark.parametrize("block", ["basic", "bottleneck", "preact_basic", "resbuilder", DEFINED])
@pytest.mark.parametrize("stride", [1, 2])
def test_it_ends_the_branch_of_every_residual_block(block: Any, stride: int) -> None:
    template = {"block": block, "options": {"out": 8 if block != "bottleneck" else 2, "stochastic_depth": 0.25}}
    graph, _ = block_net(template, stride=stride)
    [found] = residual_sums(graph, "s.0")
    last = graph.nodes[found.branch.node]
    assert (last.facts.drops, dict(last.attrs)) == (
        "samples",
        {"p": 0.25, "mode": "row", "rescale": True, "noise": "bernoulli"},
    )
    without, _ = block_net({**template, "options": {**template["options"], "stochastic_depth": 0}}, stride=stride)
    bare, _ = block_net({**template, "options": {"out": template["options"]["out"]}}, stride=stride)
    assert without.digest == bare.digest, "0 is as if it were not said"


def test_it_lies_behind_the_scale_of_a_branch() -> None:
    options = {"out": 8, "branch_scale": "skipinit", "stochastic_depth": 0.1}
    assert names(block_net({"block": "basic", "options": options})[0], "s.0")[4:-1] == [
        *("bn2", "scale", "stochastic_depth", "add")
    ]


def test_both_branches_of_a_transformers_block_drop_for_themselves() -> None:
    text = """
      nasir: 1
      name: vit
      input: {image: [3, 8, 8]}
      network:
        - patchify: {out: 12, patch: 4}
        - stage: {name: encoder, block: transformer, depth: 2, heads: 3, stochastic_depth: {linear: 0.2}}
        - classifier: {classes: 4}
      data: {dataset: synthetic}
      phases: [{name: train, epochs: 1, optimizer: {sgd: {lr: 0.1}}}]
    """
    graph = build(loads_spec(text))
    sums = residual_sums(graph)
    assert [graph.nodes[found.branch.node].attrs["p"] for found in sums] == [0.1, 0.1, 0.2, 0.2]
    labels = [graph.nodes[found.branch.node].label for found in sums]
    assert labels[:2] == ["encoder.0.stochastic_depth_1", "encoder.0.stochastic_depth_2"]


def test_a_built_block_is_the_graph_that_an_imported_one_is() -> None:
    """Growth and import agree: torchvision's StochasticDepth at the end of a branch is the op that blocks have."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = [nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2)]
            self.bn1, self.bn2, self.relu = nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.ReLU()
            self.stochastic_depth = StochasticDepth(0.25, "row")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.bn2(self.conv2(self.bn1(self.conv1(x))))
            return self.relu(self.stochastic_depth(y) + x)

    imported = nasir.from_module(Block().train(), torch.randn(2, 8, 6, 6)).graph
    draft = Draft()
    x = draft.add("input", (), "x", shape=[8, 6, 6])
    options = {"stochastic_depth": 0.25}
    draft.output(nasir.blocks.build_block(draft, x, "b", {"block": DEFINED, "options": options}))
    assert draft.commit().digest == imported.digest


def test_a_block_that_is_its_branch_has_none() -> None:
    definition = {"branch": [{"conv_bn_relu": {"out": "out"}}], "shortcut": "none"}
    with pytest.raises(TypeRuleError, match=r"block 's\.0': stochastic_depth drops a branch"):
        block_net({"block": definition, "options": {"stochastic_depth": 0.1}})
    with pytest.raises(TypeRuleError, match="stochastic_depth"):
        block_net({"block": "plain", "options": {"stochastic_depth": 0.1}})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("1.0", "stochastic_depth: must be below 1"),
        ("{linear: 1.0}", "stochastic_depth.linear: must be below 1"),
        ("{}", "stochastic_depth: too few items"),
        ("{lin: 0.1}", "did you mean 'linear'"),
        ("often", "expected a number or a mapping"),
    ],
)
def test_what_is_no_probability_is_told_with_its_place(given: str, told: str) -> None:
    text = SPEC.replace("depth: 1, stride: 2", f"stride: 2, stochastic_depth: {given}")
    with pytest.raises(SpecError, match=rf":9:12: network\.2\.stage: block 's2\.0' \(basic\): .*{told}"):
        build(loads_spec(text))


# -- the linear rule


def test_the_linear_rule_grows_with_the_depth_of_the_whole_network() -> None:
    graph = pyramid((2, 2), 4, options="stochastic_depth: {linear: 0.4}", size=8)
    assert rates(graph) == {"s1.0": 0.1, "s1.1": 0.2, "s2.0": 0.3, "s2.1": 0.4}


def test_blocks_without_the_rule_count_too() -> None:
    text = SPEC.replace("depth: 1, stride: 2", "depth: 2, stride: 2, stochastic_depth: {linear: 0.3}")
    assert rates(build(loads_spec(text))) == {"s2.0": 0.2, "s2.1": 0.3}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("keep", {"s1.0": 0.2, "s1.1": 4 / 15, "s2.0": 0.4}),
        ("respace", {"s1.0": 2 / 15, "s1.1": 4 / 15, "s2.0": 0.4}),
    ],
)
def test_growth_keeps_the_other_blocks_or_spaces_them_anew(rule: Any, expected: dict[str, float]) -> None:
    graph = pyramid((1, 1), 4, options="stochastic_depth: {linear: 0.4}", size=8)
    rewrite = InsertBlock(stochastic_depth=rule).attempt(graph, "s1")
    assert rewrite.preserves == "exact"
    assert rates(rewrite.graph) == {path: pytest.approx(p, abs=1e-6) for path, p in expected.items()}


def test_a_random_block_gets_what_its_depth_says() -> None:
    graph = pyramid((1, 1), 4, size=8)
    block = {"block": "resbuilder", "options": LINEAR}
    rewrite = InsertRandomBlock(block=block, position="after_first").attempt(graph, "network")
    assert list(rates(rewrite.graph).values()) == [pytest.approx(0.4 / 3, abs=1e-6)]


def test_branches_count_side_by_side() -> None:
    """Depth is that of the longest way: three branches do not make a network three times as deep."""
    graph = pyramid((1, 2), 8, options="stochastic_depth: {linear: 0.3}", size=8)
    split = SplitBranches(branches=2, how="aligned", planes="keep").attempt(graph, "s2").graph
    grown = InsertBlock(stochastic_depth="respace").attempt(split, "branches.1.s2").graph
    expected = {"s1.0": 0.075, "branches.0.s2.0": 0.15, "branches.0.s2.1": 0.225}
    expected |= {"branches.1.s2.0": 0.15, "branches.1.s2.1": 0.225, "branches.1.s2.2": 0.3}
    assert rates(grown) == expected


def test_a_copy_differs_from_its_model_in_its_rate_alone() -> None:
    model = lived(pyramid((2, 1), 4, options="stochastic_depth: {linear: 0.4}", size=8))
    rewrite = model.apply(InsertBlock(init="copy"), "s1")
    assert rewrite is not None and REMARK not in rewrite.noted
    state = model.state_dict()
    assert torch.equal(state["s1.2.conv1.weight"], state["s1.1.conv1.weight"])


def test_removal_leaves_the_rates_of_the_others() -> None:
    graph = pyramid((2, 1), 4, options="stochastic_depth: {linear: 0.3}", size=8)
    assert rates(RemoveBlock().attempt(graph, "s1").graph) == {"s1.0": 0.1, "s2.0": 0.3}


# -- what it does


def one_block(p: float, seed: int = 0) -> Model:
    template = {"block": "preact_basic", "options": {"norm": "none", "stochastic_depth": p}}
    return Model.from_graph(block_net(template, channels=4, size=4)[0], seed, dtype=torch.float64)


def test_in_training_whole_branches_of_samples_are_dropped_and_the_mean_is_kept() -> None:
    model, bare = one_block(0.25).requires_grad_(False), one_block(0.0).requires_grad_(False)
    bare.load_state_dict(model.state_dict())
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64).expand(
        4000, -1, -1, -1
    )
    stream, full = x.clamp(min=0), bare.eval()(x)
    branch = full - stream
    torch.manual_seed(0)
    given = model.train()(x) - stream
    shares = (given / branch).flatten(1)
    assert torch.allclose(shares, shares[:, :1].expand_as(shares), atol=1e-9), "a sample's branch is dropped as a whole"
    assert sorted({round(float(share), 6) for share in shares[:, 0]}) == [0.0, round(4 / 3, 6)]
    # the share of 4,000 samples that are dropped has a standard deviation of 0.7 points
    assert abs(float((shares[:, 0] < 0.5).double().mean()) - 0.25) < 0.035
    assert abs(float(shares[:, 0].mean()) - 1.0) < 0.05


def test_in_evaluation_it_is_the_identity_bit_for_bit() -> None:
    model = lived(pyramid((2, 1), 4, options="stochastic_depth: {linear: 0.5}", size=8))
    bare = Model.from_graph(pyramid((2, 1), 4, size=8))
    bare.load_state_dict(model.state_dict())
    assert torch.equal(logits(model, images(size=8)), logits(bare, images(size=8)))


def test_frozen_blocks_drop_nothing() -> None:
    graph = pyramid((1,), 4, options="stochastic_depth: 0.5", size=8)
    draft = graph.draft()
    draft.freeze("s1.0")
    model = Model.from_graph(draft.commit()).train()
    dropping = [module for module in model.modules() if type(module).__name__ == "StochasticDepth"]
    assert [module.training for module in dropping] == [False]


def test_a_silent_block_is_exact_in_training_too() -> None:
    """The new branch is zero, dropped or not; at the end of the network it draws after all the others."""
    model = lived(pyramid((1, 1), 4, options="stochastic_depth: 0.3", size=8))
    rewrite = InsertBlock(init="zero").attempt(model.graph, "s2")
    assert rewrite.preserves == "exact"
    before = []
    for _ in range(2):
        torch.manual_seed(3)
        before.append(logits(model, images(size=8), training=True))
    assert torch.equal(*before)
    model.apply(rewrite)
    torch.manual_seed(3)
    assert torch.equal(logits(model, images(size=8), training=True), before[0])


def test_a_killed_run_goes_on_with_the_same_draws(tmp_path: Path) -> None:
    path = write_spec(tmp_path, SPEC.replace("block: basic,", "block: basic, stochastic_depth: {linear: 0.4},"))
    whole = nasir.api.run(path, tmp_path / "whole")
    second = [record.n for record in whole.journal if isinstance(record, EpochRecord)][1]
    killed_and_resumed(path, tmp_path / "killed", second)
    assert compare(whole.journal, RunDirectory.open(tmp_path / "killed").effective()) == []
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


@pytest.mark.filterwarnings("default")  # warnings of torch's own compiler are not ours
@pytest.mark.parametrize(("rate", "graphs"), [("0.2", 1), ("{linear: 0.2}", 3)])
def test_a_rate_is_a_part_of_what_is_compiled(rate: str, graphs: int) -> None:
    """Blocks of one rate are compiled once, those of the linear rule each for itself."""
    torch.compiler.reset()
    model = Model.from_graph(pyramid((3,), 4, options=f"stochastic_depth: {rate}", size=8)).train()
    compiler = BlockCompiler("eager")
    compiler.compile(model)
    model(images(size=8))
    assert compiler.graphs == graphs
