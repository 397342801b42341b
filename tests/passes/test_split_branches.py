"""`split-branches`: the contract, weights of each way, exactness where it is claimed, refusals."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from grown import images, lived, logits, pyramid

from nasir.errors import Decline, UnknownName
from nasir.ir import Graph, Port
from nasir.passes.insert_block import InsertBlock
from nasir.passes.split_branches import SplitBranches
from nasir.testing import PassContract, evaluate, random_batch, random_graph, random_weights, trace, transferred
from nasir.transfer import Key, Stack, Take


class TestRrrContract(PassContract):
    make = staticmethod(lambda: SplitBranches(branches=2))

    def graphs(self) -> Iterable[Graph]:
        return [pyramid((2, 1), 8, size=8), pyramid((1, 2), 8, block="bottleneck", size=8), random_graph(1, steps=3)]


class TestAlignedContract(PassContract):
    make = staticmethod(lambda: SplitBranches(branches=3, how="aligned", planes="keep", fresh_head=True))


class TestOneAlignedBranchContract(PassContract):
    """Claims to be exact, which the contract measures in float64."""

    make = staticmethod(lambda: SplitBranches(branches=1, how="aligned", planes="keep"))


class TestRandomContract(PassContract):
    make = staticmethod(lambda: SplitBranches(branches=2, how="random", average="logits", train="joint"))

    def graphs(self) -> Iterable[Graph]:
        return [pyramid((2, 1), 8, block="preact_basic", size=8), pyramid((2, 2), 8, block="resbuilder", size=8)]


@pytest.mark.parametrize("site", ["s1", "s2", "s2.1", "s3.0"])
def test_one_aligned_branch_of_full_width_is_the_network_itself_bit_for_bit(site: str) -> None:
    model = lived(pyramid((1, 2, 1), 8, block="bottleneck", size=16))
    before = logits(model, images(size=16))
    rewrite = model.apply(SplitBranches(branches=1, how="aligned"), site)
    assert rewrite is not None and rewrite.preserves == "exact"
    assert "branches.0.fc.weight" in model.state_dict() and rewrite.graph.digest == rewrite.before.digest
    assert torch.equal(logits(model, images(size=16)), before)


def test_a_projection_in_the_place_of_a_shortcut_is_not_the_network_itself() -> None:
    """Listed planes may differ from the stem's, so the shortcut from there becomes a projection, at full width too."""
    model = lived(pyramid((2,), 8, size=8))
    before = logits(model, images(size=8))
    rewrite = model.apply(SplitBranches(branches=1, how="aligned", planes=(8,)), "s1.1")
    assert rewrite is not None and "branches.0.s1.1.downsample.0.weight" in model.state_dict()
    assert float((logits(model, images(size=8)) - before).abs().max()) > 1e-3 and rewrite.preserves == "no"


def test_aligned_branches_take_one_channel_set_on_both_sides() -> None:
    """A branch is the network with all other units of its spaces removed."""
    graph = pyramid((1, 1), 8, size=8)
    weights = random_weights(graph, 0)
    rewrite = SplitBranches(branches=4, how="aligned", planes=(2,), average="logits").attempt(graph, "s2")
    new = transferred(rewrite.plan, rewrite.graph, weights)
    batch = random_batch(graph, 1)
    values = trace(rewrite.graph, new, batch)
    for branch in range(4):
        draft = graph.draft()
        for space in graph.infer.spaces:
            if space.name.startswith("s2."):
                assert space.size == 16
                draft.select(space, range(2 * branch, 2 * branch + 2))
        pruned = draft.commit()
        from nasir.transfer.derive import derive

        part = transferred(derive(draft, pruned), pruned, weights)
        wanted = evaluate(pruned, part, batch)
        actual = values[Port(rewrite.graph.find(f"branches.{branch}.fc"))]
        assert abs(actual - wanted).max() < 1e-12
    mean = np.mean([values[Port(rewrite.graph.find(f"branches.{b}.fc"))] for b in range(4)], axis=0)
    assert abs(values[rewrite.graph.outputs[0]] - mean).max() < 1e-12


def test_aligned_slices_overlap_where_they_do_not_fit() -> None:
    graph = pyramid((1, 1), 8, size=8)
    rewrite = SplitBranches(branches=3, how="aligned", planes=(8,)).attempt(graph, "s2")
    rows = []
    for branch in range(3):
        source = rewrite.plan.sources[Key(rewrite.graph.find(f"branches.{branch}.s2.0.conv1"), "weight")]
        assert isinstance(source, Take) and source.axes[0] is not None
        rows.append(source.axes[0].index.tolist())
    assert rows == [[*range(8)], [*range(5, 13)], [0, 1, *range(10, 16)]]


def test_rrr_values_are_those_the_plan_names() -> None:
    graph = pyramid((1, 1), 8, size=8)
    model = lived(graph)
    old = {name: t.clone() for name, t in model.state_dict().items()}
    rewrite = model.apply(SplitBranches(branches=4), "s2")
    assert rewrite is not None and rewrite.preserves == "no"
    state = model.state_dict()
    width = state["branches.0.s2.0.conv2.weight"].shape[0]
    whole = old["s2.0.conv2.weight"]
    assert torch.equal(state["branches.0.s2.0.conv2.weight"], whole[:width, :width])
    assert torch.equal(state["branches.1.s2.0.conv2.weight"], whole[width : 2 * width, :width])
    source = rewrite.plan.sources[Key(rewrite.graph.find("branches.3.s2.0.conv2"), "weight")]
    assert isinstance(source, Stack)
    for k, part in enumerate(source.parts):
        assert isinstance(part, Take) and part.axes[0] is not None
        rows = torch.from_numpy(part.axes[0].index)
        assert torch.equal(state["branches.3.s2.0.conv2.weight"][:, k], whole[rows, k])


def test_a_network_that_parts_within_a_stage_gets_a_projection() -> None:
    graph = pyramid((1, 3), 8, block="bottleneck", size=8)
    new = SplitBranches(branches=4).attempt(graph, "s2.1").graph
    assert {"branches.0.s2.1.downsample.0", "branches.3.s2.1.downsample.1"} <= new.labels.keys()
    assert new.depths() == {"s1": 1, "s2": 1, **{f"branches.{b}.s2": 2 for b in range(4)}}
    assert 4 * new.cost("branches.0").params <= sum(graph.cost(p).params for p in ("s2.1", "s2.2", "fc"))
    kept = SplitBranches(branches=2, planes="keep").attempt(graph, "s2.1").graph
    assert "branches.0.s2.1.downsample.0" not in kept.labels


def test_regions_and_templates_go_with_the_branches() -> None:
    new = SplitBranches(branches=2).attempt(pyramid((1, 1), 8, size=8), "s2").graph
    assert {path: region.kind for path, region in new.regions.items() if "branches" in path} == {
        **{f"branches.{b}": "branch" for b in range(2)},
        **{f"branches.{b}.s2": "stage" for b in range(2)},
        **{f"branches.{b}.s2.0": "block" for b in range(2)},
    }
    width = new.nodes[new.find("branches.1.s2.0.conv2")].attrs["out"]
    grown = InsertBlock(init="zero").attempt(new, "branches.1.s2")
    assert grown.preserves == "exact"
    assert grown.graph.nodes[grown.graph.find("branches.1.s2.1.conv1")].attrs["out"] == width < 16


def test_state_of_the_optimizer_moves_with_values_that_move() -> None:
    model = lived(pyramid((1, 1), 8, size=8))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        model.train()(images(size=8)).square().mean().backward()
        optimizer.step()
    moments = {name: optimizer.state[p]["exp_avg"].clone() for name, p in model.named_parameters()}
    model.apply(SplitBranches(branches=2, how="aligned", planes=(8,), fresh_head=True), "s2", optimizers=[optimizer])
    now = dict(model.named_parameters())
    for branch, rows in ((0, slice(0, 8)), (1, slice(8, 16))):
        state = optimizer.state[now[f"branches.{branch}.s2.0.conv2.weight"]]
        assert torch.equal(state["exp_avg"], moments["s2.0.conv2.weight"][rows, rows])
        assert now[f"branches.{branch}.fc.weight"] not in optimizer.state
    stem = next(iter(now))
    assert torch.equal(optimizer.state[now[stem]]["exp_avg"], moments[stem])
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(map(id, model.parameters()))


def test_what_is_frozen_stays_so_in_each_branch() -> None:
    draft = pyramid((1, 2), 8, size=8).draft()
    for prefix in ("s1", "s2.1"):
        draft.freeze(prefix)
    new = SplitBranches(branches=2).attempt(draft.commit(), "s2").graph
    assert new.frozen == ("branches.0.s2.1", "branches.1.s2.1", "s1")


def test_sites() -> None:
    graph = pyramid((1, 2), 8)
    assert list(SplitBranches().sites(graph)) == ["s1", "s2", "s1.0", "s2.0", "s2.1"]
    assert list(SplitBranches().sites(SplitBranches(branches=2).attempt(graph, "s2").graph)) == []


def test_a_network_of_a_single_branch_is_not_split_again() -> None:
    graph = SplitBranches(branches=1).attempt(pyramid(), "s2").graph
    assert list(SplitBranches().sites(graph)) == []
    with pytest.raises(Decline, match="branches already"):
        SplitBranches(branches=1).attempt(graph, "s1")


def test_refusals_say_why() -> None:
    graph = pyramid((1, 1), 8, size=8)
    with pytest.raises(Decline, match=r"has branches already"):
        SplitBranches().attempt(SplitBranches(branches=2).attempt(graph, "s2").graph, "s1")
    with pytest.raises(Decline, match=r"2 planes for 1 stages in the branches \('s2'\)"):
        SplitBranches(planes=(4, 4)).attempt(graph, "s2")
    with pytest.raises(Decline, match="'s2' has 16 planes, a branch cannot have 17"):
        SplitBranches(planes=(17,)).attempt(graph, "s2")
    with pytest.raises(Decline, match="10000 branches of 1 plane or more need more than"):
        SplitBranches(branches=10_000).attempt(graph, "s2")
    with pytest.raises(Decline, match="would start equal and stay equal; set fresh_head: true"):
        SplitBranches(branches=2, how="aligned", planes="keep").attempt(graph, "s2")
    with pytest.raises(UnknownName, match="split-branches has no site 's9'"):
        SplitBranches().attempt(graph, "s9")
    with pytest.raises(ValueError, match="must be at least 1"):
        SplitBranches(branches=0)
    with pytest.raises(ValueError, match="give one a stage"):
        SplitBranches(planes=(0,))
