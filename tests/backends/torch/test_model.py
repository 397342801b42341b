"""The lowered network: what it computes, what its parameters are called, what a rewrite leaves untouched."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from networks import small_resnet

from nasir.backends.torch import Call, Model, lowering
from nasir.backends.torch.lower.ops import LOWERINGS
from nasir.errors import GraphError, UsageError
from nasir.ir import At, Atom, Draft, Graph, ValueType, op
from nasir.ir.op import loaded
from nasir.registry import ops
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import Pass
from nasir.testing.backend_contract import Resize


def batch(size: int = 8, count: int = 5) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def reference(model: Model, x: torch.Tensor) -> torch.Tensor:
    """The small ResNet by hand, reading the model's own modules."""
    relu = torch.relu
    x = relu(model.bn1(model.conv1(x)))
    for stage in ("s1", "s2"):
        for block in getattr(model, stage).children():
            y = block.bn2(block.conv2(relu(block.bn1(block.conv1(x)))))
            x = relu(y + (block.downsample(x) if hasattr(block, "downsample") else x))
    return model.fc(x.mean((2, 3)))


class _Chain(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for child in self.children():
            x = child(x)
        return x


def test_lowered_network_computes_what_the_same_modules_compute_by_hand() -> None:
    model = Model.from_graph(small_resnet()).double()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    for block in model.s2.children():
        if hasattr(block, "downsample"):
            chain = _Chain()
            for key, child in block.downsample.named_children():
                chain.add_module(key, child)
            block.downsample = chain
    for training in (False, True):
        model.train(training)
        difference = (model(batch().double()) - reference(model, batch().double())).abs().max().item()
        assert difference < 1e-12, difference


def test_state_dict_keys_are_labels_and_slots() -> None:
    graph = small_resnet()
    model = Model.from_graph(graph)
    assert set(model.state_dict()) == set(model.keys())
    assert "s2.0.downsample.1.running_var" in model.state_dict()


def test_equal_blocks_share_one_code_object() -> None:
    model = Model.from_graph(small_resnet((4, 3)))
    blocks = [*model.s1.children(), *model.s2.children()]
    codes = [type(block).forward.__code__ for block in blocks]
    assert codes[0] is codes[1] is codes[2] is codes[3] is codes[5] is codes[6]
    assert codes[4] is not codes[0]


def test_units_begin_with_the_relu_of_the_block_before_and_end_before_their_own() -> None:
    model = Model.from_graph(small_resnet())
    code = model.s1.get_submodule("0").code
    assert code.index("relu(x") < code.index("conv1") and code.rstrip().endswith("return add")


def test_same_seed_same_weights_other_seed_others() -> None:
    graph = small_resnet()
    first, again, other = (Model.from_graph(graph, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def space(graph: Graph, name: str) -> Atom:
    return next(atom for atom in graph.infer.spaces if atom.name == name)


@pytest.mark.parametrize("name", ["conv1", "s1.0.conv1", "s2.0.conv2"])
def test_replicating_and_adding_units_keeps_the_function(name: str) -> None:
    model = Model.from_graph(small_resnet()).double().eval()
    before = model(batch().double())
    size = space(model.graph, name).size
    rewrite = Resize((*range(size), 0, 0, 1, -1)).apply(model.graph, space(model.graph, name))
    assert model.apply(rewrite) is rewrite
    difference = (model(batch().double()) - before).abs().max().item()
    assert difference < 1e-12, difference


def test_a_rewrite_shares_everything_it_does_not_change_and_the_old_model_stays_valid() -> None:
    model = Model.from_graph(small_resnet((2, 2)))
    old_parameters = {name: parameter for name, parameter in model.named_parameters()}
    x = batch()
    before = model.eval()(x)
    rewrite = Resize((0, 1)).apply(model.graph, space(model.graph, "s2.1.conv1"))
    new = model.rewritten(rewrite)
    changed = {"s2.1.conv1.weight", "s2.1.bn1.weight", "s2.1.bn1.bias", "s2.1.conv2.weight"}
    same = {name for name, parameter in new.named_parameters() if parameter is old_parameters[name]}
    assert old_parameters.keys() - same == changed
    assert new.s1.get_submodule("0") is model.s1.get_submodule("0")
    assert torch.equal(model(x), before)
    assert not new.training and not new.s2.get_submodule("1").training


def test_optimizer_object_stays_and_every_parameter_is_in_exactly_one_group() -> None:
    model = Model.from_graph(small_resnet((1, 2)))
    weights = [p for name, p in model.named_parameters() if p.dim() > 1]
    others = [p for name, p in model.named_parameters() if p.dim() <= 1]
    optimizer = torch.optim.SGD([{"params": weights}, {"params": others, "weight_decay": 0.0}], lr=0.1, momentum=0.9)
    model(batch()).square().mean().backward()
    optimizer.step()
    momentum = {name: optimizer.state[p]["momentum_buffer"].clone() for name, p in model.named_parameters()}
    rewrite = Resize((0, 1, 2, 2)).apply(model.graph, space(model.graph, "s1.0.conv1"))
    model.apply(rewrite, optimizers=[optimizer])
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, held)) == sorted(id(p) for p in model.parameters())
    for name, parameter in model.named_parameters():
        buffer = optimizer.state[parameter]["momentum_buffer"]
        assert buffer.shape == parameter.shape, name
        if name == "s1.0.conv1.weight":
            # a replica receives the gradient its weight would have shared: half each
            assert torch.allclose(
                buffer, momentum[name][[0, 1, 2, 2]] * torch.tensor([1, 1, 0.5, 0.5]).view(4, 1, 1, 1)
            )
        elif name != "s1.0.conv2.weight" and not name.startswith("s1.0.bn1"):
            assert torch.equal(buffer, momentum[name])


def test_a_rewrite_of_another_graph_is_refused() -> None:
    model = Model.from_graph(small_resnet())
    other = small_resnet((2, 2))
    rewrite = Resize((0, 1)).apply(other, space(other, "s2.1.conv1"))
    with pytest.raises(GraphError, match="another graph"):
        model.apply(rewrite)


def test_apply_with_a_plain_function_visits_submodules() -> None:
    model = Model.from_graph(small_resnet())
    seen: list[str] = []
    model.apply(lambda module: seen.append(type(module).__name__))
    assert "Conv2d" in seen and seen[-1] == "Model"


def test_a_word_of_python_may_be_a_label_except_inside_a_block() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[4])
    y = draft.add("linear", draft.add("linear", x, "class", out=4), "s1.0.fc", out=4)
    draft.region("s1", "stage")
    draft.region("s1.0", "block")
    draft.output(y)
    model = Model.from_graph(draft.commit())
    assert model(torch.zeros(2, 4)).shape == (2, 4) and "class.weight" in model.state_dict()
    draft.outputs = [draft.add("linear", y, "s1.0.lambda", out=3)]
    with pytest.raises(UsageError, match=r"s1\.0\.lambda"):
        Model.from_graph(draft.commit())


@pytest.mark.parametrize("labels", [["half"], ["graph"], ["code.conv"], ["a.b", "a"], ["a", "a.weight"]])
def test_a_label_that_torch_or_another_label_takes_is_refused(labels: list[str]) -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 4, 4])
    for label in labels:
        x = draft.add("conv2d", x, label, out=3, kernel=1)
    draft.output(x)
    with pytest.raises(UsageError, match="choose another"):
        Model.from_graph(draft.commit())


def test_a_frozen_norm_stays_frozen_when_it_is_resized() -> None:
    model = Model.from_graph(small_resnet()).train()
    norm, other = model.graph.find("s1.0.bn1"), model.graph.find("s1.0.bn2")
    model.leaf(norm).eval()
    inner = next(space for space in model.graph.infer.spaces if space.name == "s1.0.conv1")
    before = model.leaf(norm)
    model.apply(_Narrow(), inner)
    assert model.leaf(norm) is not before
    assert not model.leaf(norm).training and model.leaf(other).training


@dataclass(frozen=True)
class _Narrow(Pass):
    """Drop the last unit of a space."""

    def sites(self, graph: Graph) -> list[Atom]:
        return [space for space in graph.infer.spaces if space.resizable]

    def rewrite(self, draft: Draft, site: Atom, seen: Evidence) -> None:
        draft.select(site, range(site.size - 1))


def _checked(x: torch.Tensor, channels: int) -> torch.Tensor:
    assert x.shape[1] == channels
    return x


def test_a_call_with_a_constant_from_its_input_is_lowered_anew_when_that_is_resized() -> None:
    @op("sized")
    def sized(at: At, x: ValueType) -> ValueType:
        """The input; its lowering knows the number of channels."""
        return x

    lowering("sized")(lambda attrs, inputs, out: Call(_checked, (inputs[0].shape[0],)))
    try:
        draft = Draft()
        x = draft.add("conv2d", draft.add("input", (), "x", shape=[3, 4, 4]), "conv", out=6, kernel=1)
        draft.output(draft.add("conv2d", draft.add("sized", x, "sized"), "last", out=2, kernel=1))
        model = Model.from_graph(draft.commit())
        model.apply(_Narrow(), next(space for space in model.graph.infer.spaces if space.name == "conv"))
        assert model(batch(4)).shape == (5, 2, 4, 4)
    finally:
        del LOWERINGS["sized"], ops._objects["sized"], loaded["sized"]
