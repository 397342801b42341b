"""Importing a module: how long it takes, how much memory, and how fast the imported network is.

    python -m benchmarks.imports [--repeats N] [--out FILE]

Times are CPU seconds, by turns; memory is the peak of a process of its own, above what it held before the import.
"""

from __future__ import annotations

import copy
import gc
import resource
import statistics
import sys
import time
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

import nasir
from benchmarks.common import report
from benchmarks.processes import in_a_process

IMPORTED = {"resnet18": 224, "resnet50": 224, "densenet121": 224, "swin_t": 224}
STEPS = ((1, 224), (128, 32))
"""Batch size and side of the images of steps of resnet50."""
TARGETS = {"resnet50_import_s": 2.0, "resnet50_memory_of_weights": 2.0, "step_ratio": 1.03}


def example(side: int) -> Tensor:
    return torch.randn(2, 3, side, side)


def imported(name: str, side: int, repeats: int) -> dict[str, Any]:
    """Median CPU seconds of `from_module`, and of what it calls."""
    net = torchvision.models.get_model(name)
    taken = []
    for turn in range(repeats + 1):
        gc.collect()
        started = time.process_time()
        model = nasir.from_module(net, example(side))
        if turn:
            taken.append(time.process_time() - started)
    return {
        "median_s": round(statistics.median(taken), 3),
        "min_s": round(min(taken), 3),
        "nodes": len(model.graph.nodes),
    }


def peak(name: str, side: int) -> dict[str, Any]:
    """Peak of resident memory of an import, in megabytes and in multiples of the weights."""
    net = torchvision.models.get_model(name)
    weights = sum(tensor.nbytes for tensor in [*net.parameters(), *net.buffers()]) / 2**20
    given = example(side)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    nasir.from_module(net, given)
    above = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    return {"weights_mb": round(weights), "peak_mb_above": round(above), "of_weights": round(above / weights, 2)}


def step(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """CPU seconds of forward and backward of one batch."""
    net.zero_grad(set_to_none=True)
    started = time.process_time()
    nn.functional.cross_entropy(net(images), labels).backward()
    return time.process_time() - started


def compared(batch: int, side: int, repeats: int) -> dict[str, Any]:
    """Steps of the user's own resnet50, of the imported one, and of the own one again, by turns.

    `ratio`: median over turns of imported to own; `floor`: of own to own.
    """
    own = torchvision.models.resnet50()
    model = nasir.from_module(copy.deepcopy(own), example(side))
    images, labels = torch.randn(batch, 3, side, side), torch.zeros(batch, dtype=torch.int64)
    turns = []
    for turn in range(repeats + 1):
        order = [own, model, own] if turn % 2 else [own, own, model]
        seconds = [step(net, images, labels) for net in order]
        if turn:
            first, second, third = seconds if turn % 2 else (seconds[0], seconds[2], seconds[1])
            turns.append((first, second, third))
    return {
        "own_median_ms": round(1e3 * statistics.median(a for a, _, _ in turns), 1),
        "imported_median_ms": round(1e3 * statistics.median(b for _, b, _ in turns), 1),
        "ratio": round(statistics.median(2 * b / (a + c) for a, b, c in turns), 4),
        "floor": round(statistics.median(c / a for a, _, c in turns), 4),
    }


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    repeats = int(sys.argv[sys.argv.index("--repeats") + 1]) if "--repeats" in sys.argv else 5
    figures: dict[str, Any] = {"targets": TARGETS, "repeats": repeats}
    for name, side in IMPORTED.items():
        found = in_a_process(lambda name=name, side=side: imported(name, side, repeats), 5, 8)  # type: ignore[misc]
        memory = in_a_process(lambda name=name, side=side: peak(name, side), 5, 8)  # type: ignore[misc]
        keys = ("median_s", "min_s", "nodes", "weights_mb", "peak_mb_above", "of_weights", "failed")
        figures[f"{name}_at_{side}"] = {key: value for key, value in (found | memory).items() if key in keys}
    for batch, side in STEPS:
        figures[f"resnet50_batch{batch}_at_{side}"] = compared(batch, side, 3 * repeats if batch == 1 else repeats)
    report("importing a module", figures)


if __name__ == "__main__":
    main()
