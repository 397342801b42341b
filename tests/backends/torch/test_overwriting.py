"""ReLUs, and sums as the user's module has them, are computed over what nobody needs any more; nothing else differs."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nasir
from nasir.backends.torch import Model
from nasir.backends.torch.lower.ops import add_all, add_to
from nasir.backends.torch.lower.overwriting import overwriting
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
    """Labels of the nodes that may be computed over their first input, if a module does so wherever it can."""
    return {graph.nodes[node_id].label for node_id in overwriting(graph, graph.order, frozenset(graph.order))}


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


class Residual(nn.Module):
    """A sum of a stem and a branch, in memory of its own or in that of the branch."""

    def __init__(self, over: bool) -> None:
        super().__init__()
        self.over = over
        self.stem, self.conv = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.last, self.fc = nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        stem = torch.relu(self.stem(x))
        total = self.last(self.conv(stem))
        if self.over:
            total += stem
            total.relu_()
        else:
            total = torch.relu(total + stem)
        y: Tensor = self.fc(total.mean((2, 3)))
        return y


@pytest.mark.parametrize("over", [True, False])
def test_outputs_gradients_and_what_hooks_see_are_those_of_the_module(over: bool) -> None:
    torch.manual_seed(0)
    module = Residual(over).double()
    model = nasir.from_module(copy.deepcopy(module), torch.randn(2, 3, 8, 8, dtype=torch.float64))
    twin = copy.deepcopy(pickle.loads(pickle.dumps(model)))
    sums = {node_id for node_id, node in model.graph.nodes.items() if node.facts.adds}
    assert len(sums) == 1 and all(bool(sums & each._inplace) == over for each in (model, twin))
    given = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    results = []
    for network in (module, model, twin):
        seen: list[Tensor] = []
        network.get_submodule("last").register_forward_hook(
            lambda layer, args, out, seen=seen: seen.append(out.clone())
        )
        y = network(given)
        y.square().sum().backward()
        results.append([y, *seen, *[parameter.grad for parameter in network.parameters()], *network.buffers()])
    for other in results[1:]:
        assert len(other) == len(results[0])
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


def test_a_rewrite_leaves_the_sums_that_overwrite_as_they_were() -> None:
    model = nasir.from_module(Residual(over=True), torch.randn(2, 3, 8, 8))
    before = {node_id for node_id in model._inplace if model.graph.nodes[node_id].facts.adds}
    model.apply(nasir.get_pass("prune-channels")(score="l1", fraction=0.5), "network")
    assert before and before <= model._inplace


def test_sums_of_several_types_are_those_of_torch() -> None:
    half, full = torch.randn(3, dtype=torch.bfloat16), torch.randn(3)
    for values in ((half, full), (full, half), (half, half, full), (half, half)):
        wanted = add_all(*values)
        got = add_to(values[0].clone(), *values[1:])
        assert got.dtype == wanted.dtype and torch.equal(got, wanted)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_layer_that_gives_back_what_it_reads_is_not_written_over(training: bool, mode: Callable[[], Any]) -> None:
    draft = Draft()
    x = draft.add("conv2d", draft.add("input", (), "x", shape=[3, 8, 8]), "stem", out=4, kernel=1)
    total = draft.add("add", (draft.add("batch_norm", x, "last"), x), "sum")
    bent = draft.add("relu", draft.add("batch_norm", x, "first"), "bent")
    draft.output(draft.add("add", (draft.add("add", (x, total), "both"), bent), "all"))
    model = Model.from_graph(draft.commit(), seed=0).train(training)
    assert "bent" in {model.graph.nodes[node_id].label for node_id in model._inplace}
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


@pytest.mark.parametrize("replaced", ["identity", "hook", "backward hook"])
def test_what_layers_of_an_imported_module_put_out_is_kept_apart(replaced: str) -> None:
    module = Residual(over=True)
    model = nasir.from_module(copy.deepcopy(module), torch.randn(2, 3, 8, 8))
    assert any(model.graph.nodes[node_id].facts.adds for node_id in model._inplace)
    kept: list[tuple[Tensor, Tensor]] = []
    if replaced == "identity":
        model.conv, model.last = nn.Identity(), nn.Identity()
    elif replaced == "hook":
        model.last.register_forward_hook(lambda layer, args, out: kept.append((out, out.clone())))
    else:
        model.last.register_full_backward_hook(lambda layer, given, made: kept.append((made[0], made[0].clone())))
    given = torch.randn(4, 3, 8, 8)
    y = model(given)
    y.sum().backward()
    assert replaced == "identity" or (len(kept) == 1 and torch.equal(*kept[0]))
    if replaced == "identity":
        stem = torch.relu(model.stem(given))
        assert torch.equal(y, model.fc((stem + stem).mean((2, 3))))
