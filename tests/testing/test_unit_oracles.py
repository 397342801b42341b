"""The oracles of units: torchvision's own networks against the spaces that nasir finds, and what they must notice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from nasir.backends.torch import Model
from nasir.backends.torch.importing import runner
from nasir.errors import NasirError
from nasir.ir import Draft, Graph
from nasir.ir.space import Atom
from nasir.spec import loads_spec
from nasir.spec.network import build
from nasir.testing import dead_unit_difference, permutation_difference, random_transformer, silenced, unit_axes
from nasir.testing.unit_oracles import Array, Run

ROUNDING = 1e-9  # outputs are of order 1, in double precision


def imported(model: str) -> Graph:
    return build(
        loads_spec(
            "nasir: 1\ninput: {image: [3, 32, 32]}\n"
            f"network: {{from: torchvision, model: {model}, classes: 5}}\n"
            "data: {dataset: synthetic}\nphases: [{name: train, epochs: 1, optimizer: {sgd: {lr: 0.1}}}]\n"
        )
    )


def lively(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and statistics of which no two are alike, in double precision."""
    torch.manual_seed(seed)
    for inner in module.modules():
        if isinstance(inner, nn.BatchNorm2d):
            nn.init.uniform_(inner.running_var, 0.5, 2.0)
            nn.init.normal_(inner.running_mean, 0.0, 0.2)
            nn.init.uniform_(inner.weight, 0.5, 1.0)
            nn.init.normal_(inner.bias, 0.0, 0.2)
    return module.double().eval()


def state_of(module: nn.Module) -> dict[str, Array]:
    return {key: tensor.detach().numpy().copy() for key, tensor in module.state_dict().items()}


@pytest.fixture(scope="module")
def resnet() -> tuple[Graph, Run, dict[str, Array]]:
    """The spaces by nasir; the network itself is torchvision's, and has never been near nasir."""
    module = lively(torchvision.models.resnet18(num_classes=5))
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    return imported("resnet18"), runner(module, (images,)), state_of(module)


@pytest.mark.slow
def test_units_of_every_space_of_resnet18_may_be_permuted(resnet: tuple[Graph, Run, dict[str, Array]]) -> None:
    graph, run, state = resnet
    spaces = [space for space in graph.infer.spaces if space.resizable]
    assert len(spaces) == 12
    for space in spaces:
        axes = unit_axes(graph, space)
        assert len(axes) > 4 and axes.keys() <= state.keys()
        assert permutation_difference(run, state, axes) < ROUNDING


def test_every_axis_that_is_left_out_is_noticed(resnet: tuple[Graph, Run, dict[str, Array]]) -> None:
    graph, run, state = resnet
    space = next(s for s in graph.infer.spaces if s.resizable and s.name == "layer1.0.conv1")
    axes = unit_axes(graph, space)
    assert set(axes) == {
        "layer1.0.conv1.weight",
        "layer1.0.bn1.weight",
        "layer1.0.bn1.bias",
        "layer1.0.bn1.running_mean",
        "layer1.0.bn1.running_var",
        "layer1.0.conv2.weight",
    }
    for key in axes:
        fewer = {other: where for other, where in axes.items() if other != key}
        assert permutation_difference(run, state, fewer) > 1e-4, key


def test_an_axis_too_many_is_noticed(resnet: tuple[Graph, Run, dict[str, Array]]) -> None:
    graph, run, state = resnet
    space = next(s for s in graph.infer.spaces if s.resizable and s.name == "layer1.0.conv1")
    axes = unit_axes(graph, space) | {"layer1.1.conv1.weight": {0: None}}
    assert permutation_difference(run, state, axes) > 1e-4


def test_plain_axes_are_enough_where_positions_are_units(resnet: tuple[Graph, Run, dict[str, Array]]) -> None:
    _, run, state = resnet
    axes = {f"layer1.0.bn1.{name}": 0 for name in ("weight", "bias", "running_mean", "running_var")}
    axes |= {"layer1.0.conv1.weight": 0, "layer1.0.conv2.weight": 1}
    assert permutation_difference(run, state, axes) < ROUNDING


def nasirs(graph: Graph, inputs: torch.Tensor) -> tuple[Model, Run, dict[str, Array]]:
    torch.manual_seed(0)
    model = lively(Model.from_graph(graph, seed=1))
    return model, runner(model, (inputs,)), state_of(model)  # type: ignore[return-value]


def test_units_may_be_permuted_where_axes_hold_several_spaces_and_products() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 4, 4])
    one = draft.add("conv2d", x, "one", out=4, kernel=1)
    two = draft.add("conv2d", x, "two", out=3, kernel=1)
    both = draft.add("batch_norm", draft.add("concat", (one, two), "both"), "norm")
    draft.output(draft.add("linear", draft.add("flatten", both, "flat"), "fc", out=5))
    graph = draft.commit()
    _, run, state = nasirs(graph, torch.randn(2, 3, 4, 4, dtype=torch.float64))
    for name in ("one", "two"):
        space = next(s for s in graph.infer.spaces if s.name == name)
        axes = unit_axes(graph, space)
        assert permutation_difference(run, state, axes) < ROUNDING
        for key in axes:
            fewer = {other: where for other, where in axes.items() if other != key}
            assert permutation_difference(run, state, fewer) > 1e-4, key


@pytest.mark.parametrize("seed", range(3))
def test_units_of_transformers_may_be_permuted(seed: int) -> None:
    graph = random_transformer(seed)
    shape = graph.nodes[graph.inputs[0]].attrs["shape"]
    _, run, state = nasirs(graph, torch.randn(2, *shape, dtype=torch.float64))
    spaces = [space for space in graph.infer.spaces if space.resizable and space.size > 1]
    assert spaces
    for space in spaces:
        assert permutation_difference(run, state, unit_axes(graph, space)) < ROUNDING, space


def without_units(graph: Graph, space: Atom, units: list[int]) -> Any:
    draft = Draft(graph)
    draft.select(space, [unit for unit in range(space.size) if unit not in units])
    return draft.commit()


def kept_state(state: dict[str, Array], axes: dict[str, Any], units: list[int]) -> dict[str, Array]:
    """What is left of the state once the units are cut out along the axes."""
    small = dict(state)
    for key, where in axes.items():
        for axis, labels in where.items():
            small[key] = np.delete(small[key], np.flatnonzero(np.isin(labels, units)), axis)
    return small


def test_a_pruned_network_is_the_original_with_silent_units() -> None:
    graph, units = imported("resnet18"), [0, 3, 7]
    space = next(s for s in graph.infer.spaces if s.resizable and s.name == "layer1.0.conv1")
    module = lively(torchvision.models.resnet18(num_classes=5))
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    state, run = state_of(module), runner(module, (images,))
    small = Model.from_graph(without_units(graph, space, units), seed=1).double().eval()
    small.load_state_dict({k: torch.as_tensor(v) for k, v in kept_state(state, unit_axes(graph, space), units).items()})
    pruned = [small(images).detach().numpy()]
    writers = unit_axes(graph, space, ("write", "along"))
    assert "layer1.0.conv2.weight" not in writers
    assert dead_unit_difference(run, state, writers, units, pruned) < ROUNDING
    assert dead_unit_difference(run, state, writers, [0, 3, 8], pruned) > 1e-4  # others than were pruned
    fewer = {key: where for key, where in writers.items() if key != "layer1.0.bn1.bias"}
    assert dead_unit_difference(run, state, fewer, units, pruned) > 1e-4


def test_silenced_leaves_the_state_that_it_is_given() -> None:
    state = {"w": np.ones((3, 2)), "b": np.ones(3), "other": np.ones(2)}
    quiet = silenced(state, {"w": 0, "b": 0}, [1])
    assert quiet["w"].tolist() == [[1, 1], [0, 0], [1, 1]] and quiet["b"].tolist() == [1, 0, 1]
    assert state["w"].all() and quiet["other"] is state["other"]


@pytest.mark.parametrize(
    ("axes", "told"),
    [
        ({}, "no axes"),
        ({"v": 0}, "no 'v' in the state"),
        ({"w": 2}, r"'w' of shape \(4, 3\) has no axis 2"),
        ({"w": 0, "b": 0}, "4 along axis 0 of 'w', 3 along axis 0 of 'b'"),
        ({"w": {0: [0, 0, 1]}}, "has length 4, and 3 labels"),
        ({"w": {0: [0, 0, 1, -1]}}, "different numbers of positions"),
        ({"w": {0: [0, 0, 0, 0]}}, "one unit"),
    ],
)
def test_wrong_axes_are_refused(axes: Any, told: str) -> None:
    state = {"w": np.ones((4, 3)), "b": np.ones(3)}
    with pytest.raises(NasirError, match=told):
        permutation_difference(lambda arrays: [arrays["w"]], state, axes)


def test_a_unit_that_does_not_exist_is_refused() -> None:
    with pytest.raises(NasirError, match="unit 4 of 4"):
        silenced({"w": np.ones((4, 3))}, {"w": 0}, [4])


def test_outputs_of_another_form_are_infinitely_far() -> None:
    state = {"w": np.ones((4, 3))}
    assert dead_unit_difference(lambda s: [s["w"]], state, {"w": 0}, [0], [np.ones((3, 3))]) == float("inf")
