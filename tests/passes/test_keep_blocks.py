"""`keep-blocks`: the first blocks of each stage stay, with their weights."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from grown import images, lived, logits, pyramid

from nasir.errors import Decline
from nasir.ir import Graph
from nasir.passes.keep_blocks import KeepBlocks
from nasir.spec import loads_spec
from nasir.spec.network import build
from nasir.testing import PassContract


class TestKeepBlocks(PassContract):
    make = staticmethod(lambda: KeepBlocks(depths=1))

    def graphs(self) -> Iterable[Graph]:
        return [pyramid((3, 1, 2), 4, size=8), pyramid((1, 4), 4, size=8, block="bottleneck")]


class TestKeepBlocksInArchive(TestKeepBlocks):
    make = staticmethod(lambda: KeepBlocks(depths=1, archive=True))


def test_resnet152_reduced_to_1_1_1_1_has_the_published_cost() -> None:
    """RRR-Net's reduced network with 20 classes; tensors that stay keep their names and are 24 a first block."""
    text = (
        "nasir: 1\nname: x\ninput: {image: [3, 128, 128]}\n"
        "network: {from: torchvision, model: resnet152, classes: 20}\ndata: {dataset: synthetic}\n"
        "phases:\n  - {name: p, epochs: 1, optimizer: {sgd: {lr: 0.1}}}\n"
    )
    whole = build(loads_spec(text))
    assert (whole.cost().params, whole.cost().macs) == (58_184_788, 3_758_923_776)
    rewrite = KeepBlocks(depths=(1, 1, 1, 1)).attempt(whole, "network")
    assert not rewrite.plan.sources, "every surviving weight stays the same tensor"
    assert (rewrite.graph.cost().params, rewrite.graph.cost().macs) == (8_056_916, 478_978_048)
    slots = rewrite.graph.infer.slots
    assert [sum(len(slots[n]) for n in rewrite.graph.members(f"layer{i}.0")) for i in (1, 2, 3, 4)] == [24] * 4
    first = KeepBlocks(depths=(3, 8, 1, 1)).attempt(whole, "network")
    assert first.graph.depths() == {"layer1": 3, "layer2": 8, "layer3": 1, "layer4": 1}


def test_the_reduced_network_is_the_one_made_of_the_remaining_blocks() -> None:
    model = lived(pyramid((3, 2), 4, size=8, classes=3))
    for block in ("s1.1", "s1.2", "s2.1"):  # silent blocks: taking them out changes nothing
        with torch.no_grad():
            model.get_parameter(f"{block}.bn2.weight").zero_()
            model.get_parameter(f"{block}.bn2.bias").zero_()
    x = images(4, 8)
    before = logits(model, x)
    assert model.apply(KeepBlocks(depths=(1, 1)), "network") is not None
    assert torch.equal(logits(model, x), before)


@pytest.mark.parametrize(
    ("depths", "reason"),
    [
        ((1,), r"depths has 1 number, the network 2 stages: s1, s2"),
        ((1, 3), r"stage 's2' has 2 blocks, fewer than the 3 to keep"),
        ((2, 2), "no stage has more blocks than that"),
        (5, "no stage has more blocks than that"),
    ],
)
def test_depths_that_do_not_fit_are_declined(depths: tuple[int, ...] | int, reason: str) -> None:
    with pytest.raises(Decline, match=reason):
        KeepBlocks(depths=depths).attempt(pyramid((2, 2), 4, size=8), "network")


@pytest.mark.parametrize("depths", [0, (1, 0), ()])
def test_a_stage_cannot_be_empty(depths: tuple[int, ...] | int) -> None:
    with pytest.raises(ValueError, match="give whole numbers of at least 1"):
        KeepBlocks(depths=depths)
