"""`remove-norms`: what norms do in evaluation goes into the layers before them, or stays as a scale and a shift."""

from __future__ import annotations

import copy

import pytest
import torch
from grown import images, lived, logits, pyramid
from torch import Tensor, nn

from nasir.backends.torch import Model, from_module
from nasir.errors import Decline, OptionError
from nasir.ir import Draft, Graph
from nasir.passes.insert_block import InsertBlock
from nasir.passes.remove_norms import RemoveNorms
from nasir.rewriting.rewrite import WHOLE
from nasir.testing import PassContract, evaluate, random_batch, random_weights, transferred
from nasir.testing.graphs import with_ties

BLOCKS = ["basic", "bottleneck", "preact_basic", "resbuilder", "plain"]


class TestRemoveNormsContract(PassContract):
    make = staticmethod(RemoveNorms)
    bound = 1e-12


class TestKeepContract(PassContract):
    make = staticmethod(lambda: RemoveNorms(rest="keep"))
    bound = 1e-12


class TestFixupContract(PassContract):
    make = staticmethod(lambda: RemoveNorms(form="fixup"))
    bound = 1e-12

    def graphs(self) -> list[Graph]:
        return [pyramid((2, 1), 4, block=block, size=8) for block in BLOCKS[:4]]


def normed(graph: Graph) -> list[str]:
    return [node.label for node in graph.nodes.values() if node.op == "batch_norm"]


@pytest.mark.parametrize(
    ("block", "form"), [(b, f) for b in BLOCKS for f in ("none", "skipinit", "fixup") if b != "plain" or f == "none"]
)
def test_evaluation_stays_the_same_and_no_norm_is_left(block: str, form: str) -> None:
    model = lived(pyramid((2, 2), 4, block=block, size=8), dtype=torch.float64)
    x = images(size=8, dtype=torch.float64)
    before = logits(model, x)
    rewrite = model.apply(RemoveNorms(form=form), WHOLE)  # type: ignore[arg-type]
    assert rewrite is not None and rewrite.preserves == "exact" and not normed(model.graph)
    after = logits(model, x)
    assert float((after - before).abs().max()) <= 1e-12 * float(before.abs().max())
    assert torch.equal(logits(model, x, training=True), after)  # nothing measures the batch any more


def test_training_was_another_function() -> None:
    model = lived(pyramid((1, 1), 4, size=8), dtype=torch.float64)
    x = images(size=8, dtype=torch.float64)
    before = logits(model, x, training=True)
    model.apply(RemoveNorms(), WHOLE)
    assert float((logits(model, x, training=True) - before).abs().max()) > 1e-2


def layers(op: str, shape: tuple[int, ...], norm: dict, **attrs: object) -> Graph:
    draft = Draft()
    x = draft.add(op, draft.add("input", (), "x", shape=shape, channel_axis=0), "layer", **attrs)
    x = draft.add(norm.get("op", "batch_norm"), x, "norm", **{k: v for k, v in norm.items() if k != "op"})
    draft.output(x if op == "linear" else draft.add("flatten", x, "flat"))
    return draft.commit()


IMAGE = (4, 7, 6)
LAYERS = [
    ("conv2d", IMAGE, {"out": 3, "kernel": 3, "padding": 1}),
    ("conv2d", IMAGE, {"out": 3, "kernel": 3, "padding": 1, "bias": True, "padding_mode": "reflect"}),
    ("conv2d", IMAGE, {"out": 6, "kernel": 2, "groups": 2}),
    ("conv2d", IMAGE, {"out": 4, "kernel": 3, "groups": 4, "bias": True}),
    ("conv2d", IMAGE, {"out": 8, "kernel": 3, "groups": 4}),
    ("conv1d", (4, 9), {"out": 3, "kernel": 3}),
    ("conv3d", (4, 3, 4, 5), {"out": 3, "kernel": 2}),
    ("conv_transpose2d", IMAGE, {"out": 3, "kernel": 2, "stride": 2}),
    ("conv_transpose2d", IMAGE, {"out": 4, "kernel": 3, "groups": 4, "bias": True}),
    ("linear", (6,), {"out": 5}),
    ("linear", (6,), {"out": 5, "bias": False}),
]
NORMS = [{}, {"affine": False}, {"eps": 0.1, "momentum": None}, {"op": "instance_norm", "statistics": True}]


@pytest.mark.parametrize(
    ("op", "shape", "attrs", "norm"),
    [(*layer, norm) for layer in LAYERS for norm in NORMS if layer[0] != "linear" or "op" not in norm],
    ids=str,
)
def test_every_layer_takes_a_norm_exactly(op: str, shape: tuple[int, ...], attrs: dict, norm: dict) -> None:
    graph = layers(op, shape, norm, **attrs)
    rewrite = RemoveNorms().attempt(graph, "norm", TestRemoveNormsContract().evidence(graph))
    assert "norm" not in rewrite.graph.labels and rewrite.preserves == "exact"
    weights, batch = random_weights(graph, 0), random_batch(graph, 1)
    after = transferred(rewrite.plan, rewrite.graph, weights, blobs=rewrite.blobs)
    old, new = evaluate(graph, weights, batch), evaluate(rewrite.graph, after, batch)
    assert abs(new - old).max() <= 1e-12 * abs(old).max()


def test_a_frozen_norm_is_folded_and_one_that_no_layer_takes_stays_as_it_is() -> None:
    graph = layers("conv2d", IMAGE, {"op": "frozen_batch_norm"}, out=3, kernel=1)
    seen = TestRemoveNormsContract().evidence(graph)
    assert "norm" not in RemoveNorms().attempt(graph, WHOLE, seen).graph.labels
    graph = layers("max_pool", IMAGE, {"op": "frozen_batch_norm"}, kernel=2)
    with pytest.raises(Decline, match=r"'network' has no norm that can go \('norm': it reads 'layer', which multipl"):
        RemoveNorms().attempt(graph, WHOLE, TestRemoveNormsContract().evidence(graph))


def test_a_variance_of_zero_is_refused() -> None:
    model = Model.from_graph(layers("conv2d", IMAGE, {"eps": 0.0}, out=3, kernel=1))
    model.state_dict()["norm.running_var"][1] = 0.0
    with pytest.raises(Decline, match="'norm' divides by 0: a running variance of it is 0, and so is its eps"):
        RemoveNorms().attempt(model.graph, "norm", model.observe(RemoveNorms.needs))


REASONS = {
    "grouped transposed": (
        layers("conv_transpose2d", IMAGE, {}, out=6, kernel=2, groups=2),
        "the kernel of 'layer' does not hold its output channels one by one",
    ),
    "pool": (layers("max_pool", IMAGE, {}, kernel=2), "it reads 'layer', which multiplies by no kernel"),
    "standardized": (
        layers("ws_conv2d", IMAGE, {}, out=3, kernel=2),
        "it reads 'layer', which multiplies by no kernel",
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_what_no_layer_takes_becomes_a_scale_and_a_shift_or_stays(case: str) -> None:
    graph, reason = REASONS[case]
    seen = TestRemoveNormsContract().evidence(graph)
    with pytest.raises(Decline) as refusal:
        RemoveNorms(rest="keep").attempt(graph, WHOLE, seen)
    assert str(refusal.value) == f"'network' has no norm that can go ('norm': {reason})"
    rewrite = RemoveNorms().attempt(graph, WHOLE, seen)
    assert rewrite.graph.nodes[rewrite.graph.labels["norm"]].op == "affine"
    weights, batch = random_weights(graph, 0), random_batch(graph, 1)
    after = transferred(rewrite.plan, rewrite.graph, weights, blobs=rewrite.blobs)
    old, new = evaluate(graph, weights, batch), evaluate(rewrite.graph, after, batch)
    assert abs(new - old).max() <= 1e-12 * abs(old).max()


def two_readers(tied: bool = False) -> Graph:
    draft = Draft()
    x = draft.add("input", (), "x", shape=IMAGE)
    y = draft.add("conv2d", x, "conv", out=4, kernel=3, padding=1)
    z = draft.add("conv2d", y, "conv_2", out=4, kernel=3, padding=1) if tied else y
    first = draft.add("batch_norm", z, "norm")
    last = draft.add("add", (first, draft.add("relu", y, "relu")), "sum")
    draft.output(draft.add("flatten", draft.add("layer_norm2d", last, "ln"), "flat"))
    return with_ties(draft.commit()) if tied else draft.commit()


def test_layers_with_other_readers_and_shared_layers_are_left_alone() -> None:
    for tied, reason in ((False, "is read by others, too"), (True, "shares weights with other nodes")):
        graph = two_readers(tied)
        assert bool(graph.ties) is tied
        seen = TestRemoveNormsContract().evidence(graph)
        with pytest.raises(Decline, match=reason):
            RemoveNorms(rest="keep").attempt(graph, WHOLE, seen)


def test_norms_that_stay_are_told() -> None:
    graph = two_readers()
    rewrite = RemoveNorms().attempt(graph, WHOLE, TestRemoveNormsContract().evidence(graph))
    assert rewrite.noted == {"remark": "1 norm stays, such as 'ln': it has no running statistics"}


def test_the_optimizers_memory_of_kernels_and_biases_follows() -> None:
    """w' = a w has the gradient g / a; the new bias has the gradient that the norm's bias had."""
    model = lived(pyramid((1,), 4, size=8), dtype=torch.float64)
    model.eval()  # gradients of what evaluation does: the memory is then exactly that of the new network
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    x = images(size=8, dtype=torch.float64)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    step()
    model.apply(RemoveNorms(), WHOLE, optimizers=[optimizer])
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    memory = {names[id(p)]: optimizer.state[p]["momentum_buffer"].clone() for p in optimizer.state}
    assert "s1.0.conv1.weight" in memory and "s1.0.conv1.bias" in memory
    optimizer.zero_grad()
    model.eval()
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(memory[name], parameter.grad, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("form", ["none", "skipinit", "fixup"])
@pytest.mark.parametrize("block", ["basic", "preact_basic"])
def test_blocks_that_are_inserted_later_have_no_norms_and_start_silent(block: str, form: str) -> None:
    model = lived(pyramid((2, 2), 4, block=block, size=8), dtype=torch.float64)
    model.apply(RemoveNorms(form=form), WHOLE)  # type: ignore[arg-type]
    x = images(size=8, dtype=torch.float64)
    before = logits(model, x)
    rewrite = model.apply(InsertBlock(), "s2")
    assert rewrite is not None and rewrite.preserves == "exact" and not normed(model.graph)
    assert torch.equal(logits(model, x), before)


def test_templates_stay_where_norms_do() -> None:
    graph = pyramid((2, 1), 4, size=8)
    seen = TestRemoveNormsContract().evidence(graph)
    one = RemoveNorms().attempt(graph, "s1.0", seen).graph
    assert one.regions["s1.0"].template["options"] == {"out": 4, "norm": "none"}
    assert one.regions["s1"].template == graph.regions["s1"].template
    free = RemoveNorms(form="skipinit").attempt(graph, "s1", seen).graph
    assert free.regions["s1"].template["options"] == {"out": 4, "norm": "none", "branch_scale": "skipinit"}
    assert RemoveNorms(form="fixup").attempt(graph, "s1", seen).graph.regions["s1"].template is None
    graph = pyramid((2, 1), 4, block="bottleneck", size=8)
    assert (
        RemoveNorms().attempt(graph, "s1", TestRemoveNormsContract().evidence(graph)).graph.regions["s1"].template
        is None
    )


def test_a_stage_of_one_block_grows_without_norms() -> None:
    model = lived(pyramid((1, 1), 4, size=8), dtype=torch.float64)
    model.apply(RemoveNorms(form="skipinit"), WHOLE)
    x = images(size=8, dtype=torch.float64)
    before = logits(model, x)
    rewrite = model.apply(InsertBlock(), "s2")
    assert rewrite is not None and rewrite.preserves == "exact" and not normed(model.graph)
    assert torch.equal(logits(model, x), before)


def test_skipinit_from_zero_is_a_restart_of_every_block() -> None:
    model = lived(pyramid((2, 1), 4, size=8), dtype=torch.float64)
    rewrite = model.apply(RemoveNorms(form="skipinit", start=0.0), WHOLE)
    assert rewrite is not None and rewrite.preserves == "no"
    scales = [parameter.detach() for name, parameter in model.named_parameters() if name.endswith("scale.weight")]
    assert len(scales) == 3 and not any(float(scale) for scale in scales)


def test_fixups_numbers_lie_where_the_paper_has_them() -> None:
    model = lived(pyramid((1,), 4, size=8), dtype=torch.float64)
    model.apply(RemoveNorms(form="fixup"), WHOLE)
    graph = model.graph
    node, path = graph.nodes[graph.labels["s1.0.add"]].inputs[0].node, []
    while graph.nodes[node].label.startswith("s1.0."):
        path.append(graph.nodes[node].op)
        node = graph.nodes[node].inputs[0].node
    fixup = ["scalar_bias", "conv2d", "scalar_bias", "relu", "scalar_bias", "conv2d", "scale", "scalar_bias"]
    assert path[::-1] == fixup
    assert RemoveNorms(form="fixup").apply(graph, WHOLE, model.observe(RemoveNorms.needs)) is None


def test_forms_need_branches_and_a_start_needs_a_form() -> None:
    model = Model.from_graph(pyramid((1,), 4, block="plain", size=8))
    with pytest.raises(Decline, match="form: skipinit acts on the branches of blocks, and 'network' has no residual"):
        RemoveNorms(form="skipinit").attempt(model.graph, WHOLE, model.observe(RemoveNorms.needs))
    with pytest.raises(OptionError, match=r"start is 0\.0, and form: none has no factor; give form: skipinit or fixup"):
        RemoveNorms(start=0.0)


def test_imported_resnets_lose_their_norms() -> None:
    torchvision = pytest.importorskip("torchvision")
    module = torchvision.models.resnet18(num_classes=5).double()
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 2.0)
            nn.init.normal_(part.running_mean, std=0.2)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    model = from_module(copy.deepcopy(module), x)
    with torch.no_grad():
        before: Tensor = module.eval()(x)
    rewrite = model.apply(RemoveNorms(form="skipinit"), WHOLE)
    assert rewrite is not None and not normed(model.graph)
    assert sum(node.op == "scale" for node in model.graph.nodes.values()) == 8
    assert float((logits(model, x) - before).abs().max()) <= 1e-12 * float(before.abs().max())
    grown = model.apply(InsertBlock(), "layer3")
    assert grown is not None and grown.preserves == "exact"
    assert float((logits(model, x) - before).abs().max()) <= 1e-12 * float(before.abs().max())
