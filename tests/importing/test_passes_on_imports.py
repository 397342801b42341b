"""Passes on blocks and stages of imported networks: what they make is named, starts and learns like its siblings."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from test_found_structure import Functional
from torch import Tensor, nn
from torch.nn import functional as F

from nasir.backends.torch import Model, from_module
from nasir.backends.torch.importing import graph_of
from nasir.errors import Decline
from nasir.ir import Graph
from nasir.passes.freeze import Freeze, Unfreeze
from nasir.passes.insert_block import InsertBlock
from nasir.passes.insert_random_block import InsertRandomBlock
from nasir.passes.keep_blocks import KeepBlocks
from nasir.passes.prune_channels import PruneChannels
from nasir.passes.remove_block import RemoveBlock
from nasir.passes.reset_weights import ResetWeights
from nasir.passes.split_branches import SplitBranches
from nasir.passes.widen import Widen
from nasir.policy import PhasePlan
from nasir.policy.plans import RulePlan, Where
from nasir.policy.sites import depth_at, sites_in
from nasir.rewriting.rewrite import Rewrite
from nasir.running.decisions import view
from nasir.testing import PassContract

torchvision = pytest.importorskip("torchvision")
SIDE = 16


class Residual(nn.Module):
    """A block that scales its branch by a parameter, as in ConvNeXt."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.scale = nn.Parameter(torch.full((width, 1, 1), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(F.relu(x))) * self.scale  # type: ignore[no-any-return]


class Odd(nn.Module):
    """A layer that nasir has no rule for, with weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(width, width)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(self.mix(x.mean((2, 3))), 1)[:, :, None, None] + x


class Holding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.odd, self.norm = Odd(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.odd(x))  # type: ignore[no-any-return]


def flat(block: type[nn.Module], width: int = 6) -> nn.Module:
    """A stem, two stages of two blocks without modules of their own, and a classifier."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), block(width), block(width),
        nn.Conv2d(width, 2 * width, 1, stride=2), block(2 * width), block(2 * width),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 5),
    )  # fmt: skip


def resnet() -> nn.Module:
    made = torchvision.models.resnet.ResNet(torchvision.models.resnet.BasicBlock, [2, 2, 1, 1], num_classes=5)
    return made  # type: ignore[no-any-return]


def images(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def imported(net: nn.Module, **options: Any) -> Model:
    """The network after some batches in train mode, in evaluation."""
    net.train()
    with torch.no_grad():
        for seed in range(2):
            net(images(8, seed))
    return from_module(net, images(2), **options).eval()


def made(name: str) -> Model:
    torch.manual_seed(0)
    if name == "odd":
        return imported(flat(Holding), leaves=[Odd])
    nets = {"resnet": resnet, "functional": Functional, "flat": lambda: flat(Residual)}
    return imported(nets[name]())


NEW = {  # stage -> (path of the first new block, its labels)
    "resnet": ("layer1", "layer1.2"),
    "functional": ("stage1", "block5"),
    "flat": ("stage1", "9"),
    "odd": ("stage1", "9"),
}


@pytest.mark.parametrize("name", NEW)
def test_a_silent_copy_of_a_sibling_changes_nothing_and_is_named_after_it(name: str) -> None:
    model, (stage, path) = made(name), NEW[name]
    x, keys = images(3), set(model.state_dict())
    before, depth = model(x), model.graph.depths()[stage]
    rewrite = model.apply(InsertBlock(init="zero"), stage)
    assert isinstance(rewrite, Rewrite) and rewrite.preserves == "exact"
    assert torch.equal(model(x), before)
    assert model.graph.depths()[stage] == depth + 1 and model.graph.stage_of(path) == stage
    added = set(model.state_dict()) - keys
    assert added and all(key.startswith(f"{path}.") for key in added)
    assert Graph.from_json(model.graph.to_json()) == model.graph
    again = model.apply(InsertBlock(init="zero"), stage)
    assert isinstance(again, Rewrite) and torch.equal(model(x), before)


def test_keys_of_a_copy_are_those_of_its_sibling() -> None:
    model = made("flat")
    of = {key.removeprefix("2.") for key in model.state_dict() if key.startswith("2.")}
    model.apply(InsertBlock(), "stage1")
    assert {key.removeprefix("9.") for key in model.state_dict() if key.startswith("9.")} == of
    assert "scale" in of


@pytest.mark.parametrize("name", NEW)
def test_a_copy_of_the_weights_computes_what_its_sibling_does(name: str) -> None:
    model, (stage, path) = made(name), NEW[name]
    model.apply(InsertBlock(init="copy"), stage)
    graph = model.graph
    new = graph.members(path)
    sibling = graph.members([block.path for block in graph.blocks_of(stage)][-2])
    for one, other in zip(new, sibling, strict=True):
        assert graph.nodes[one].op == graph.nodes[other].op
        for key, _ in graph.weights(one).values():
            mine, theirs = model.tensor(key), model.tensor(key._replace(node=other))
            assert mine is not theirs and torch.equal(mine, theirs)


def test_fresh_weights_begin_as_their_ops_do_and_what_has_no_such_start_is_copied() -> None:
    model = made("flat")
    model.apply(InsertBlock(init="default"), "stage1")
    state = model.state_dict()
    assert not torch.equal(state["9.conv.weight"], state["2.conv.weight"])
    assert torch.equal(state["9.norm.weight"], torch.ones(6)) and torch.equal(state["9.scale"], state["2.scale"])


@pytest.mark.parametrize("name", NEW)
def test_a_block_that_goes_is_the_identity_from_then_on(name: str) -> None:
    model, (stage, _) = made(name), NEW[name]
    x = images(3)
    before = model(x)
    model.apply(InsertBlock(init="default"), stage)
    depth = model.graph.depths()[stage]
    assert stage in RemoveBlock().sites(model.graph)
    model.apply(RemoveBlock(), stage)
    assert torch.equal(model(x), before) and model.graph.depths()[stage] == depth - 1


@pytest.mark.parametrize("name", NEW)
def test_training_goes_on_through_insertion_removal_and_pruning(name: str) -> None:
    """The state of the optimizer stays bit for bit for every weight that stays as it is."""
    model, (stage, path) = made(name), NEW[name]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(seed: int) -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model.train()(images(4, seed)), torch.arange(4))
        loss.backward()
        optimizer.step()
        return loss.item()

    def states() -> dict[str, dict[str, Tensor]]:
        return {
            key: {name: torch.as_tensor(value).clone() for name, value in optimizer.state[parameter].items()}
            for key, parameter in model.named_parameters()
            if parameter in optimizer.state
        }

    def numbers() -> dict[str, Tensor]:
        return {key: parameter.detach().clone() for key, parameter in model.named_parameters()}

    step(0)
    step(1)
    before, weights = states(), numbers()
    first = model.graph.blocks_of(stage)[0].path
    prune = PruneChannels(fraction=0.3)
    for change, site in ((InsertBlock(init="near_zero"), stage), (RemoveBlock(), first), (prune, "network")):
        applied = model.apply(change, site, optimizers=[optimizer]) is not None
        assert applied is not (name == "odd" and change is prune)  # all that it has is pinned
        after, now = states(), numbers()
        kept = [key for key in after if key in before and now[key].shape == weights[key].shape]
        assert kept
        assert all(torch.equal(now[key], weights[key]) for key in kept)
        assert all(torch.equal(after[key][part], before[key][part]) for key in kept for part in before[key])
        before, weights = after, now
    assert path in model.graph.regions
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in model.parameters()}
    new = next(parameter for key, parameter in model.named_parameters() if key.startswith(f"{path}."))
    start = new.detach().clone()
    step(2)
    assert not torch.equal(new, start)


@pytest.mark.slow
@pytest.mark.parametrize("name", NEW)
def test_branches_have_weights_of_their_own(name: str) -> None:
    model, (stage, _) = made(name), NEW[name]
    keep = SplitBranches(branches=1, how="aligned", planes="keep")
    x = images(3)
    before = model(x)
    rewrite = model.apply(keep, stage)
    assert isinstance(rewrite, Rewrite) and rewrite.preserves == "exact" and torch.equal(model(x), before)
    assert f"branches.0.{stage}" in model.graph.depths()
    other = made(name)
    other.apply(SplitBranches(branches=2, planes="keep"), stage)
    first, second = (
        {key.removeprefix(f"branches.{n}.") for key, _ in other.named_parameters() if key.startswith(f"branches.{n}.")}
        for n in (0, 1)
    )
    outside = [key for key, _ in other.named_parameters() if not key.startswith("branches.")]
    assert first == second and len(first) + len(outside) == len([*made(name).named_parameters()])
    assert other.train()(x).shape == (3, 2, 5)


@pytest.mark.parametrize("name", ["functional", "flat"])
def test_a_stage_made_of_parts_is_frozen_as_a_whole_with_what_joins_it(name: str) -> None:
    model, (stage, path) = made(name), NEW[name]
    model.apply(Freeze(), stage)
    frozen = {key for key, parameter in model.named_parameters() if not parameter.requires_grad}
    inside = {model.graph.nodes[node_id].label for node_id in model.graph.members(stage)}
    assert frozen and all(any(key.startswith(label) for label in inside) or key[0] in "12" for key in frozen)
    model.apply(InsertBlock(init="default"), stage)
    assert all(not p.requires_grad for key, p in model.named_parameters() if key.startswith(f"{path}."))
    model.apply(Unfreeze(), stage)
    assert all(parameter.requires_grad for parameter in model.parameters())
    kept = model.state_dict()["fc.weight" if name == "functional" else "8.weight"].clone()
    model.apply(ResetWeights(), stage)
    assert torch.equal(model.state_dict()["fc.weight" if name == "functional" else "8.weight"], kept)


def test_rules_find_the_places_of_a_stage_made_of_parts() -> None:
    graph = made("flat").graph
    rule = RulePlan("r", "prune-channels", {"fraction": 0.5}, every=1, where=Where(stages=("stage2",)))
    seen = view(graph, (PhasePlan("p", 3, (rule,)),))
    assert sites_in(rule, seen) == ("stage2",)
    assert depth_at(seen, "4") == depth_at(seen, "stage2") == 2 and depth_at(seen, "0") == 0


def test_where_no_block_can_be_copied_the_reason_is_given() -> None:
    net = torchvision.models.DenseNet(4, (3, 2), 8, num_classes=5)
    graph = graph_of(net.to("meta"), torch.empty(2, 3, 32, 32, device="meta"))
    stage = "features.denseblock1"
    with pytest.raises(Decline, match=rf"no block of '{stage}' keeps its shape: nothing to copy"):
        InsertBlock().attempt(graph, stage)
    with pytest.raises(Decline, match=rf"no block of '{stage}' keeps its shape"):
        RemoveBlock().attempt(graph, stage)
    shuffled = graph_of(torchvision.models.shufflenet_v2_x0_5().to("meta"), torch.empty(2, 3, 32, 32, device="meta"))
    with pytest.raises(Decline, match="no identity shortcut"):
        InsertBlock().attempt(shuffled, "stage2")
    grown = InsertBlock(init="copy").attempt(shuffled, "stage2").graph
    assert grown.depths()["stage2"] == 5 and "stage2.4" in grown.regions


def test_a_block_of_another_shape_is_no_model_for_the_place() -> None:
    block = torchvision.models.resnet.BasicBlock
    wider = block(4, 8, downsample=nn.Sequential(nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8)))
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(block(4, 4), wider), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    graph = graph_of(net.to("meta"), torch.empty(2, 3, 8, 8, device="meta"))
    assert graph.depths() == {"1": 2}
    with pytest.raises(Decline, match="nothing to copy"):
        InsertBlock().attempt(graph, "1")
    assert InsertBlock().attempt(graph, "1.0").graph.depths() == {"1": 3}


def test_a_module_that_nasir_does_not_know_is_copied_with_its_block() -> None:
    model = made("odd")
    model.apply(InsertBlock(init="default"), "stage1")
    ours = model.get_submodule("9.odd")
    theirs = model.get_submodule("2.odd")
    assert ours is not theirs and torch.equal(ours.mix.weight, theirs.mix.weight)  # type: ignore[union-attr, arg-type]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model.train()(images(4)), torch.arange(4)).backward()
    optimizer.step()
    assert not torch.equal(ours.mix.weight, theirs.mix.weight)  # type: ignore[union-attr, arg-type]
    twin = copy.deepcopy(model)
    assert torch.equal(twin.eval()(images(2)), model.eval()(images(2)))


def swin() -> nn.Module:
    made = torchvision.models.SwinTransformer([2, 2], 8, [2, 2], [2, 4], [4, 4], num_classes=5)
    return made  # type: ignore[no-any-return]


def convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 2)], num_classes=5)


@pytest.mark.parametrize(("net", "stage"), [(swin, "features.1"), (convnext, "features.1")])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_blocks_with_masks_tables_and_scales_begin_silent_too(net: Any, stage: str, training: bool) -> None:
    torch.manual_seed(0)
    model = from_module(net(), torch.randn(2, 3, 32, 32)).train(training)
    x = torch.randn(3, 3, 32, 32)
    torch.manual_seed(1)
    before = model(x)
    rewrite = model.apply(InsertBlock(init="zero"), stage)
    assert isinstance(rewrite, Rewrite) and rewrite.preserves == "exact"
    torch.manual_seed(1)
    after = model(x)
    if not training:  # another block draws other numbers
        assert torch.equal(after, before)
    after.square().sum().backward()
    new = [p for key, p in model.named_parameters() if key.startswith(f"{stage}.2.")]
    assert any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in new)
    with torch.no_grad():
        model.eval()
        wanted = model(x)
        model.apply(RemoveBlock(), f"{stage}.2")
        assert torch.equal(model(x), wanted)


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize(
    ("change", "site"),
    [
        (InsertRandomBlock(), "network"),
        (Widen(factor=1.5, noise=0.01), "network"),
        (PruneChannels(fraction=0.3), "network"),
        (KeepBlocks(), "network"),
    ],
    ids=["insert-random-block", "widen", "prune-channels", "keep-blocks"],
)
def test_other_passes_leave_a_network_that_trains(name: str, change: Any, site: str) -> None:
    model = made(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    reasons: list[Decline] = []
    rewrite = model.apply(change, site, optimizers=[optimizer], on_decline=reasons.append)
    assert rewrite is not None or reasons
    F.cross_entropy(model.train()(images(4)), torch.arange(4)).backward()
    optimizer.step()
    assert torch.isfinite(model.eval()(images(2))).all()
    assert Graph.from_json(model.graph.to_json()) == model.graph


class Common(nn.Module):
    """One scale for all branches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(4, 5)
        self.convs = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1) for _ in range(2)])
        self.scale = nn.Parameter(torch.full((4, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for conv in self.convs:
            x = x + conv(x) * self.scale
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def test_a_weight_that_others_use_is_not_silenced() -> None:
    model = imported(Common())
    with pytest.raises(Decline, match="ends in 'scale', which others use, too"):
        InsertBlock(init="zero").attempt(model.graph, "stage1")
    model.apply(InsertBlock(init="copy"), "stage1")
    assert model.graph.depths() == {"stage1": 3} and torch.isfinite(model(images(2))).all()


def test_what_begins_in_an_unknown_way_is_not_reset() -> None:
    model = made("flat")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.apply(ResetWeights(), "network")
    after = model.state_dict()
    assert torch.equal(after["1.scale"], before["1.scale"])
    assert not torch.equal(after["1.conv.weight"], before["1.conv.weight"])


@cache
def recorded_graphs() -> list[Graph]:
    """The networks of two modules, recorded once: a law tells whether a pass changes them."""
    nets = [Functional().to("meta"), resnet().to("meta")]
    return [graph_of(net, torch.empty(2, 3, SIDE, SIDE, device="meta")) for net in nets]


class TestInsertBlockOnImports(PassContract):
    make = staticmethod(lambda: InsertBlock(init="zero"))

    def graphs(self) -> list[Graph]:
        return recorded_graphs()


class TestRemoveBlockOnImports(TestInsertBlockOnImports):
    make = staticmethod(lambda: RemoveBlock())
