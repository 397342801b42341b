"""Modules of users as models: the same numbers, the same parameters, and rewrites while their optimizer goes on."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nasir
from nasir.backends.torch import Model, from_module
from nasir.errors import NasirError, UsageError
from nasir.passes.prune_channels import PruneChannels
from nasir.passes.remove_block import RemoveBlock

torchvision = pytest.importorskip("torchvision")
SIDE = 32


class Own(nn.Module):
    """Code as people write it: functions with parameters, a gate, a layer called twice, a sum that has no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 3, 3, 3) * 0.2)
        self.first = nn.Conv2d(8, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.again = nn.Conv2d(12, 12, 3, padding=1, groups=4)
        self.squeeze, self.excite = nn.Linear(12, 4), nn.Linear(4, 12)
        self.drop = 0.1
        self.fc = nn.Linear(12, 5)
        self.register_buffer("shift", torch.randn(12))

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(F.conv2d(x, self.w, padding=1), 0.1)
        x = F.relu_(self.norm(self.first(x)))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        x = x * gate[:, :, None, None]
        x = x + self.again(F.relu(self.again(x)))
        x = F.adaptive_avg_pool2d(x.cumsum(3), 1).flatten(1) - self.shift
        return self.fc(F.dropout(x, self.drop, self.training))  # type: ignore[no-any-return]


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = Own() if name == "own" else getattr(torchvision.models, name)()
    return made


def images(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


NAMES = ["resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "own"]


@pytest.mark.parametrize("name", NAMES)
def test_it_computes_what_the_module_does(name: str) -> None:
    """At another batch size: in evaluation, in training with equal seeds, its gradients and running statistics."""
    net = network(name)
    own = copy.deepcopy(net)
    model = from_module(net, images(2))
    assert {id(p) for p in model.parameters()} == {id(p) for p in net.parameters()}
    x = images(5)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), own.eval()(x))
    torch.manual_seed(3)
    wanted = own.train()(x)
    wanted.square().sum().backward()
    torch.manual_seed(3)
    given = model.train()(x)
    given.square().sum().backward()
    assert torch.equal(given, wanted)
    theirs = dict(own.named_parameters())
    for key, parameter in net.named_parameters():
        assert torch.equal(parameter.grad, theirs[key].grad), key  # type: ignore[arg-type]
    for key, buffer in own.named_buffers():
        assert torch.equal(net.get_buffer(key), buffer), key


def test_names_and_costs_are_those_of_the_module() -> None:
    net = network("resnet18")
    model = from_module(net, images(2))
    assert model.state_dict().keys() == net.state_dict().keys()
    assert model.graph.cost().params == sum(p.numel() for p in net.parameters())
    assert {path: count for path, count in model.graph.depths().items()} == {f"layer{n}": 2 for n in (1, 2, 3, 4)}
    assert not [node for node in model.graph.nodes.values() if node.facts.family == "opaque"]


def test_the_module_is_left_as_it_was() -> None:
    net = network("own").eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    torch.manual_seed(5)
    from_module(net, images(2))
    state = torch.random.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(state, torch.random.get_rng_state())
    assert not net.training and all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_silent_channels_go_without_a_change() -> None:
    """The oracle of pruning: zero in the user's own network, gone in the model."""
    net = network("resnet18").double().eval()
    conv, norm = net.layer2[0].conv1, net.layer2[0].bn1  # type: ignore[index, union-attr]
    with torch.no_grad():
        for tensor in (conv.weight, norm.weight, norm.bias):
            tensor[::2] = 0.0  # type: ignore[index, operator]
    model = from_module(net, images(2).double())
    wanted = net(images(3).double())
    space = model.graph.infer.slots[model.graph.find("layer2.0.conv1")]["weight"].axes[0].space
    rewrite = model.apply(PruneChannels(score="norm_scale", threshold=0.0), space)  # type: ignore[arg-type]
    assert rewrite is not None and rewrite.preserves == "exact"
    assert model.get_submodule("layer2.0.conv1").weight.shape[0] == 64
    assert abs(model(images(3).double()) - wanted).max() < 1e-12


def test_training_goes_on_with_the_optimizer_that_was_there() -> None:
    net = network("resnet18").train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    model = from_module(net, images(2))

    def step(module: nn.Module, seed: int) -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(module(images(4, seed)), torch.arange(4))
        loss.backward()
        optimizer.step()

    step(net, 1)
    step(model, 2)  # one set of parameters
    moment = optimizer.state[net.fc.weight]["exp_avg"]  # type: ignore[index, union-attr]
    model.apply(PruneChannels(fraction=0.5), "network", optimizers=[optimizer])
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in model.parameters()}
    fc = model.get_submodule("fc")
    assert optimizer.state[fc.weight]["exp_avg"].shape == (1000, 256) and moment.shape == (1000, 512)
    assert sum(p.numel() for p in model.parameters()) < 0.5 * sum(p.numel() for p in net.parameters())
    model.apply(RemoveBlock(), "layer3.1", optimizers=[optimizer])
    assert model.graph.depths()["layer3"] == 1
    before = fc.weight.detach().clone()
    step(model, 3)
    assert not torch.equal(before, model.get_submodule("fc").weight)


def test_a_block_that_is_removed_is_what_the_identity_is() -> None:
    net = network("resnet18").eval()
    model = from_module(net, images(2))
    model.apply(RemoveBlock(), "layer2.1")
    net.layer2[1] = nn.Identity()  # type: ignore[index, union-attr, operator]
    assert torch.equal(model(images(3)), net(images(3)))


def test_a_layer_called_twice_is_one_array() -> None:
    net = network("own")
    model = from_module(net, images(2))
    graph = model.graph
    first, second = (node for node, made in graph.nodes.items() if made.label.startswith("again"))
    assert graph.infer.borrowed[second].keys() == {"weight", "bias"} and first in graph.sharing
    assert graph.cost().params == sum(p.numel() for p in net.parameters())


def test_what_has_no_rule_runs_as_it_is_and_pins_what_it_touches() -> None:
    model = from_module(network("own"), images(2))
    pins = [atom.pin or "" for atom in model.graph.infer.spaces]
    assert any("which has no rule of how it can be resized" in pin for pin in pins)
    free = next(atom for atom in model.graph.infer.spaces if atom.name == "squeeze")
    x = images(3)
    draft = model.graph.draft()
    draft.select(free, np.arange(4))
    assert draft.commit() == model.graph
    rewrite = model.apply(PruneChannels(fraction=0.5), free)
    assert rewrite is not None and model.get_submodule("squeeze").weight.shape[0] == 2
    assert torch.isfinite(model(x)).all()


class Step(nn.Module):
    """A block whose shortcut may hold something that has no rule, under the same name."""

    def __init__(self, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv, self.shortcut = nn.Conv2d(3, 3, 3, padding=1), shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.shortcut(x)  # type: ignore[no-any-return]


def test_blocks_with_and_without_an_opaque_node_are_two_kinds_of_code() -> None:
    net = nn.Sequential(Step(nn.Identity()), Step(nn.AlphaDropout(0.2)), Step(nn.Identity())).eval()
    model = from_module(net, images(2))
    assert [node.label for node in model.graph.nodes.values() if node.facts.family == "opaque"] == ["1.shortcut"]
    x = images(3)
    assert torch.equal(model(x), net(x))


@pytest.mark.slow
def test_copies_go_their_own_way_and_files_say_what_they_cannot_hold(tmp_path: Path) -> None:
    model = from_module(network("own"), images(2)).eval()
    other = copy.deepcopy(model)
    x = images(3)
    wanted = model(x)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(model(x), wanted) and not torch.equal(other(x), wanted)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), wanted)
    nasir.save(tmp_path / "own.nasir", model)  # functions of torch are data
    loaded: Any = nasir.load(tmp_path / "own.nasir").model
    assert torch.equal(loaded.eval()(x), wanted)

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.flatten(2).transpose(1, 2))[0][:, -1]  # type: ignore[no-any-return]

    odd = from_module(Odd(), images(2))
    with pytest.raises(UsageError, match=r"'inner'.*LSTM.*torch.save"):
        nasir.save(tmp_path / "odd.nasir", odd)


@pytest.mark.parametrize(
    ("forward", "text"),
    [
        (lambda x: x.mean((1, 2, 3)) if x.sum() > 0 else x.sum((1, 2, 3)), "test_from_module"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_its_place(forward: Any, text: str) -> None:
    class Given(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return forward(x)

    with pytest.raises(NasirError, match=text):
        from_module(Given(), images(2))


def test_functions_of_files_are_those_of_torch_that_compute(tmp_path: Path) -> None:
    """A stored network cannot have other code run."""
    model = from_module(network("own"), images(2))
    node = next(n for n in model.graph.nodes.values() if n.facts.family == "opaque")
    data = model.graph.to_json()
    for row in data["nodes"]:
        if row[4] == node.label:
            row[3]["call"] = row[3]["call"].replace(f'"{node.attrs["runs"]}"', '"os.system"')
    with pytest.raises(NasirError, match=r"os.system: no function of torch that computes with tensors"):
        Model.from_graph(nasir.Graph.from_json(data))
