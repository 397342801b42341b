"""`place-dropout`: where it puts dropout, what it refuses, and what that does to variances (Kim et al., UAI 2023)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from grown import images, lived, logits, pyramid
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

import nasir
from nasir.analysis.variance_shift import variance_shifts
from nasir.backends.torch import Model
from nasir.blocks import build_block
from nasir.errors import Decline, OptionError
from nasir.ir import Draft, Graph, Port
from nasir.passes.insert_block import InsertBlock
from nasir.passes.place_dropout import PlaceDropout
from nasir.rewriting.rewrite import REMARK, Rewrite
from nasir.testing import PassContract, random_graph, random_transformer

SHIFTED = {"branch": ["batch_norm", {"dropout": {"p": 0.3}}, {"bn_relu_conv": {"out": "out"}}]}


def preact(depths: tuple[int, ...] = (1, 2), **options: Any) -> Graph:
    """Pre-activation blocks, whose branches have a place."""
    return pyramid(depths, 4, block="preact_basic", size=8, **options)


def block_of(block: Any, channels: int = 4, **options: Any) -> Graph:
    """One block between a convolution and a head."""
    draft = Draft()
    x = draft.add("conv2d", draft.add("input", (), "x", shape=[3, 8, 8]), "stem", out=channels, kernel=3, padding=1)
    x = build_block(draft, x, "b", {"block": block, "options": options})
    x = draft.add("global_avg_pool", x, "pool")
    draft.output(draft.add("linear", x, "fc", out=3))
    return draft.commit()


def drops(graph: Graph) -> dict[str, tuple[float, str, str]]:
    """By label the probability of each dropout, and the nodes before and behind it."""
    found = {}
    for node_id in graph.order:
        node = graph.nodes[node_id]
        if node.facts.drops in ("elements", "channels"):
            [reader] = graph.users(node_id)
            found[node.label] = (node.attrs["p"], graph.nodes[node.inputs[0].node].label, graph.nodes[reader].label)
    return found  # type: ignore[return-value]


class TestPlaceDropoutContract(PassContract):
    make = staticmethod(lambda: PlaceDropout(p=0.2, head=0.1))

    def graphs(self) -> list[Graph]:
        return [preact(), pyramid((1, 1), 4, block="resbuilder", size=8)]


class TestMovingContract(PassContract):
    make = staticmethod(lambda: PlaceDropout(p=0.2, move=True))

    def graphs(self) -> list[Graph]:
        return [block_of(SHIFTED), preact(options="dropout: 0.4"), *[random_transformer(seed) for seed in range(3)]]


# -- places


def test_it_lies_between_the_last_activation_and_the_last_convolution() -> None:
    rewrite = PlaceDropout(p=0.3).attempt(preact(), "network")
    assert rewrite.preserves == "exact" and REMARK not in rewrite.noted
    expected = {f"{path}.dropout": (0.3, f"{path}.relu2", f"{path}.conv2") for path in ("s1.0", "s2.0", "s2.1")}
    assert drops(rewrite.graph) == expected
    assert (
        rewrite.graph == preact(options="dropout: 0.3") or rewrite.graph.digest == preact(options="dropout: 0.3").digest
    )


@pytest.mark.parametrize(
    ("site", "blocks"), [("s2", ["s2.0", "s2.1"]), ("s2.1", ["s2.1"]), ("network", ["s1.0", "s2.0", "s2.1"])]
)
def test_sites_are_the_network_stages_and_blocks(site: str, blocks: list[str]) -> None:
    assert site in PlaceDropout().sites(preact())
    assert [*drops(PlaceDropout().attempt(preact(), site).graph)] == [f"{path}.dropout" for path in blocks]


def test_the_unit_of_resbuilder_has_a_place_too() -> None:
    """Norm - convolution - ReLU, twice: no norm follows the last convolution."""
    graph = PlaceDropout().attempt(pyramid((1,), 4, block="resbuilder", size=8), "s1").graph
    assert drops(graph) == {"s1.0.dropout": (0.1, "s1.0.bn2", "s1.0.conv2")}


def test_a_transformers_block_has_two() -> None:
    draft = Draft()
    x = draft.add("conv2d", draft.add("input", (), "x", shape=[3, 8, 8]), "patch", out=8, kernel=4, stride=4)
    x = build_block(draft, draft.add("tokens", x, "tokens"), "b", {"block": "transformer", "options": {"heads": 2}})
    draft.output(draft.add("linear", draft.add("mean_tokens", x, "pool"), "fc", out=3))
    graph = PlaceDropout(p=0.2, head=0.4).attempt(draft.commit(), "network").graph
    assert {label: (p, reader) for label, (p, _, reader) in drops(graph).items()} == {
        "b.dropout": (0.2, "b.self_attention.out_proj"),
        "b.dropout_2": (0.2, "b.mlp.3"),
        "dropout": (0.4, "pool"),
    }


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_post_activation_blocks_have_no_place(block: str) -> None:
    graph = pyramid((1, 1), 4, block=block, size=8)
    with pytest.raises(
        Decline, match=r"no branch of 's1' has a place: |the norm 's1\.0\.bn\d' ends the branch of 's1\.0'"
    ):
        PlaceDropout().attempt(graph, "s1")
    with pytest.raises(Decline, match="blocks whose norms come first, such as preact_basic"):
        PlaceDropout().attempt(graph, "network")


def test_branches_without_a_place_are_told_and_left_as_they_are() -> None:
    graph = InsertBlock(block={"block": "basic"}).attempt(preact((1, 1)), "s1").graph
    rewrite = PlaceDropout().attempt(graph, "network")
    assert [*drops(rewrite.graph)] == ["s1.0.dropout", "s2.0.dropout"]
    assert rewrite.noted[REMARK].startswith("1 of 3 residual branches stay as they are: the norm 's1.1.bn2' ends")


def test_a_block_without_a_shortcut_has_no_branch() -> None:
    graph = pyramid((1,), 4, block="plain", size=8)
    assert [*PlaceDropout().sites(graph)] == ["network"]
    with pytest.raises(Decline, match=r"'s1' has no residual branch"):
        PlaceDropout().attempt(graph, "s1")


# -- what is there already


def test_its_probability_is_changed_where_it_is_right_already() -> None:
    graph = preact(options="dropout: 0.4")
    rewrite = PlaceDropout(p=0.1).attempt(graph, "s2")
    assert [p for p, _, _ in drops(rewrite.graph).values()] == [0.4, 0.1, 0.1]
    assert len(rewrite.graph.nodes) == len(graph.nodes) and not rewrite.plan.sources
    with pytest.raises(Decline, match="nothing to change"):
        PlaceDropout(p=0.4).attempt(graph, "network")


def test_again_it_acts_on_new_blocks_alone() -> None:
    graph = PlaceDropout(p=0.2).attempt(preact(), "network").graph
    grown = InsertBlock().attempt(graph, "s1").graph
    assert len(drops(grown)) == 3
    assert len(drops(PlaceDropout(p=0.2).attempt(grown, "network").graph)) == 4


def test_dropout_of_the_stream_before_a_block_is_none_of_its_branch() -> None:
    draft = Draft()
    x = draft.add("conv2d", draft.add("input", (), "x", shape=[3, 8, 8]), "stem", out=4, kernel=3, padding=1)
    x = draft.add("dropout", x, "stream", p=0.4)
    x = build_block(draft, x, "b", {"block": {"branch": ["relu", {"conv": {"out": "out"}}]}})
    draft.output(draft.add("linear", draft.add("global_avg_pool", x, "pool"), "fc", out=3))
    graph = PlaceDropout(p=0.1).attempt(draft.commit(), "b").graph
    assert graph.nodes[graph.find("stream")].attrs["p"] == 0.4
    assert graph.nodes[graph.find("b.dropout")].attrs["p"] == 0.1


def test_labels_that_are_taken_are_left_alone() -> None:
    draft = preact((1,)).draft()
    draft.add("identity", Port(draft.base.find("s1.0.conv1")), "s1.0.dropout.inner")  # type: ignore[union-attr]
    draft.rewire_node(draft.base.find("s1.0.bn2"), [Port(draft.minted - 1)])  # type: ignore[union-attr]
    graph = PlaceDropout().attempt(draft.commit(), "network").graph
    assert [*drops(graph)] == ["s1.0.dropout_2"]


def test_zero_takes_it_away() -> None:
    graph = preact(options="dropout: 0.4")
    assert drops(PlaceDropout(p=0.0).attempt(graph, "network").graph) == {}


def test_dropout_before_a_norm_is_only_taken_away_when_asked() -> None:
    graph = block_of(SHIFTED)
    with pytest.raises(
        Decline, match=r"dropout 'b\.dropout1' \(p 0\.3\) lies before a norm; `move: true` takes it away"
    ):
        PlaceDropout().attempt(graph, "b")
    assert len([*variance_shifts(graph)]) == 1
    moved = PlaceDropout(p=0.3, move=True).attempt(graph, "b").graph
    assert [*drops(moved).values()] == [(0.3, "b.relu1", "b.conv1")]
    assert not [*variance_shifts(moved)]
    assert drops(PlaceDropout(p=0.0, move=True).attempt(graph, "b").graph) == {}


def test_nothing_to_place_is_refused_when_it_is_made() -> None:
    with pytest.raises(OptionError, match="neither p nor head"):
        PlaceDropout(p=None)
    with pytest.raises(OptionError, match="must be below 1"):
        PlaceDropout(p=1.0)


# -- the head


def test_the_head_drops_before_its_pooling() -> None:
    rewrite = PlaceDropout(p=None, head=0.5).attempt(preact(), "network")
    assert drops(rewrite.graph) == {"dropout": (0.5, "s2.1.add", "avgpool")}
    again = PlaceDropout(p=None, head=0.25).attempt(rewrite.graph, "network").graph
    assert drops(again) == {"dropout": (0.25, "s2.1.add", "avgpool")}
    with pytest.raises(Decline, match="'s1' has no head"):
        PlaceDropout(head=0.5).attempt(preact(), "s1")


def test_dropout_behind_the_pooling_moves_before_it() -> None:
    draft = preact().draft()
    pool, fc = (draft.base.labels[name] for name in ("avgpool", "fc"))  # type: ignore[union-attr]
    draft.rewire(Port(pool), draft.add("dropout", Port(pool), "late", p=0.2), only=[fc])
    graph = draft.commit()
    with pytest.raises(Decline, match=r"dropout 'late' \(p 0\.2\) lies behind the pooling"):
        PlaceDropout(p=None, head=0.2).attempt(graph, "network")
    moved = PlaceDropout(p=None, head=0.2, move=True).attempt(graph, "network").graph
    assert drops(moved) == {"dropout": (0.2, "s2.1.add", "avgpool")}


def test_a_network_without_a_pooling_has_no_place_in_its_head() -> None:
    draft = Draft()
    x = draft.add("flatten", draft.add("input", (), "x", shape=[3, 4, 4]), "flat")
    draft.output(draft.add("linear", x, "fc", out=3))
    with pytest.raises(Decline, match="no global average pooling lies behind 'x' \\(input\\)"):
        PlaceDropout(p=None, head=0.2).attempt(draft.commit(), "network")


def test_before_the_pooling_the_variance_is_hw_times_smaller() -> None:
    """Item 15 of the test matrix: at 8x8 0.0157 of what dropout behind the pooling gives, which is 1 / 64."""

    def variance(before: bool) -> float:
        draft = Draft()
        x = draft.add("input", (), "x", shape=[16, 8, 8])
        x = draft.add("dropout", x, "drop", p=0.5) if before else x
        x = draft.add("global_avg_pool", x, "pool")
        draft.output(x if before else draft.add("dropout", x, "drop", p=0.5))
        model = Model.from_graph(draft.commit(), dtype=torch.float64).train()
        torch.manual_seed(0)
        return float(model(torch.ones(4000, 16, 8, 8, dtype=torch.float64)).var())

    # 64,000 values each: a relative standard deviation of 0.6 %
    assert variance(False) == pytest.approx(1.0, rel=0.03)
    assert variance(True) == pytest.approx(1 / 64, rel=0.03)
    assert variance(False) / variance(True) == pytest.approx(64, rel=0.04)


# -- what stays


@pytest.mark.parametrize("block", ["preact_basic", "resbuilder"])
def test_evaluation_stays_bit_for_bit_and_training_does_not(block: str) -> None:
    model = lived(pyramid((2, 1), 4, block=block, size=8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(images(size=8)).sum().backward()
    optimizer.step()
    before, trained = logits(model, images(size=8)), logits(model, images(size=8), training=True)
    parameters = dict(model.named_parameters())
    rewrite = model.apply(PlaceDropout(p=0.5, head=0.2), "network", optimizers=[optimizer])
    assert isinstance(rewrite, Rewrite) and rewrite.preserves == "exact"
    assert torch.equal(logits(model, images(size=8)), before)
    assert not torch.equal(logits(model, images(size=8), training=True), trained)
    assert all(parameters[name] is parameter for name, parameter in model.named_parameters())
    assert all("momentum_buffer" in optimizer.state[parameter] for parameter in parameters.values())


def test_generated_networks_stay_what_they_are_in_evaluation() -> None:
    acted = 0
    for graph in (*[random_graph(seed, steps=6) for seed in range(12)], *[random_transformer(s) for s in range(4)]):
        for site in PlaceDropout().sites(graph):
            try:
                rewrite = PlaceDropout(move=True).attempt(graph, site)
            except Decline:
                continue
            acted += 1
            model = Model.from_graph(graph, 0, dtype=torch.float64).eval()
            [shape] = [graph.infer.types[Port(node)].shape for node in graph.inputs]
            x = torch.randn(2, *shape, dtype=torch.float64)
            before = model(x)
            model.apply(rewrite)
            assert torch.equal(model(x), before)
    assert acted > 5


# -- imported networks


class PreactBlock(nn.Module):
    """As a network of somebody else's might have it, with or without dropout in the wrong place."""

    def __init__(self, width: int, shifted: bool) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.drop: nn.Module = nn.Dropout(0.3) if shifted else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.drop(self.conv1(self.bn1(x).relu()))
        return x + self.conv2(self.bn2(y).relu())


class Net(nn.Module):
    """A stem, two blocks, and a head with dropout behind its pooling."""

    def __init__(self, shifted: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(PreactBlock(8, shifted), PreactBlock(8, shifted))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)))


@pytest.mark.parametrize("shifted", [False, True])
def test_it_works_on_imported_networks(shifted: bool) -> None:
    module = Net(shifted).train()
    x = torch.randn(2, 3, 8, 8)
    model = nasir.from_module(module, x)
    assert len([*variance_shifts(model.graph)]) == 2 * shifted
    model.eval()
    before = model(x)
    with pytest.raises(Decline, match="behind the pooling"):
        PlaceDropout(p=0.1, head=0.2).attempt(model.graph, "network")
    rewrite = model.apply(PlaceDropout(p=0.1, head=0.2, move=True), "network")
    assert rewrite is not None and rewrite.preserves == "exact"
    assert torch.equal(model(x), before)
    assert {p for p, _, _ in drops(model.graph).values()} == {0.1, 0.2}
    readers = [reader for _, _, reader in drops(model.graph).values()]
    assert readers == ["blocks.0.conv2", "blocks.1.conv2", "head.0"]
    assert not [*variance_shifts(model.graph)]
    model.train()
    assert not torch.equal(model(x), model(x))


def test_imported_post_activation_networks_are_refused() -> None:
    model = nasir.from_module(ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3), torch.randn(2, 3, 32, 32))
    with pytest.raises(Decline, match=r"the norm 'layer1\.0\.bn2' ends the branch"):
        PlaceDropout().attempt(model.graph, "network")
