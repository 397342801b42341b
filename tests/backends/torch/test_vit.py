"""Torchvision's vision transformers as graphs: weights, logits, costs; small ones rewritten and pruned in torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.vision_transformer import VisionTransformer

from nasir.backends.torch import Model
from nasir.backends.torch.weights.pretrained import load_pretrained, renamed
from nasir.blocks import Maker, add_step, build_block
from nasir.errors import DataError, TypeRuleError
from nasir.ir import Draft, Graph
from nasir.passes.insert_block import InsertBlock
from nasir.passes.remove_block import RemoveBlock
from nasir.rewriting.rewrite import Rewrite
from nasir.spec import Spec, loads_spec
from nasir.spec.network import build
from nasir.spec.presets import TRANSFORMERS
from nasir.transfer import derive

COUNTS = {"vit_b_16": 86_567_656, "vit_b_32": 88_224_232, "vit_l_16": 304_326_632, "vit_l_32": 306_535_400}
SMALL = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 3, "hidden_dim": 24, "mlp_dim": 40}


def spec(network: str, size: int) -> Spec:
    return loads_spec(
        f"nasir: 1\nname: imported\ndevice: cpu\ninput: {{image: [3, {size}, {size}]}}\nnetwork: {network}\n"
        f"data: {{dataset: synthetic, options: {{classes: 10, size: {size}, train: 8, test: 4}}, batch_size: 4}}\n"
        "phases:\n  - {name: train, epochs: 1, optimizer: {sgd: {lr: 0.1}}}\n"
    )


def imported(model: str, size: int = 224, more: str = "") -> Graph:
    return build(spec(f"{{from: torchvision, model: {model}{more}}}", size))


def small(dropout: float = 0.0) -> Graph:
    """The graph of torchvision's VisionTransformer(**SMALL, num_classes=10)."""
    draft = Draft()
    make = Maker(draft)
    x = draft.add("input", (), "x", shape=[3, 32, 32])
    conv = {"out": 24, "kernel": 8, "stride": 8, "padding": 0}
    for kind, options, label in (
        ("conv", conv, "conv_proj"),
        ("tokens", {}, "tokens"),
        ("class_token", {}, "class_token"),
        ("position_embedding", {}, "encoder.pos_embedding"),
    ):
        x = add_step(make, x, kind, options, label)
    options = {"heads": 3, "mlp": 40, "dropout": dropout, "attention_dropout": dropout}
    template = {"block": "transformer", "options": options}
    draft.region("encoder.layers", "stage", template)
    for number in range(2):
        x = build_block(draft, x, f"encoder.layers.{number}", template)
    x = add_step(make, x, "layer_norm", {"eps": 1e-6}, "encoder.ln")
    x = add_step(make, x, "select_token", {}, "select_token")
    draft.output(add_step(make, x, "linear", {"out": 10}, "heads.head"))
    return draft.commit()


def theirs(make: Any, **options: Any) -> torch.nn.Module:
    """One of torchvision's with weights that all matter; theirs begin with a classifier of zeros."""
    torch.manual_seed(0)
    made: torch.nn.Module = make(**options)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.06)
    return made.eval()


def batch(size: int, n: int = 2, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(3)).to(dtype)


@pytest.fixture
def counted() -> Iterator[None]:
    """Torch's fused inference kernel for transformer blocks is not in its own table of FLOPs."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def flops(model: torch.nn.Module, x: torch.Tensor) -> int:
    """What torch counts. Which fused attention kernels its table knows differs between releases: attention runs as the
    matrix products that every release counts."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(x)
    return int(counter.get_total_flops())


# -- torchvision's


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_names_shapes_and_counts(name: str) -> None:
    made = imported(name)
    with torch.device("meta"):
        reference = torchvision.models.get_model(name, weights=None).state_dict()
    labels = {node_id: node.label for node_id, node in made.nodes.items()}
    shapes = {f"{labels[n]}.{slot}": s.shape for n, slots in made.infer.slots.items() for slot, s in slots.items()}
    assert shapes == {key: tuple(tensor.shape) for key, tensor in renamed(reference).items()}
    assert made.cost().params == COUNTS[name]
    assert made.depths() == {"encoder.layers": TRANSFORMERS[name].depth}


def test_a_small_one_has_torchvisions_logits_and_gradients() -> None:
    reference = theirs(VisionTransformer, **SMALL, num_classes=10).double()
    model = Model.from_graph(small(), dtype=torch.float64).eval()
    model.load_state_dict(renamed(reference.state_dict()))
    x = batch(32, dtype=torch.float64)
    wanted, logits = reference(x), model(x)
    assert float((wanted - logits).detach().abs().max()) < 1e-12 < float(wanted.detach().abs().max())
    wanted.square().sum().backward()
    logits.square().sum().backward()
    gradients = renamed({name: p.grad for name, p in reference.named_parameters()})
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert float((parameter.grad - gradients[name]).abs().max()) < 1e-10, name


def test_a_small_one_costs_what_torch_counts(counted: None) -> None:
    reference = theirs(VisionTransformer, **SMALL, num_classes=10)
    graph = small()
    assert flops(reference, batch(32, 1)) == flops(Model.from_graph(graph), batch(32, 1)) == 2 * graph.cost().macs
    assert sum(p.numel() for p in reference.parameters()) == graph.cost().params


@pytest.mark.slow
def test_vit_b_16_has_torchvisions_logits_and_cost(counted: None) -> None:
    reference = theirs(torchvision.models.vit_b_16)
    graph = imported("vit_b_16")
    model = Model.from_graph(graph).eval()
    model.load_state_dict(renamed(reference.state_dict()), strict=True)
    x = batch(224, 1)
    with torch.no_grad():
        wanted, logits = reference(x), model(x)
    scale = float(wanted.abs().max())
    assert float((logits - wanted).abs().max()) <= 1e-5 * max(1.0, scale)
    assert scale > 0.1
    assert flops(reference, x) == 2 * graph.cost().macs == 2 * 17_563_828_224


@pytest.mark.slow
def test_published_weights_load_under_their_old_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files call the layers of a block's MLP linear_1 and linear_2."""
    full = torchvision.models.vit_b_32(num_classes=3)
    state = {
        name.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): tensor
        for name, tensor in full.state_dict().items()
    }
    monkeypatch.setattr(torchvision.models.ViT_B_32_Weights, "get_state_dict", lambda self, **kwargs: state)
    model = Model.from_graph(imported("vit_b_32", more=", classes: 5"))
    assert set(load_pretrained(model, "vit_b_32", "IMAGENET1K_V1")) == {"heads.head.weight", "heads.head.bias"}
    own = model.state_dict()
    assert torch.equal(
        own["encoder.layers.11.mlp.3.weight"], state["encoder.layers.encoder_layer_11.mlp.linear_2.weight"]
    )
    assert torch.equal(own["class_token.weight"], state["class_token"])
    with pytest.raises(DataError, match=r"pos_embedding.weight has shape \(1, 50, 768\) there and \(1, 5, 768\) here"):
        load_pretrained(Model.from_graph(imported("vit_b_32", 64, ", classes: 3")), "vit_b_32", "IMAGENET1K_V1")


# -- rewrites


def test_an_inserted_block_starts_silent_and_leaves_again() -> None:
    graph = small()
    model = Model.from_graph(graph, dtype=torch.float64).eval()
    x = batch(32, dtype=torch.float64)
    grown = InsertBlock(init="zero").apply(graph, "encoder.layers")
    assert grown is not None and grown.preserves == "exact"
    assert grown.graph.depths() == {"encoder.layers": 3}
    larger = model.rewritten(grown)
    assert torch.equal(larger(x), model(x))
    larger(x).square().sum().backward()
    gradients = {name: p.grad for name, p in larger.named_parameters() if name.startswith("encoder.layers.2.")}
    assert all(
        bool(gradients[f"encoder.layers.2.{name}.weight"].any()) for name in ("self_attention.out_proj", "mlp.3")
    )
    back = RemoveBlock().apply(grown.graph, "encoder.layers.2")
    assert back is not None
    smaller = larger.rewritten(back)
    assert smaller.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in smaller.state_dict().items())


def test_heads_units_and_channels_are_pruned_in_torch() -> None:
    graph = small()
    model = Model.from_graph(graph, dtype=torch.float64, seed=1).eval()
    spaces = {space.name: space for space in graph.infer.spaces}
    core = "encoder.layers.0.self_attention.core"
    dead = {core: [1], f"{core}#3": [0, 5], "encoder.layers.1.mlp.0": [3, 39]}
    head = [part + unit for part in (8, 32, 56) for unit in range(8)]  # head 1 of q, k and v
    values = [48 + 8 * head + unit for head in range(3) for unit in (0, 5)]
    with torch.no_grad():
        for name, rows in (("0.self_attention.in_proj", head + values), ("1.mlp.0", [3, 39])):
            for parameter in model.get_submodule(f"encoder.layers.{name}").parameters():
                parameter[rows] = 0
    draft = graph.draft()
    for name, gone in dead.items():
        draft.select(spaces[name], np.setdiff1d(np.arange(spaces[name].size), gone))
    new = draft.commit()
    pruned = model.rewritten(_rewrite(graph, new, draft))
    x = batch(32, dtype=torch.float64)
    with torch.no_grad():
        assert float((pruned(x) - model(x)).abs().max()) < 1e-12
    assert pruned.state_dict()["encoder.layers.0.self_attention.in_proj.weight"].shape == (2 * (8 + 8 + 6), 24)
    assert pruned.state_dict()["encoder.layers.0.self_attention.out_proj.weight"].shape == (24, 12)


def test_fewer_embedding_channels_run_and_take_another_block() -> None:
    graph = small()
    (channels,) = [space for space in graph.infer.spaces if space.name == "conv_proj"]
    draft = graph.draft()
    draft.select(channels, np.arange(0, 24, 3))
    narrow = Model.from_graph(graph).eval().rewritten(_rewrite(graph, draft.commit(), draft))
    assert narrow(batch(32)).shape == (2, 10)
    assert narrow.state_dict()["encoder.pos_embedding.weight"].shape == (1, 17, 8)
    grown = InsertBlock(init="zero").apply(narrow.graph, "encoder.layers")
    assert grown is not None
    assert torch.equal(narrow.rewritten(grown)(batch(32)), narrow(batch(32)))


def _rewrite(old: Graph, new: Graph, draft: Draft) -> Rewrite:
    return Rewrite(old, new, derive(draft, new), {"pass": "select"}, "network", "no")


# -- the block


def test_attention_drops_while_training_only() -> None:
    model = Model.from_graph(small(dropout=0.5), dtype=torch.float64)
    plain = Model.from_graph(small(), dtype=torch.float64)
    plain.load_state_dict(model.state_dict())
    x = batch(32, dtype=torch.float64)
    torch.manual_seed(0)
    with torch.no_grad():
        assert not torch.allclose(model.train()(x), model(x))
        assert torch.equal(model.eval()(x), plain.eval()(x))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"out": 12}, "keeps its 24 channels"),
        ({"heads": 0}, "heads: must be at least 1, found 0"),
        ({"head_dims": 4}, "did you mean 'head_dim'"),
    ],
)
def test_wrong_options_of_the_block_are_named(options: dict[str, Any], message: str) -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[5, 24])
    with pytest.raises(TypeRuleError, match=message):
        build_block(draft, x, "s.0", {"block": "transformer", "options": options})


def test_a_spec_says_it_in_steps() -> None:
    steps = (
        "\n  - patchify: {out: 24, patch: 8}\n  - class_token:\n  - position_embedding:\n"
        "  - stage: {name: encoder, block: transformer, depth: 2, heads: 3, mlp: 40}\n"
        "  - layer_norm: {eps: 1.0e-6}\n  - select_token: {index: 0}\n  - classifier: {classes: 10}"
    )
    graph = build(spec(steps, 32))
    assert graph.digest == small().digest
    averaged = build(spec(steps.replace("  - select_token: {index: 0}\n", ""), 32))
    assert "mean_tokens" in {node.op for node in averaged.nodes.values()}
