"""Recording a module: how long it takes beside the module's own forward, and how much memory beside its weights."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torchvision import models

from benchmarks.common import report
from nasir.backends.torch.device.meter import Meter, nbytes, tensors_of
from nasir.backends.torch.importing import record

REPEATS = 3
NETWORKS: dict[str, tuple[Callable[..., nn.Module], int]] = {
    "resnet50": (models.resnet50, 224),
    "mobilenet_v3_small": (models.mobilenet_v3_small, 224),
    "swin_t": (models.swin_t, 224),
}


def seconds(function: Callable[[], Any]) -> dict[str, float]:
    """Wall and processor time of several calls after one that is not counted."""
    walls, processor = [], []
    for turn in range(REPEATS + 1):
        wall, busy = time.perf_counter(), time.process_time()
        function()
        if turn:
            walls.append(time.perf_counter() - wall)
            processor.append(time.process_time() - busy)
    return {
        "wall_min_s": round(min(walls), 3),
        "wall_median_s": round(statistics.median(walls), 3),
        "cpu_min_s": round(min(processor), 3),
    }


def main() -> None:
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    for name, (make, size) in NETWORKS.items():
        model, x = make(), torch.randn(2, 3, size, size)
        nine = torch.randn(9, 3, size, size)
        figures[name] = {
            "size": size,
            "calls": len(record(model, (x,)).calls),
            "record": seconds(lambda model=model, x=x: record(model, (x,))),
            "forward_of_9_samples": seconds(lambda model=model, nine=nine: model.eval()(nine)),
        }
    model, x = models.resnet50(), torch.randn(2, 3, 32, 32)
    weights = nbytes(model.parameters())
    with Meter(tensors_of(model)) as meter:
        record(model, (x,))
    figures["resnet50_at_32"] = {"weights_bytes": weights, "peak_over_weights": round(meter.extra / weights, 2)}
    report("record", figures)


if __name__ == "__main__":
    main()
