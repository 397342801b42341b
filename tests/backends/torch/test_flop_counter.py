"""Counted multiply-accumulates are those that torch executes: `FlopCounterMode` counts two for each."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nasir.backends.torch import Model
from nasir.ir import Fill, Graph, Port
from nasir.spec import loads_spec
from nasir.spec.network import build
from nasir.testing import random_graph
from nasir.transfer import Key, TransferPlan


def executed(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one sample in eval mode, on the meta device: shapes only, no arithmetic."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, *shape, device="meta"))
    count, odd = divmod(counter.get_total_flops(), 2)
    assert not odd
    return count


def lowered(graph: Graph) -> Model:
    slots = graph.infer.slots
    plan = TransferPlan({Key(node_id, name): Fill("zeros") for node_id, own in slots.items() for name in own})
    return Model.from_graph(graph, plan=plan, device="meta")


def imported(model: str, size: int) -> Graph:
    return build(
        loads_spec(
            f"nasir: 1\ninput: {{image: [3, {size}, {size}]}}\nnetwork: {{from: torchvision, model: {model}}}\n"
            "data: {dataset: synthetic}\nphases: [{name: train, epochs: 1, optimizer: {sgd: {lr: 0.1}}}]\n"
        )
    )


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 224),
        ("resnet34", 128),
        ("resnet50", 224),
        ("resnet101", 97),
        pytest.param("resnet152", 224, marks=pytest.mark.slow),
        ("resnext50_32x4d", 224),
        ("vit_b_16", 224),
    ],
)
def test_presets_count_what_torchvisions_networks_execute(name: str, size: int) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, weights=None)
    graph = imported(name, size)
    assert graph.cost().macs == executed(theirs, (3, size, size)) == executed(lowered(graph), (3, size, size))
    assert graph.cost().params == sum(parameter.numel() for parameter in theirs.parameters())
    stored = (*theirs.parameters(), *theirs.buffers())
    assert graph.cost().weight_bytes == sum(tensor.numel() * tensor.element_size() for tensor in stored)


@pytest.mark.parametrize("seed", range(25))
def test_generated_networks_count_what_they_execute(seed: int) -> None:
    graph = random_graph(seed, steps=12)
    shape = graph.infer.types[Port(graph.inputs[0])].shape
    assert graph.cost().macs == executed(lowered(graph), shape)


def test_the_generated_networks_hold_grouped_and_depthwise_convolutions() -> None:
    kinds = set()
    for seed in range(25):
        graph = random_graph(seed, steps=12)
        for node in graph.nodes.values():
            if node.op == "conv2d" and node.attrs["groups"] > 1:
                depthwise = node.attrs["groups"] == graph.infer.types[node.inputs[0]].shape[0]
                kinds.add("depthwise" if depthwise else "grouped")
    assert kinds == {"depthwise", "grouped"}
