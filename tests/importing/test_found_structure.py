"""Blocks and stages of imported networks are those that their authors mean."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasir.backends.torch.importing import graph_of
from nasir.ir import Graph
from nasir.ir.regions import depth_text

torchvision = pytest.importorskip("torchvision")

FAST = {
    "resnet18": "2-2-2-2",
    "shufflenet_v2_x0_5": "4-8-4",
    "squeezenet1_1": "2-2-2-2",
}
SLOW = {
    "densenet121": "6-12-24-16",
    "resnet50": "3-4-6-3",
    "resnext50_32x4d": "3-4-6-3",
    "wide_resnet50_2": "3-4-6-3",
    "regnet_x_400mf": "1-2-7-12",
    "regnet_y_400mf": "1-3-6-6",
    "mobilenet_v2": "1-2-3-4-3-3-1",
    "mobilenet_v3_small": "1-2-3-2-3",
    "mobilenet_v3_large": "1-2-3-4-2-3",
    "efficientnet_b0": "1-2-2-3-3-4-1",
    "efficientnet_v2_s": "2-4-4-6-9-15",
    "shufflenet_v2_x1_0": "4-8-4",
    "convnext_tiny": "3-3-9-3",
    "mnasnet0_5": "3-3-3-2-4-1",
    "googlenet": "1-1-3-1-1-1-1",  # 9 in all, by the shape of what they put out
    "inception_v3": "1-2-4-2",
    "alexnet": "",
    "vgg11": "",
    "vgg11_bn": "",
    "vit_b_32": "12",
    "swin_t": "2-2-6-2",
    "swin_v2_t": "2-2-6-2",
    "maxvit_t": "2-2-5-2",
}
TIMM = {
    "convnext_atto": "2-2-6-2",
    "convnextv2_atto": "2-2-6-2",
    "mambaout_femto": "3-3-9-3",
    "regnetx_002": "1-1-4-7",
    "resnetv2_18": "2-2-2-2",
    "nf_resnet26": "2-2-2-2",
    "legacy_seresnet18": "2-2-2-2",
    "skresnet18": "2-2-2-2",
    "resnet26d": "2-2-2-2",
    "res2net50_14w_8s": "3-4-6-3",
    "ese_vovnet19b_slim_dw": "1-1-1-1",
    "poolformer_s12": "2-2-6-2",
    "vit_tiny_patch16_224": "12",
    "mixer_s32_224": "8",
    "densenet121": "6-12-24-16",
    "efficientnet_b0": "1-2-2-3-3-4-1",
    "tf_mobilenetv3_small_075": "1-2-3-2-3-1",
    "mobilenetv4_conv_small": "2-2-6-6-1",
    "ghostnet_050": "1-1-1-1-1-1-5-1-4-1",
    "cspdarknet53": "1-2-8-8-4",
    "cspresnet50": "3-3-5-2",
    "lcnet_050": "1-2-2-2-4-2",
}
OFTEN = {"densenet121", "resnet50", "mobilenet_v3_small", "convnext_tiny", "swin_t", "regnetx_002", "cspresnet50"}
"""What `make test` tries of those that take longer, besides the zoo of all."""
SIDES = {"inception_v3": 299, "vit_b_32": 224, "maxvit_t": 224, "vit_tiny_patch16_224": 224, "mixer_s32_224": 224}


def of_torchvision(name: str) -> Graph:
    aux = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = torchvision.models.get_model(name, **aux)
    return structure(net, SIDES.get(name, 64))


def structure(net: nn.Module, side: int) -> Graph:
    return graph_of(net.to("meta"), torch.empty(2, 3, side, side, device="meta"))


@pytest.mark.parametrize(("name", "depths"), FAST.items())
def test_depths_are_those_of_the_papers(name: str, depths: str) -> None:
    check(of_torchvision(name), depths)


def longer(depths: dict[str, str]) -> list[Any]:
    return [
        pytest.param(name, depth, marks=[pytest.mark.slow] + [pytest.mark.zoo] * (name not in OFTEN))
        for name, depth in depths.items()
    ]


@pytest.mark.parametrize(("name", "depths"), longer(SLOW))
def test_depths_of_more_networks(name: str, depths: str) -> None:
    check(of_torchvision(name), depths)


@pytest.mark.parametrize(("name", "depths"), longer(TIMM))
def test_depths_of_timm(name: str, depths: str) -> None:
    timm = pytest.importorskip("timm")
    check(structure(timm.create_model(name, num_classes=5), SIDES.get(name, 64)), depths)


def check(graph: Graph, depths: str) -> None:
    assert depth_text(graph.depths()) == depths
    for block in graph.blocks:
        graph.boundary(block.path)
    assert Graph.from_json(graph.to_json()) == graph


class Functional(nn.Module):
    """Residual sums in the code of the network itself: no module is a block."""

    def __init__(self, depth: int = 3, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.convs = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(depth)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(width) for _ in range(depth)])
        self.down = nn.Conv2d(width, 2 * width, 1, stride=2)
        self.last = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.fc = nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(x + norm(conv(x)))
        x = self.down(x)
        x = torch.cat((x[:, :4], x + self.last(F.relu(x))), 1)[:, 4:]  # of parts within parts the outer one
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def test_without_modules_blocks_are_where_paths_part_and_meet() -> None:
    graph = structure(Functional(), 16)
    assert graph.depths() == {"stage1": 3, "stage2": 1}
    first = graph.regions["block1"]
    assert first.parts == ("convs.0", "norms.0", "add", "relu_2")  # the activation behind the sum belongs to it
    assert graph.regions["stage1"].parts == ("block1", "block2", "block3")
    assert [graph.nodes[node_id].label for node_id in graph.members("block2")] == [
        "convs.1", "norms.1", "add_2", "relu_3",
    ]  # fmt: skip


def test_a_dense_layer_holds_the_concatenation_that_it_adds_to() -> None:
    net = torchvision.models.DenseNet(4, (3, 2), 8, num_classes=5)
    graph = structure(net, 32)
    check(graph, "3-2")
    layer = [
        graph.nodes[node_id].label.rpartition(".")[2] for node_id in graph.members("features.denseblock1.denselayer2")
    ]
    assert layer == ["norm1", "relu1", "conv1", "norm2", "relu2", "conv2", "concat"]
    entry, exit_ = graph.boundary("features.denseblock1.denselayer2")
    assert graph.nodes[entry.node].label == "features.denseblock1.denselayer1.concat"
    assert graph.nodes[exit_].label == "features.denseblock1.denselayer2.concat"


def test_stages_of_a_flat_network_are_runs_of_blocks_of_one_shape() -> None:
    graph = of_torchvision("mobilenet_v3_small")
    assert graph.regions["features.stage2"].parts == ("features.2", "features.3")
    assert graph.stage_of("features.3") == "features.stage2" and graph.around("features.3") == ("features.stage2",)
    assert [block.path for block in graph.blocks_of("features.stage2")] == ["features.2", "features.3"]
    inside = {graph.nodes[node_id].label.split(".")[1] for node_id in graph.members("features.stage2")}
    assert inside == {"2", "3"}


class Step(nn.Module):
    """A layer without a shortcut."""

    def __init__(self, reads: int, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(reads, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class Around(nn.Module):
    """Residual blocks on a part of the channels, which are joined again: it changes the shape itself."""

    def __init__(self, reads: int, width: int) -> None:
        super().__init__()
        block = torchvision.models.resnet.BasicBlock
        self.down = nn.Conv2d(reads, width, 2, stride=2)
        self.blocks = nn.Sequential(block(width // 2, width // 2), block(width // 2, width // 2))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.down(x).chunk(2, 1)
        return torch.cat((first, self.blocks(second)), 1)


def test_blocks_in_modules_that_all_change_the_shape_are_found() -> None:
    assert structure(nn.Sequential(Around(3, 8), Around(8, 16)), 16).depths() == {"0.blocks": 2, "1.blocks": 2}


def test_layers_without_a_shortcut_are_blocks_where_nothing_is_joined() -> None:
    steps = nn.Sequential(Step(3, 4), Step(4, 4), Step(4, 4), nn.MaxPool2d(2), Step(4, 8), Step(8, 8))
    assert structure(steps, 8).depths() == {"stage1": 3, "stage2": 2}
    assert structure(nn.Sequential(Step(3, 4), Step(4, 8)), 8).depths() == {}


class Watched(nn.Module):
    """What lies between two blocks of one shape is put out, too."""

    def __init__(self) -> None:
        super().__init__()
        block = torchvision.models.resnet.BasicBlock
        self.stem, self.blocks = nn.Conv2d(3, 4, 1), nn.ModuleList([block(4, 4) for _ in range(4)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.blocks[1](self.blocks[0](self.stem(x)))
        return x.mean((2, 3)), self.blocks[3](self.blocks[2](x)).mean((2, 3))


def test_a_value_that_others_read_ends_a_stage() -> None:
    graph = structure(Watched(), 8)
    assert graph.depths() == {"blocks.stage1": 2, "blocks.stage2": 2}


def test_auxiliary_heads_do_not_keep_a_network_from_its_stages() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = torchvision.models.googlenet(init_weights=False)
    assert sum(structure(net, 64).depths().values()) == 9
