"""Keys of an imported network's state_dict: just those of the user's module, both ways, through rewrites and files."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nasir
from nasir import Graph
from nasir.backends.torch import Model, from_module
from nasir.backends.torch.weights import checkpoint
from nasir.backends.torch.weights.exporters import Weights
from nasir.errors import GraphError, TextFormatError
from nasir.ir import Draft, parse
from nasir.passes.prune_channels import PruneChannels
from nasir.training.exporter import Exportable
from nasir.transfer import Key


class Rooted(nn.Module):
    """Weights at the root, one of them used twice, a scale, buffers with and without a place in the file."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.rand(6, 3, 3, 3))
        self.b = nn.Parameter(torch.rand(6))
        self.scale = nn.Parameter(torch.rand(6, 1, 1))
        self.head = nn.Linear(6, 4)
        self.inner = nn.ModuleDict({"deep": nn.ParameterList([torch.rand(4)])})
        self.register_buffer("shift", torch.rand(4))
        self.register_buffer("passing", torch.rand(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(F.conv2d(x, self.w, self.b)) * self.scale + F.conv2d(x.flip(3), self.w)
        return self.head(y.mean((2, 3))) * self.inner["deep"][0] + self.shift + self.passing  # type: ignore[index]


class Twice(nn.Module):
    """A layer called twice, and under two names; two layers with one weight; a table used by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.layers = nn.ModuleList([self.conv])
        self.one, self.other = nn.Linear(3, 4), nn.Linear(3, 4)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](F.relu(self.conv(x))).mean((2, 3))
        return self.one(x) + self.other(x) + F.linear(x, self.one.weight)  # type: ignore[no-any-return]


def alone() -> nn.Module:
    """The module itself is the layer."""
    return nn.Conv2d(3, 4, 1)


MODULES: list[Callable[[], nn.Module]] = [Rooted, Twice, alone]


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(count))


def numbers(tensors: dict[str, Any]) -> dict[str, Any]:
    return {key: tensor.clone() for key, tensor in tensors.items()}


@pytest.mark.parametrize("kind", MODULES)
def test_state_dicts_are_the_users_both_ways(kind: Callable[[], nn.Module]) -> None:
    net = kind().eval()
    model = from_module(net, images(2))
    state = model.state_dict()
    assert state.keys() == net.state_dict().keys()
    assert all(torch.equal(tensor, net.state_dict()[key]) for key, tensor in state.items())

    other = kind().eval()  # whose numbers differ
    wanted = numbers(dict(other.state_dict()))
    assert str(model.load_state_dict(other.state_dict())) == "<All keys matched successfully>"
    assert all(
        torch.equal(tensor, wanted[key]) for key, tensor in net.state_dict().items()
    )  # they are the same tensors
    fresh = kind().eval()
    fresh.load_state_dict(model.state_dict())
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in fresh.state_dict().items())

    outer = nn.Sequential(model)
    assert outer.state_dict().keys() == {f"0.{key}" for key in net.state_dict()}
    outer.load_state_dict({f"0.{key}": 2 * tensor for key, tensor in wanted.items()})
    assert all(torch.equal(tensor, 2 * wanted[key]) for key, tensor in net.state_dict().items())


class Awkward(nn.Module):
    """Names that a model has for something else."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.graph = nn.Linear(4, 4), nn.Linear(4, 4)
        self.units = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(2)])
        self.seed, self.code = nn.Parameter(torch.rand(4)), nn.Parameter(torch.rand(3, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.graph(self.keys(x)) * self.seed
        for unit in self.units:
            x = x + unit(x)
        return F.linear(x, self.code)


def test_names_that_a_model_has_for_something_else_are_kept() -> None:
    net = Awkward()
    model = from_module(net, torch.rand(2, 4))
    assert model.state_dict().keys() == net.state_dict().keys()
    assert torch.equal(model(torch.ones(3, 4)), net(torch.ones(3, 4)))
    model.load_state_dict(net.state_dict())
    assert {"keys_", "graph_", "seed_", "units_.0.0"} <= model.graph.labels.keys()
    assert model.graph.infer.slots[model.graph.find("keys_")].keys() == {"weight", "bias"}


def test_what_is_missing_or_does_not_fit_is_told_by_its_name() -> None:
    model = from_module(Rooted(), images(2))
    state = dict(model.state_dict())
    before = numbers(state)
    del state["scale"]
    told = model.load_state_dict({**state, "scales": torch.ones(6)}, strict=False)
    assert (told.missing_keys, told.unexpected_keys) == (["scale"], ["scales"])
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "scale"'):
        model.load_state_dict(state)
    with pytest.raises(
        RuntimeError, match=r"size mismatch for w: \(6, 3, 1, 1\) is given, the network has \(6, 3, 3, 3\)"
    ):
        model.load_state_dict({**before, "w": torch.ones(6, 3, 1, 1)})
    assert torch.equal(model.state_dict()["scale"], before["scale"])


def test_names_go_through_rewrites() -> None:
    net = Rooted().eval()
    model = from_module(net, images(2))
    space = model.graph.infer.spaces[[s.resizable for s in model.graph.infer.spaces].index(True)]
    model.apply(PruneChannels(fraction=0.5), space)
    assert model.state_dict().keys() == net.state_dict().keys()
    assert model.state_dict()["w"].shape == (3, 3, 3, 3) and model.state_dict()["scale"].shape == (3, 1, 1)

    graph = from_module(Twice(), images(2)).graph
    first, second = (graph.find(label) for label in ("conv", "conv@1"))
    assert graph.names[Key(first, "weight")] == ("conv.weight", "layers.0.weight")
    draft = graph.draft()
    draft.rewire(draft.nodes[second].inputs[0], draft.nodes[first].inputs[0])  # the first call goes
    draft.remove([first, *(n for n, node in graph.nodes.items() if first in [port.node for port in node.inputs])])
    left = draft.commit()
    assert left.names[Key(second, "weight")] == ("conv.weight", "layers.0.weight")
    draft = left.draft()
    draft.set_attrs(second, bias=False)
    assert Key(second, "bias") not in draft.commit().names


@pytest.mark.parametrize("kind", MODULES)
def test_names_go_through_copies_and_files(kind: Callable[[], nn.Module], tmp_path: Path) -> None:
    net = kind().eval()
    model = from_module(net, images(2)).eval()
    graph, wanted = model.graph, model(images(3))
    assert graph.names and Graph.from_json(graph.to_json()) == graph == parse(graph.to_text())
    assert Graph.from_json(graph.to_json()).names == graph.names
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    nasir.save(tmp_path / "network.nasir", model)
    made: list[Model] = [
        copy.deepcopy(model),
        torch.load(buffer, weights_only=False),
        nasir.load(tmp_path / "network.nasir").model,
    ]
    for other in made:
        assert other.state_dict().keys() == net.state_dict().keys()
        assert torch.equal(other.eval()(images(3)), wanted)


@pytest.mark.parametrize("kind", MODULES)
def test_exported_weights_have_the_users_names(kind: Callable[[], nn.Module], tmp_path: Path) -> None:
    net = kind()
    model = from_module(net, images(2))
    checkpoint.save(tmp_path, 1, {"model": model.tensors()}, {})
    Weights().write(Exportable(model.graph, "it", checkpoints=tmp_path), tmp_path / "exported")
    exported = safetensors.torch.load_file(tmp_path / "exported")
    assert exported.keys() == net.state_dict().keys()
    net.load_state_dict(exported)


def test_names_are_no_part_of_an_architecture() -> None:
    graph = from_module(Rooted(), images(2)).graph
    draft = graph.draft()
    draft.names.clear()
    plain = draft.commit()
    assert plain.digest == graph.digest and plain != graph
    assert "names" not in plain.to_json() and not any(line.startswith("name ") for line in plain.to_text().splitlines())


def named(*names: str, slot: str = "weight") -> Draft:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[4])
    y = draft.add("linear", x, "fc", out=3)
    draft.name(Key(y.node, slot), *names)
    draft.output(y)
    return draft


def test_wrong_names_are_refused() -> None:
    assert named("a", "b").commit().weight_names.keys() == {"a", "b", "fc.bias"}
    with pytest.raises(GraphError, match=r"two weights are called 'fc\.bias'"):
        named("fc.bias").commit()
    with pytest.raises(GraphError, match="no node owns such a weight"):
        named().commit()
    with pytest.raises(GraphError, match="no node 7 to name a weight of"):
        named("a").name(Key(7, "weight"), "b")
    data = named("a").commit().to_json()
    for names, told in (
        ([[1, "weight", 3]], "and texts"),
        ([[1, "scale", "b"]], "no node owns such a weight"),
        (3, "malformed graph data"),
    ):
        with pytest.raises((TextFormatError, GraphError), match=told):
            Graph.from_json({**data, "names": names})
    text = named("a").commit().to_text()
    with pytest.raises(TextFormatError):
        parse(text.replace('["a"]', '["a"'))


def test_a_name_may_be_the_place_of_another_weight() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3])
    a = draft.add("linear", x, "a", out=3, bias=False)
    b = draft.add("linear", a, "b", out=3, bias=False)
    draft.name(Key(a.node, "weight"), "b.weight")
    draft.name(Key(b.node, "weight"), "a.weight")
    draft.output(b)
    model = Model.from_graph(draft.commit())
    state = numbers(model.state_dict())
    assert torch.equal(state["a.weight"], model.get_parameter("b.weight"))
    assert torch.equal(state["b.weight"], model.get_parameter("a.weight"))
    other = Model.from_graph(model.graph, seed=1)
    other.load_state_dict(state)
    assert all(torch.equal(p, model.get_parameter(name)) for name, p in other.named_parameters())
