"""Inserting one bottleneck into a live ResNet-152 with SGD momentum, verified; beside rebuilding and loading it."""

from __future__ import annotations

import gc
import time
from typing import Any

import torch
from torchvision.models import resnet152

from benchmarks.common import imagenet_resnet, report, summary
from nasir.backends.torch import Model
from nasir.backends.torch.arrays import TorchArrays
from nasir.passes.insert_block import InsertBlock
from nasir.passes.remove_block import RemoveBlock
from nasir.transfer import execute


def rebuild(old: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The way without a transfer: construct the deeper network, load the weights by name, make a new optimizer."""
    new = resnet152()
    new.load_state_dict(old.state_dict())
    torch.optim.SGD(new.parameters(), lr=0.1, momentum=0.9).load_state_dict(optimizer.state_dict())


def inserting(init: str) -> dict[str, Any]:
    """Times of inserting a silent bottleneck whose other weights are drawn by `init`, beside rebuilding."""
    model = Model.from_graph(imagenet_resnet("resnet152"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    hand = resnet152()
    hand_optimizer = torch.optim.SGD(hand.parameters(), lr=0.1, momentum=0.9)
    template = {"block": "bottleneck", "options": {"out": 256}, "init": init}
    change = InsertBlock(init="zero", block=template)
    insert, drawing, kept, rebuilt = [], [], [], []
    for _ in range(18):
        before = dict(model.named_parameters())
        gc.collect()  # the garbage of the rebuilt network is not the insertion's
        started = time.perf_counter()
        rewrite = change.attempt(model.graph, "layer3")
        model.apply(rewrite, optimizers=[optimizer])
        insert.append(time.perf_counter() - started)
        after = dict(model.named_parameters())
        kept.append(all(after[name] is parameter for name, parameter in before.items()))
        held = [p for group in optimizer.param_groups for p in group["params"]]
        assert sorted(map(id, held)) == sorted(map(id, after.values()))
        arrays = TorchArrays(torch.device("cpu"), torch.float32)
        started = time.perf_counter()
        execute(rewrite.plan, rewrite.graph, model.tensor, arrays, seed=0, ordinal=1)
        drawing.append(time.perf_counter() - started)
        model.apply(RemoveBlock(), "layer3", optimizers=[optimizer])
        started = time.perf_counter()
        rebuild(hand, hand_optimizer)
        rebuilt.append(time.perf_counter() - started)
    figures: dict[str, Any] = {
        "insert": summary(insert[2:]),
        "of_which_new_weights": summary(drawing[2:]),
        "rebuild_and_load": summary(rebuilt[2:]),
        "all_kept_parameters_same_objects": all(kept),
    }
    figures["times_faster"] = round(figures["rebuild_and_load"]["median_ms"] / figures["insert"]["median_ms"], 1)
    return figures


def main() -> None:
    figures: dict[str, Any] = {"target_ms": 15}
    figures["uniform_weights"] = inserting("default")
    figures["normal_weights"] = inserting("he_normal")
    report("insert one bottleneck into a live ResNet-152 with SGD momentum", figures)


if __name__ == "__main__":
    main()
