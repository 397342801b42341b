"""Inserting one bottleneck into a live ResNet-152 with SGD momentum, verified; beside rebuilding and loading it."""

from __future__ import annotations

import time
from typing import Any

import torch
from torchvision.models import resnet152

from benchmarks.common import imagenet_resnet, report, summary
from nasir.backends.torch import Model
from nasir.passes.insert_block import InsertBlock


def rebuild(old: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The way without a transfer: construct the deeper network, load the weights by name, make a new optimizer."""
    new = resnet152()
    new.load_state_dict(old.state_dict())
    torch.optim.SGD(new.parameters(), lr=0.1, momentum=0.9).load_state_dict(optimizer.state_dict())


def main() -> None:
    model = Model.from_graph(imagenet_resnet("resnet152"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    insert, kept, rebuilt = [], [], []
    hand = resnet152()
    hand_optimizer = torch.optim.SGD(hand.parameters(), lr=0.1, momentum=0.9)
    change = InsertBlock(init="zero")
    for _ in range(12):
        before = {name: parameter for name, parameter in model.named_parameters()}
        started = time.perf_counter()
        rewrite = change.attempt(model.graph, "layer3")
        model.apply(rewrite, optimizers=[optimizer])
        insert.append(time.perf_counter() - started)
        kept.append(all(before[name] is parameter for name, parameter in model.named_parameters() if name in before))
        held = [p for group in optimizer.param_groups for p in group["params"]]
        assert sorted(map(id, held)) == sorted(id(p) for p in model.parameters())
        started = time.perf_counter()
        rebuild(hand, hand_optimizer)
        rebuilt.append(time.perf_counter() - started)
    figures: dict[str, Any] = {
        "insert": summary(insert[2:]),
        "rebuild_and_load": summary(rebuilt[2:]),
        "all_kept_parameters_same_objects": all(kept),
        "target_ms": 15,
    }
    figures["times_faster"] = round(figures["rebuild_and_load"]["median_ms"] / figures["insert"]["median_ms"], 1)
    report("insert one bottleneck into ResNet-152", figures)


if __name__ == "__main__":
    main()
