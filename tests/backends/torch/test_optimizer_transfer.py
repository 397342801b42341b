"""Optimizer state across rewrites: moments map as gradients do, groups follow tags, names stay right (float64)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from grown import images, lived, pyramid
from networks import small_resnet
from torch.nn import functional

from nasir.backends.torch import Model
from nasir.backends.torch.optimizers.groups import build_optimizer, decays
from nasir.ir import Atom, Draft, Graph
from nasir.passes.insert_block import InsertBlock
from nasir.passes.remove_block import RemoveBlock
from nasir.testing.backend_contract import Resize
from nasir.training.plans import OptimizerPlan

pytestmark = pytest.mark.usefixtures("kernels")

OPTIMIZERS = {
    "nesterov": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True),
    "adam": lambda p, lr: torch.optim.Adam(p, lr=lr, amsgrad=True),
    "adamw": lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.0),
}
FIRST, SECOND = ("momentum_buffer", "exp_avg"), ("exp_avg_sq", "max_exp_avg_sq")


def space(graph: Graph, name: str) -> Atom:
    return next(atom for atom in graph.infer.spaces if atom.name == name)


def backward(model: Model, seed: int = 0) -> None:
    model.zero_grad()
    x = images(6, 8, seed, dtype=torch.float64)
    functional.cross_entropy(model.train()(x), torch.arange(6) % 3).backward()


def buffers(optimizer: torch.optim.Optimizer, parameter: torch.Tensor, names: Iterable[str]) -> dict[str, torch.Tensor]:
    return {name: optimizer.state[parameter][name] for name in names if name in optimizer.state[parameter]}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("name", ["conv1", "s1.0.conv1", "s2.0.conv2"])
def test_moments_of_a_widened_net_are_those_its_own_gradients_would_have_made(kind: str, name: str) -> None:
    """Equal replicas: a gradient at the wide net is the mapped gradient of the narrow one, so moments are too."""
    model = lived(small_resnet(), dtype=torch.float64)
    optimizer = OPTIMIZERS[kind](model.parameters(), 0.0)  # at rate 0 the state fills and the weights stay
    backward(model)
    optimizer.step()
    size = space(model.graph, name).size
    model.apply(Resize((*range(size), 0, 0, 1)), space(model.graph, name), optimizers=[optimizer])
    fresh = OPTIMIZERS[kind](model.parameters(), 0.0)
    backward(model)
    fresh.step()
    for label, parameter in model.named_parameters():
        wanted = buffers(fresh, parameter, FIRST + SECOND)
        for key, moment in buffers(optimizer, parameter, FIRST + SECOND).items():
            error = float((moment - wanted[key]).abs().max() / wanted[key].abs().max())
            assert error < 1e-9, (label, key, error)


@pytest.mark.parametrize("index", [(0, 2), (2, 2, 1, 0), (0, 0, 0, 3), (1, -1, 1, 2, -1), (3, 3)])
def test_first_moments_map_by_the_pseudo_inverse_transpose_and_second_ones_by_its_square(index: Any) -> None:
    model = lived(small_resnet(), dtype=torch.float64)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    backward(model)
    optimizer.step()
    gather = np.array([[float(old == i) for i in range(4)] for old in index])
    shares = gather / np.maximum(gather.sum(0, keepdims=True), 1.0)  # readers of replicas share the weight
    before = {
        name: {key: t.clone().numpy() for key, t in optimizer.state[p].items()} for name, p in model.named_parameters()
    }
    model.apply(Resize(index), space(model.graph, "s1.0.conv1"), optimizers=[optimizer])
    holes = np.array(index) < 0
    for label, axis, matrix in (
        ("s1.0.conv1.weight", 0, gather),
        ("s1.0.bn1.weight", 0, gather),
        ("s1.0.bn1.bias", 0, gather),
        ("s1.0.conv2.weight", 1, shares),
    ):
        state = optimizer.state[dict(model.named_parameters())[label]]
        mapping = np.linalg.pinv(matrix).T
        first = np.moveaxis(np.tensordot(mapping, before[label]["exp_avg"], (1, axis)), 0, axis)
        second = np.moveaxis(np.tensordot(mapping**2, before[label]["exp_avg_sq"], (1, axis)), 0, axis)
        np.moveaxis(second, axis, 0)[holes] = before[label]["exp_avg_sq"].mean()
        assert abs(state["exp_avg"].numpy() - first).max() <= 1e-12 * abs(first).max(), label
        assert abs(state["exp_avg_sq"].numpy() - second).max() <= 1e-12 * abs(second).max(), label
        assert int(state["step"]) == 1


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_fresh_units_of_an_old_tensor_begin_with_small_steps(kind: str) -> None:
    """A tenth of the rate; with a second moment of zero beside a large step count it would be 3.15 times the rate."""
    lr, gradient, steps = 1e-3, 0.02, 5000
    model = lived(small_resnet(), dtype=torch.float64)
    optimizer = OPTIMIZERS[kind](model.parameters(), lr)
    backward(model)
    optimizer.step()
    for parameter in model.parameters():  # as after a long time with gradients of one size and changing sign
        state = optimizer.state[parameter]
        state["step"].fill_(steps)
        state["exp_avg"].zero_()
        for key in set(state) & set(SECOND):
            state[key].fill_(gradient**2)
    model.apply(Resize((0, 1, 2, 3, -1, -1)), space(model.graph, "s1.0.conv1"), optimizers=[optimizer])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()
    for label, axis in (("s1.0.conv1.weight", 0), ("s1.0.bn1.weight", 0), ("s1.0.conv2.weight", 1)):
        moved = (dict(model.named_parameters())[label] - before[label]).abs().detach().movedim(axis, 0)
        naive = 0.1 / (0.001**0.5)  # what a zero second moment would give
        assert float((moved[4:] / lr - 0.1).abs().max()) < 0.001, label
        assert naive > 3.1
        assert torch.allclose(moved[4:].max(), moved[:4].max(), rtol=1e-6), label


def test_pruned_parameters_keep_the_rows_of_their_units_and_go_on() -> None:
    model = lived(small_resnet(), dtype=torch.float64)
    optimizer = OPTIMIZERS["nesterov"](model.parameters(), 0.01)
    for seed in range(3):
        backward(model, seed)
        optimizer.step()
    old = {name: optimizer.state[p]["momentum_buffer"].clone() for name, p in model.named_parameters()}
    model.apply(Resize((3, 1)), space(model.graph, "s1.0.conv1"), optimizers=[optimizer])
    new = {name: optimizer.state[p]["momentum_buffer"] for name, p in model.named_parameters()}
    assert torch.equal(new["s1.0.conv1.weight"], old["s1.0.conv1.weight"][[3, 1]])
    assert torch.equal(new["s1.0.bn1.bias"], old["s1.0.bn1.bias"][[3, 1]])
    assert torch.equal(new["s1.0.conv2.weight"], old["s1.0.conv2.weight"][:, [3, 1]])
    assert len(optimizer.state) == len(list(model.parameters()))
    backward(model, 3)
    optimizer.step()


def test_moments_of_channels_last_weights_are_channels_last() -> None:
    model = lived(small_resnet())
    model.use_channels_last()
    optimizer = torch.optim.Adam(model.parameters())
    functional.cross_entropy(model(images(6, 8)), torch.arange(6) % 3).backward()
    optimizer.step()
    model.apply(Resize((0, 1, 1, 2, 3)), space(model.graph, "s1.0.conv1"), optimizers=[optimizer])
    for label in ("s1.0.conv1.weight", "s1.0.conv2.weight"):
        parameter = dict(model.named_parameters())[label]
        for tensor in (parameter, optimizer.state[parameter]["exp_avg"], optimizer.state[parameter]["exp_avg_sq"]):
            assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_frozen_parameters_stay_frozen_when_they_are_resized() -> None:
    model = lived(small_resnet())
    model.get_parameter("s1.0.conv1.weight").requires_grad_(False)
    model.apply(Resize((0, 1)), space(model.graph, "s1.0.conv1"))
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"s1.0.conv1.weight"}


# -- groups


def tagged(model: Model) -> list[tuple[str, torch.nn.Parameter, frozenset[str]]]:
    slots = model.graph.infer.slots
    parameters = dict(model.named_parameters())
    return [(n, parameters[n], slots[k.node][k.slot].tags) for n, k in model.keys().items() if n in parameters]


def check_groups(model: Model, optimizer: torch.optim.Optimizer, plan: OptimizerPlan) -> None:
    """Every parameter is in the group its tags ask for, once, under its own name."""
    wanted = {name: "decay" if decays(tags, plan) else "no_decay" for name, _, tags in tagged(model)}
    names = {id(parameter): name for name, parameter, _ in tagged(model)}
    group_of: dict[str, str] = {}
    for group in optimizer.param_groups:
        assert [names[id(parameter)] for parameter in group["params"]] == group["param_names"]
        for name in group["param_names"]:
            assert name not in group_of, f"{name} is held twice"
            group_of[name] = group["name"]
    assert group_of == wanted


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("block", ["basic", "preact_basic"])
def test_new_parameters_join_the_group_of_their_tags(block: str, norms: bool, biases: bool) -> None:
    plan = OptimizerPlan("adamw", lr=1e-3, weight_decay=0.1, decay_norms=norms, decay_biases=biases)
    model = lived(pyramid((1, 1), 4, block=block, options="branch_scale: skipinit", size=8))
    optimizer = build_optimizer(tagged(model), plan)
    check_groups(model, optimizer, plan)
    model.apply(InsertBlock(init="zero"), "s1", optimizers=[optimizer])
    check_groups(model, optimizer, plan)
    model.apply(InsertBlock(init="default", block={"block": "basic", "options": {"norm": "none"}}), "s2")
    names = {name for group in optimizer.param_groups for name in group["param_names"]}
    assert "s1.1.scale.weight" in names and not any(name.startswith("s2.1.") for name in names)


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("biases", [True, False])
def test_tags_that_the_network_never_had_find_their_group_too(norms: bool, biases: bool) -> None:
    plan = OptimizerPlan("sgd", lr=1e-3, weight_decay=0.1, decay_norms=norms, decay_biases=biases)
    draft = Draft()
    x = draft.add("conv2d", draft.add("input", (), "x", shape=[3, 8, 8]), "s1.0.conv", out=4, kernel=3, padding=1)
    draft.region("s1", "stage")
    draft.region("s1.0", "block")
    draft.output(draft.add("global_avg_pool", x, "pool"))
    model = Model.from_graph(draft.commit())  # one weight: no norm, no bias, no scale
    optimizer = build_optimizer(tagged(model), plan)
    for block in ({"block": "preact_basic", "options": {"branch_scale": "skipinit"}}, {"block": "resbuilder"}):
        model.apply(InsertBlock(init="default", block=block), "s1", optimizers=[optimizer])
        check_groups(model, optimizer, plan)


def test_names_and_groups_follow_through_resizes_and_removals() -> None:
    plan = OptimizerPlan("adam", lr=1e-3, weight_decay=0.1, decay_norms=False)
    model = lived(small_resnet((2, 2)), dtype=torch.float64)
    optimizer = build_optimizer(tagged(model), plan)
    backward(model)
    optimizer.step()
    identity = id(optimizer)
    model.apply(InsertBlock(init="gaussian"), "s1.0", optimizers=[optimizer])
    model.apply(Resize((0, 1, 1, 3, -1)), space(model.graph, "s1.0.conv1"), optimizers=[optimizer])
    model.apply(RemoveBlock(), "s1.1", optimizers=[optimizer])
    assert id(optimizer) == identity
    check_groups(model, optimizer, plan)
    live = {id(p) for p in model.parameters()}
    assert {id(p) for p in optimizer.state} <= live
    fresh = {name for name, p in model.named_parameters() if p not in optimizer.state}
    assert fresh and all(name.startswith("s1.2.") for name in fresh)
    backward(model)
    optimizer.step()


def test_parameters_of_another_model_are_left_alone() -> None:
    model, other = lived(small_resnet()), lived(small_resnet())
    optimizer = torch.optim.SGD([*model.parameters(), *other.parameters()], lr=0.1, momentum=0.9)
    for net in (model, other):
        net(images(6, 8)).square().mean().backward()
    optimizer.step()
    kept = [optimizer.state[p]["momentum_buffer"] for p in other.parameters()]
    model.apply(InsertBlock(init="zero"), "s2", optimizers=[optimizer])
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for net in (model, other) for p in net.parameters()}
    assert all(optimizer.state[p]["momentum_buffer"] is b for p, b in zip(other.parameters(), kept, strict=True))


def test_parameters_that_the_optimizer_did_not_hold_stay_outside() -> None:
    model = lived(small_resnet())
    chosen = [p for name, p in model.named_parameters() if name.startswith("fc.")]
    optimizer = torch.optim.SGD(chosen, lr=0.1, momentum=0.9)
    model.apply(Resize((0, 1)), space(model.graph, "s1.0.conv1"), optimizers=[optimizer])
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in chosen]


def test_of_two_optimizers_the_nearest_one_gets_the_new_parameters() -> None:
    model = Model.from_graph(pyramid((1, 1), 4, size=8, classes=3))
    named = dict(model.named_parameters())
    parts = [[p for name, p in named.items() if name.startswith("s1.") is mine] for mine in (False, True)]
    rest, stage = (torch.optim.SGD(part, lr=0.1) for part in parts)
    model.apply(InsertBlock(init="zero"), "s1", optimizers=[rest, stage])
    model.apply(InsertBlock(init="zero"), "s2", optimizers=[rest, stage, rest])
    held = [{id(p) for group in o.param_groups for p in group["params"]} for o in (rest, stage)]
    for name, parameter in model.named_parameters():
        assert [id(parameter) in ids for ids in held] == [not name.startswith("s1."), name.startswith("s1.")], name
    assert sum(len(group["params"]) for o in (rest, stage) for group in o.param_groups) == len(list(model.parameters()))
