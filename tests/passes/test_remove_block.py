"""`remove-block`: undoes an insertion, touches no surviving weight, and knows what must stay."""

from __future__ import annotations

import pytest
import torch
from grown import images, lived, logits, pyramid, same_tensors

from nasir.errors import Decline, UnknownName
from nasir.ir import Graph
from nasir.passes.insert_block import InsertBlock
from nasir.passes.remove_block import RemoveBlock
from nasir.testing import PassContract


class TestRemoveBlockContract(PassContract):
    make = staticmethod(lambda: RemoveBlock())

    def graphs(self) -> list[Graph]:
        return [pyramid((2, 3), 4, size=8), pyramid((3, 1), 4, block="preact_basic", size=8)]


@pytest.mark.parametrize("block", ["basic", "bottleneck", "plain", "preact_basic", "resbuilder"])
@pytest.mark.parametrize("site", ["s1", "s2", "s1.0"])
def test_removing_what_was_inserted_gives_the_same_network_with_identical_tensors(block: str, site: str) -> None:
    model = lived(pyramid((2, 1), 4, block=block, size=8))
    graph, tensors = model.graph, dict(model.named_parameters())
    values, before = {k: t.clone() for k, t in model.state_dict().items()}, logits(model, images(size=8))
    model.apply(InsertBlock(init="default"), site)
    assert model.graph.digest != graph.digest
    new = next(b.path for b in model.graph.blocks if b.path not in graph.regions)
    model.apply(RemoveBlock(), new)
    assert model.graph.digest == graph.digest
    assert model.graph.nodes == graph.nodes and model.graph.regions == graph.regions
    assert all(parameter is tensors[name] for name, parameter in model.named_parameters())
    assert same_tensors(model.state_dict(), values)
    assert torch.equal(logits(model, images(size=8)), before)


def test_removing_a_silent_block_changes_nothing_and_its_optimizer_state_goes_with_it() -> None:
    model = lived(pyramid((1, 1), 4, size=8))
    model.apply(InsertBlock(init="zero"), "s1")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    model.train()(images(size=8)).square().mean().backward()
    optimizer.step()
    before = logits(model, images(size=8))
    momentum = {name: optimizer.state[p]["momentum_buffer"].clone() for name, p in model.named_parameters()}
    model.apply(RemoveBlock(), "s1", optimizers=[optimizer])
    assert torch.equal(logits(model, images(size=8)), before)
    assert {id(p) for p in optimizer.state} == {id(p) for p in model.parameters()}
    assert sorted(id(p) for g in optimizer.param_groups for p in g["params"]) == sorted(map(id, model.parameters()))
    for name, parameter in model.named_parameters():
        assert torch.equal(optimizer.state[parameter]["momentum_buffer"], momentum[name])


def test_first_and_last_removable_block_of_a_stage() -> None:
    graph = pyramid((3, 3), 4)
    for which, gone in (("last", "s2.2"), ("first", "s2.1")):  # s2.0 halves the image: it stays
        new = RemoveBlock(which=which).attempt(graph, "s2").graph  # type: ignore[arg-type]
        assert {b.path for b in graph.blocks} - {b.path for b in new.blocks} == {gone}
    assert RemoveBlock(which="first").attempt(graph, "s1").graph.blocks_of("s1")[0].path == "s1.1"


def test_sites_are_what_may_go() -> None:
    graph = pyramid((2, 2), 4)
    assert list(RemoveBlock().sites(graph)) == ["s1", "s2", "s1.0", "s1.1", "s2.1"]
    assert list(RemoveBlock(floor=2).sites(graph)) == ["s1.0", "s1.1", "s2.1"]
    assert list(RemoveBlock().sites(pyramid((1, 1), 4))) == ["s1.0"]


def test_refusals_say_why() -> None:
    graph = pyramid((2, 2), 4)
    with pytest.raises(Decline, match="'s1' has 2 blocks, floor 2"):
        RemoveBlock(floor=2).attempt(graph, "s1.0")
    with pytest.raises(Decline, match=r"'s2.0' turns \(4, 32, 32\) into \(8, 16, 16\)"):
        RemoveBlock().attempt(graph, "s2.0")
    with pytest.raises(UnknownName, match="remove-block has no site 's3'"):
        RemoveBlock().attempt(graph, "s3")
    with pytest.raises(ValueError, match="cannot be empty"):
        RemoveBlock(floor=0)


def test_what_is_left_behind_a_removed_first_block_still_trains() -> None:
    model = lived(pyramid((2, 1), 4, size=8))
    model.apply(RemoveBlock(), "s1.0")
    model.train()(images(size=8)).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
