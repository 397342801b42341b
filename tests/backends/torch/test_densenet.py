"""Torchvision's DenseNets as graphs: their weights load under few other names, and the logits and costs agree."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision

from nasir.backends.torch import Model
from nasir.backends.torch.weights.pretrained import load_pretrained, renamed
from nasir.blocks import build_block
from nasir.errors import TypeRuleError
from nasir.ir import Draft, Graph
from nasir.rewriting.rewrite import Rewrite
from nasir.spec import loads_spec
from nasir.spec.network import build
from nasir.spec.presets import DENSENETS
from nasir.transfer import derive

COUNTS = {  # parameters and multiply-accumulates at 224
    "densenet121": (7_978_856, 2_834_161_664),
    "densenet169": (14_149_480, None),
    "densenet201": (20_013_928, None),
    "densenet161": (28_681_000, None),
}


def graph(model: str, size: int = 64, classes: int = 1000) -> Graph:
    return build(
        loads_spec(
            f"nasir: 1\nname: imported\ninput: {{image: [3, {size}, {size}]}}\n"
            f"network: {{from: torchvision, model: {model}, classes: {classes}}}\n"
            "data: {dataset: synthetic}\nphases:\n  - {name: train, epochs: 1, optimizer: {sgd: {lr: 0.1}}}\n"
        )
    )


def theirs(classes: int = 1000) -> torch.nn.Module:
    torch.manual_seed(0)
    made: torch.nn.Module = torchvision.models.densenet121(num_classes=classes)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.normal_(module.running_mean, 0.0, 0.2)
    return made.eval()


@pytest.mark.parametrize("name", DENSENETS)
def test_names_shapes_and_counts(name: str) -> None:
    made = graph(name, 224)
    with torch.device("meta"):
        reference = torchvision.models.get_model(name, weights=None).state_dict()
    labels = {node_id: node.label for node_id, node in made.nodes.items()}
    shapes = {f"{labels[n]}.{slot}": s.shape for n, slots in made.infer.slots.items() for slot, s in slots.items()}
    assert shapes == {key: tuple(tensor.shape) for key, tensor in renamed(reference).items()}
    params, macs = COUNTS[name]
    assert made.cost().params == params
    assert macs is None or made.cost().macs == macs


def test_the_logits_agree() -> None:
    reference = theirs()
    model = Model.from_graph(graph("densenet121")).eval()
    model.load_state_dict(renamed(reference.state_dict()), strict=True)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted, logits = reference(x), model(x)
    scale = float(wanted.abs().max())
    assert float((logits - wanted).abs().max()) <= 1e-5 * max(1.0, scale)
    assert scale > 0.1


def test_published_weights_load_under_their_old_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files say norm.1 and conv.2 where torchvision's modules say norm1 and conv2."""
    state = {}
    for name, tensor in theirs().state_dict().items():
        for word in ("norm1", "norm2", "conv1", "conv2"):
            name = name.replace(f".{word}.", f".{word[:-1]}.{word[-1]}.") if "denselayer" in name else name
        if not name.endswith("num_batches_tracked"):
            state[name] = tensor
    assert "features.denseblock4.denselayer16.conv.2.weight" in state
    monkeypatch.setattr(torchvision.models.DenseNet121_Weights, "get_state_dict", lambda self, **kwargs: state)
    model = Model.from_graph(graph("densenet121", classes=5))
    left = load_pretrained(model, "densenet121", "IMAGENET1K_V1")
    assert {name for name in left if not name.endswith("num_batches_tracked")} == {
        "classifier.weight",
        "classifier.bias",
    }
    last = state["features.denseblock4.denselayer16.conv.2.weight"]
    assert torch.equal(model.state_dict()["features.denseblock4.15.conv2.weight"], last)


def test_new_features_are_pruned_through_all_concatenations() -> None:
    made = graph("densenet121", 32)
    spaces = {space.name: space for space in made.infer.spaces}
    draft = made.draft()
    draft.select(spaces["features.denseblock1.0.conv2"], np.arange(0, 32, 2))
    draft.select(spaces["features.denseblock1.3.conv1"], np.arange(64))
    new = draft.commit()
    pruned = Model.from_graph(made).rewritten(
        Rewrite(made, new, derive(draft, new), {"pass": "select"}, "network", "no")
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in pruned.state_dict().items()}
    assert shapes["features.denseblock1.5.norm1.weight"] == (64 + 16 + 4 * 32,)
    assert shapes["features.transition1.conv.weight"] == (128, 256 - 16, 1, 1)
    assert shapes["features.denseblock1.3.conv2.weight"] == (32, 64, 3, 3)
    assert pruned.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"out": 12}, "adds growth channels at stride 1"),
        ({"growth": 0}, "growth: must be at least 1, found 0"),
        ({"bottleneck": 0}, "bottleneck: must be at least 1, found 0"),
    ],
)
def test_wrong_options_of_the_block_are_named(options: dict[str, int], words: str) -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 4, 4])
    with pytest.raises(TypeRuleError, match=words):
        build_block(draft, x, "s.0", {"block": "dense", "options": options})
