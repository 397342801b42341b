"""Sums and ReLUs are computed over what nobody needs any more; nothing that anybody sees is different."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nasir.backends.torch import Model
from nasir.ir import Draft, Graph
from tests.networks import small_resnet


def residual(branch: str = "batch_norm", sides: str = "branch first", tail: str = "relu") -> Graph:
    """A stem, and a sum of it and a branch that ends in `branch`."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 8, 8])
    stem = draft.add("relu", draft.add("conv2d", x, "stem", out=4, kernel=3, padding=1), "stem_relu")
    y = draft.add("conv2d", stem, "conv", out=4, kernel=3, padding=1)
    y = draft.add(branch, y, "last")
    inputs = {"branch first": [y, stem], "branch last": [stem, y], "twice": [y, y]}.get(sides, [y, stem])
    if sides == "three":
        inputs.append(draft.add("conv2d", x, "side", out=4, kernel=1))
    if sides == "read elsewhere":
        inputs.append(draft.add("relu", y, "other"))
    total = draft.add("add", inputs, "sum")
    z = total if tail == "none" else draft.add(tail, total, "out")
    draft.output(draft.add("linear", draft.add("global_avg_pool", z, "pool"), "fc", out=5))
    return draft.commit()


def overwritten(graph: Graph) -> set[str]:
    """Labels of the nodes that a lowered network computes over their first input."""
    return {graph.nodes[node_id].label for node_id in Model.from_graph(graph, seed=0)._inplace}


@pytest.mark.parametrize(
    ("graph", "over"),
    [
        (residual(), {"stem_relu", "sum", "out"}),
        (residual(sides="three"), {"stem_relu", "sum", "out"}),
        (residual(sides="branch last"), {"stem_relu", "out"}),
        (residual(sides="twice"), {"stem_relu", "out"}),
        (residual(sides="read elsewhere"), {"stem_relu", "out"}),
        (residual("relu"), {"stem_relu", "last", "out"}),
        (residual("sigmoid"), {"stem_relu", "out"}),
        (residual(tail="none"), {"stem_relu", "sum"}),
    ],
)
def test_a_sum_is_computed_over_a_first_input_that_nobody_else_needs(graph: Graph, over: set[str]) -> None:
    assert overwritten(graph) == over


def test_a_sum_that_is_larger_than_its_first_input_takes_new_memory() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 8, 8])
    small = draft.add("conv2d", x, "conv", out=1, kernel=1)
    draft.output(draft.add("add", (small, x), "sum"))
    assert "sum" not in overwritten(draft.commit())


def test_an_output_of_the_network_is_not_overwritten() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 8, 8])
    y = draft.add("conv2d", x, "conv", out=3, kernel=1)
    draft.output(draft.add("add", (y, x), "sum"))
    draft.output(y)
    assert overwritten(draft.commit()) == set()


@pytest.mark.parametrize("sides", ["branch first", "three"])
def test_outputs_and_gradients_are_those_of_sums_in_new_memory(sides: str) -> None:
    graph = residual(sides=sides)
    model = Model.from_graph(graph, seed=1).double()
    given = torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    twin = copy.deepcopy(model)
    results = []
    for network, run in ((model, model), (twin, lambda x: by_hand(twin, x, sides))):
        y = run(given)
        y.square().sum().backward()
        results.append((y, [parameter.grad for parameter in network.parameters()], dict(network.named_buffers())))
    (y, grads, buffers), (other, others, its) = results
    assert torch.equal(y, other)
    for one, two in zip([*grads, *buffers.values()], [*others, *its.values()], strict=True):
        assert one is not None and two is not None and torch.equal(one, two)


def by_hand(model: nn.Module, x: Tensor, sides: str) -> Tensor:
    layers = dict(model.named_modules())
    stem = torch.relu(layers["stem"](x))
    total = layers["last"](layers["conv"](stem)) + stem
    if sides == "three":
        total = total + layers["side"](x)
    y: Tensor = layers["fc"](torch.relu(total).mean((2, 3)))
    return y


def test_under_autocast_the_sum_has_the_type_of_a_sum() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 8, 8])
    draft.output(draft.add("add", (draft.add("conv2d", x, "conv", out=3, kernel=1), x), "sum"))
    graph = draft.commit()
    assert overwritten(graph) == {"sum"}
    model = Model.from_graph(graph, seed=0)
    given = torch.randn(2, 3, 8, 8)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        branch = dict(model.named_modules())["conv"](given)
        assert branch.dtype == torch.bfloat16
        expected = branch + given
        got = model(given)
    assert got.dtype == expected.dtype == torch.float32 and torch.equal(got, expected)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_layer_that_gives_back_what_it_reads_is_not_written_over(training: bool, mode: Callable[[], Any]) -> None:
    draft = Draft()
    x = draft.add("conv2d", draft.add("input", (), "x", shape=[3, 8, 8]), "stem", out=4, kernel=1)
    total = draft.add("add", (draft.add("batch_norm", x, "last"), x), "sum")
    bent = draft.add("relu", draft.add("batch_norm", x, "first"), "bent")
    draft.output(draft.add("add", (draft.add("add", (x, total), "both"), bent), "all"))
    model = Model.from_graph(draft.commit(), seed=0).train(training)
    assert {"sum", "bent"} <= {model.graph.nodes[node_id].label for node_id in model._inplace}
    model.last, model.first = nn.Identity(), View()
    given = torch.randn(2, 3, 8, 8)
    with mode():
        stem = model.stem(given)
        assert torch.equal(model(given), stem + (stem + stem) + torch.relu(stem))


class View(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view_as(x)


def test_what_a_hook_keeps_of_a_layer_or_block_stays_as_it_was() -> None:
    model = Model.from_graph(small_resnet(), seed=0)
    kept: dict[str, Tensor] = {}
    copies: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            kept[name], copies[name] = output, output.clone()

        return hook

    given = torch.randn(2, 3, 8, 8)
    without = copy.deepcopy(model)(given)
    layers = {name: module for name, module in model.named_modules() if not module._modules}
    for name, module in {**layers, **model.units}.items():
        module.register_forward_hook(keep(name))
    assert torch.equal(model(given), without)
    assert len(kept) > 10
    for name, value in kept.items():
        assert torch.equal(value, copies[name]), name


def test_a_backward_hook_of_a_layer_that_a_sum_follows_runs() -> None:
    model = Model.from_graph(residual(), seed=0)
    seen: list[Tensor] = []
    model.last.register_full_backward_hook(lambda module, given, made: seen.append(made[0]))
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    assert seen[0].shape == (2, 4, 8, 8)
