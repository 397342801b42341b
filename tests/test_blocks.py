"""Blocks: what they cost, what they are called inside, and that a template is all a pass needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torchvision

from nasir.blocks import Maker, add_step, build_block, check_definition
from nasir.errors import TypeRuleError, UnknownName
from nasir.ir import Draft, Graph, Port
from nasir.registry import blocks

SHIPPED = ("basic", "bottleneck", "plain", "preact_basic", "resbuilder")


def block_net(
    template: Mapping[str, Any], channels: int = 8, size: int = 8, stride: int = 1, depth: int = 1
) -> tuple[Graph, Port]:
    """An input, a ReLU (so that the stream is not negative), and a stage of blocks."""
    draft = Draft()
    x = draft.add("relu", draft.add("input", (), "x", shape=[channels, size, size]), "relu")
    draft.region("s", "stage", dict(template))
    for index in range(depth):
        x = build_block(draft, x, f"s.{index}", template, stride=stride if index == 0 else 1)
    draft.output(x)
    graph = draft.commit()
    return graph, x


def names(graph: Graph, path: str) -> list[str]:
    return [graph.nodes[node_id].label[len(path) + 1 :] for node_id in graph.members(path)]


def weights(graph: Graph, path: str) -> dict[str, tuple[int, ...]]:
    return {
        f"{graph.nodes[node_id].label[len(path) + 1 :]}.{slot}": value.shape
        for node_id in graph.members(path)
        for slot, value in graph.infer.slots[node_id].items()
    }


@pytest.mark.parametrize("width", [16, 32, 64, 128, 256, 512])
def test_one_more_block_costs(width: int) -> None:
    def cost(block: str) -> int:
        return block_net({"block": block, "options": {"out": width}}, width, 4)[0].cost("s.0").params

    assert cost("basic") == 18 * width**2 + 4 * width
    assert cost("plain") == 9 * width**2 + 2 * width
    assert cost("resbuilder") == 18 * width**2 + 6 * width
    known = {16: 4_672, 32: 18_560, 64: 73_984, 128: 295_424, 256: 1_180_672, 512: 4_720_640}
    assert cost("basic") == known[width]
    known = {16: 4_704, 32: 18_624, 64: 74_112, 128: 295_680, 256: 1_181_184, 512: 4_721_664}
    assert cost("resbuilder") == known[width]


@pytest.mark.parametrize(("planes", "params"), [(64, 70_400), (128, 280_064), (256, 1_117_184), (512, 4_462_592)])
def test_one_more_bottleneck_costs(planes: int, params: int) -> None:
    graph, _ = block_net({"block": "bottleneck", "options": {"out": planes}}, 4 * planes, 4)
    assert graph.cost("s.0").params == params == 17 * planes**2 + 12 * planes


@pytest.mark.parametrize(("width", "size", "macs"), [(16, 32, 4_718_592), (32, 16, 4_718_592), (64, 8, 4_718_592)])
def test_one_more_block_computes_as_much_in_every_stage(width: int, size: int, macs: int) -> None:
    assert block_net({"block": "basic", "options": {"out": width}}, width, size)[0].cost("s.0").macs == macs


@pytest.mark.parametrize("width", [64, 128, 256, 512])
def test_one_more_wide_block_computes_as_much_in_every_stage(width: int) -> None:
    size = 32 * 64 // width
    assert block_net({"block": "basic", "options": {"out": width}}, width, size)[0].cost("s.0").macs == 75_497_472


def test_labels_inside_are_those_of_torchvision() -> None:
    with torch.device("meta"):
        basic = torchvision.models.resnet18().layer2[0].state_dict()
        bottleneck = torchvision.models.resnet50().layer2[0].state_dict()
    ours, _ = block_net({"block": "basic", "options": {"out": 128}}, 64, stride=2)
    assert weights(ours, "s.0") == {name: tuple(value.shape) for name, value in basic.items()}
    ours, _ = block_net({"block": "bottleneck", "options": {"out": 128}}, 256, stride=2)
    assert weights(ours, "s.0") == {name: tuple(value.shape) for name, value in bottleneck.items()}


def test_order_of_nodes() -> None:
    def order(block: str, **options: Any) -> list[str]:
        graph, _ = block_net({"block": block, "options": {"out": 8, **options}})
        return names(graph, "s.0")

    assert order("basic") == ["conv1", "bn1", "relu", "conv2", "bn2", "add", "relu_out"]
    assert order("plain") == ["conv1", "bn1", "relu"]
    pre = ["bn1", "relu1", "conv1", "bn2", "relu2", "dropout", "conv2", "add"]
    assert order("preact_basic", dropout=0.1) == pre
    assert order("resbuilder") == ["bn1", "conv1", "relu1", "bn2", "conv2", "relu2", "add"]
    assert order("basic", branch_scale="skipinit")[4:] == ["bn2", "scale", "add", "relu_out"]
    bare = ["relu1", "conv1", "relu2", "conv2", "scale", "add"]
    assert order("preact_basic", norm="none", branch_scale="skipinit") == bare


def test_options_reach_the_nodes() -> None:
    graph, _ = block_net({"block": "basic", "options": {"norm": "none", "branch_scale": 0.1}})
    assert graph.nodes[graph.find("s.0.conv1")].attrs["bias"] is True
    scale = graph.nodes[graph.find("s.0.scale")].attrs
    assert (scale["value"], scale["learnable"]) == (0.1, False)
    graph, _ = block_net({"block": "preact_basic", "options": {"branch_scale": "skipinit"}})
    scale = graph.nodes[graph.find("s.0.scale")].attrs
    assert (scale["value"], scale["learnable"]) == (0.0, True)
    graph, _ = block_net({"block": "resbuilder", "options": {"convs": 3}})
    norm = graph.nodes[graph.find("s.0.bn3")].attrs
    assert (norm["eps"], norm["momentum"]) == (1e-3, 0.01)  # Keras writes 0.99 for the latter


def test_resbuilder_pads_the_narrower_side() -> None:
    wide, out = block_net({"block": "resbuilder", "options": {"out": 12}}, 8, stride=2)
    assert wide.infer.types[out].shape == (12, 4, 4)
    assert "pad_in" in names(wide, "s.0") and "downsample.weight" in weights(wide, "s.0")
    narrow, out = block_net({"block": "resbuilder", "options": {"out": 4}}, 8)
    assert narrow.infer.types[out].shape == (8, 8, 8) and "pad_out" in names(narrow, "s.0")


TEMPLATES: list[dict[str, Any]] = [
    *({"block": name, "options": {"out": 8}} for name in SHIPPED if name != "bottleneck"),
    {"block": "bottleneck", "options": {"out": 4, "expansion": 2}},
    {"block": "bottleneck", "options": {"out": 4, "expansion": 2, "groups": 2, "base_width": 64}},
    {"block": "basic", "options": {"out": 8, "shortcut": "pad"}},
    {"block": "basic", "options": {"out": 8, "branch_scale": 0.25}},
    {"block": "preact_basic", "options": {"out": 8, "shortcut": "pad", "dropout": 0.2}},
    {"block": "plain", "options": {"out": 8, "norm": "none"}},
    {
        "block": {"branch": [{"conv_bn_relu": {"out": "out/2", "stride": "stride"}}, {"conv_bn": {"out": "out"}}],
                  "shortcut": "pad", "then": ["gelu"]},
        "options": {"out": 8},
    },
]  # fmt: skip


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: json.dumps(t)[:60])
@pytest.mark.parametrize(("channels", "stride"), [(8, 1), (6, 2)])
def test_every_block_trains(template: dict[str, Any], channels: int, stride: int) -> None:
    from nasir.backends.torch import Model

    graph, out = block_net(template, channels, stride=stride, depth=2)
    assert graph.infer.types[out].shape == (8, 8 // stride, 8 // stride)
    model = Model.from_graph(graph, seed=1)
    x = torch.randn(4, channels, 8, 8)
    y = model(x)
    y.square().mean().backward()
    assert y.shape == (4, 8, 8 // stride, 8 // stride)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_skipinit_starts_as_the_identity() -> None:
    from nasir.backends.torch import Model

    for block in ("basic", "preact_basic"):
        graph, _ = block_net({"block": block, "options": {"norm": "none", "branch_scale": "skipinit"}})
        x = torch.randn(2, 8, 8, 8)
        assert torch.equal(Model.from_graph(graph, seed=1)(x), x.relu())


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda t: json.dumps(t)[:60])
def test_the_template_of_a_region_builds_another_block(template: dict[str, Any]) -> None:
    graph, out = block_net(template, 6, stride=2)
    stored = graph.regions["s.0"].template
    assert stored == template == graph.regions["s"].template
    for copy in (stored, json.loads(json.dumps(stored))):
        draft = graph.draft()
        more = build_block(draft, out, "s.1", copy)
        draft.rewire(out, more, only=())
        draft.outputs = [more]
        longer = draft.commit()
        assert longer.depths() == {"s": 2}
        assert longer.infer.types[more].shape == graph.infer.types[out].shape
    assert Graph.from_json(json.loads(json.dumps(graph.to_json()))).digest == graph.digest


def test_new_blocks_are_initialized_like_the_stage_around_them() -> None:
    graph, out = block_net({"block": "basic", "options": {"out": 8}, "init": "he_normal"})
    for template in ({"block": "plain", "options": {}}, {"branch": ["relu", {"conv": {"out": "out"}}]}):
        draft = graph.draft()
        more = build_block(draft, out, "s.1", template)
        draft.outputs = [more]
        draft.commit()
        rules = {
            draft.nodes[node].op: fill.rule for (node, slot), fill in draft.origins.fills.items() if slot == "weight"
        }
        assert rules == {"conv2d": "kaiming_normal"}
        assert draft.regions["s.1"].template["init"] == "he_normal"  # type: ignore[index]


def test_definition_of_basic_equals_basic() -> None:
    definition = {
        "branch": [{"conv_bn_relu": {"out": "out", "stride": "stride"}}, {"conv_bn": {"out": "out"}}],
        "shortcut": "projection",
        "then": ["relu"],
    }
    ours, _ = block_net({"block": definition, "options": {"out": 16}}, 8, stride=2, depth=2)
    basic, _ = block_net({"block": "basic", "options": {"out": 16}}, 8, stride=2, depth=2)
    assert ours.digest == basic.digest
    assert weights(ours, "s") == weights(basic, "s")


def test_words_of_definitions() -> None:
    branch = [
        {"conv": {"out": "out/4", "kernel": 1, "label": "squeeze"}},
        {"conv": {"out": "out * 2", "groups": "out/4"}},
        {"conv": {"out": "in", "kernel": 1}},
    ]
    graph, _ = block_net({"branch": branch, "shortcut": "identity"}, 8)
    outs = [graph.nodes[node_id].attrs["out"] for node_id in graph.members("s.0")[:3]]
    assert outs == [2, 16, 8]
    assert names(graph, "s.0") == ["squeeze", "conv1", "conv2", "add"]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"block": "basik"}, "did you mean 'basic'"),
    ({"block": "basic", "option": {}}, "unknown key 'option'"),
    ({"options": {}}, "no key 'block'"),
    ({"block": "basic", "options": {"out": "wide"}}, "out: expected a whole number, found the text 'wide'"),
    ({"block": "basic", "options": {"shortcut": "none?"}}, "shortcut: unknown value 'none?'; did you mean 'none'?"),
    ({"block": "basic", "options": {"widht": 3}}, "widht: unknown option; known: out, shortcut"),
    (
        {"block": "basic", "options": {"branch_scale": True}},
        "one of 1/n, 1/sqrt(n), fischer, skipinit or a number or a mapping or nothing, found true",
    ),
    ({"block": "basic", "options": {"out": 4, "shortcut": "pad"}}, "cannot pad 8 channels to 4"),
    ({"block": "basic", "options": {"out": 4, "shortcut": "identity"}}, "identity shortcut cannot"),
    ({"block": "bottleneck", "options": {"expansion": 3}}, "no multiple of 3"),
    ({"block": "bottleneck", "options": {"expansion": 0}}, "at least 1"),
    ({"block": "resbuilder", "options": {"convs": 0}}, "at least 1"),
    ({"branch": [{"relu": {"label": "a"}}, {"relu": {"label": "a"}}]}, "two nodes would be labelled 's.0.a'"),
    ({"block": "basic", "init": "hi_normal"}, "did you mean 'he_normal'"),
    ({"branch": []}, "needs a branch"),
    ({"branch": "relu"}, "expected a list of steps"),
    ({"branch": ["rely"]}, "did you mean 'relu'"),
    ({"branch": ["concat"]}, "not one input and one output"),
    ({"branch": [{"conv": {"out": "out/3"}}]}, "out/3 is no whole number"),
    ({"branch": [{"conv": {"kernel": 3}}]}, "out: this option is required; add `out: ...`"),
    ({"branch": [{"conv": {"out": "out", "stride": 2}}], "shortcut": "projection"}, "let the strides"),
]


@pytest.mark.parametrize(("template", "message"), WRONG, ids=lambda value: str(value)[:50])
def test_wrong_templates(template: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeRuleError, UnknownName)) as caught:
        block_net(template)
    assert message in str(caught.value)


def test_definitions_are_checked_in_form() -> None:
    assert check_definition({"branch": ["relu", {"conv": {"out": 3}}, {"relu": None}], "then": []}) == []
    faults = check_definition({"branch": [3, {"a": 1}], "shortcut": "x", "than": []})
    assert [path for path, _, _ in faults] == [("than",), ("shortcut",), ("branch", 0), ("branch", 1)]


def test_a_block_of_ones_own() -> None:
    def squeeze(make: Maker, x: Port, stride: int, out: int = 0, ratio: int = 4) -> Port:
        """Squeeze-and-excitation without its first half."""
        y = make.conv(x, make.channels(x) // ratio, kernel=1, stride=stride)
        y = add_step(make, y, "sigmoid", {})
        return make.conv(y, out or make.channels(x), kernel=1)

    known = dict(blocks._objects)
    try:
        blocks.register("squeeze")(squeeze)
        graph, out = block_net({"block": "squeeze", "options": {"ratio": 2}})
    finally:
        blocks._objects.clear()
        blocks._objects.update(known)
    assert names(graph, "s.0") == ["conv1", "sigmoid1", "conv2"]
    assert graph.infer.types[out].shape == (8, 8, 8)


def test_shipped_blocks_are_registered_and_described() -> None:
    assert set(SHIPPED) <= set(blocks.names())
    assert all(blocks.get(name).__doc__ for name in SHIPPED)
