"""What the benchmarks share: networks from specs, hand-written twins, timing side by side, JSON output."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasir.ir import Graph
from nasir.spec import loads_spec
from nasir.spec.network import build

HEAD = "nasir: 1\ndata: {dataset: synthetic}\nphases: [{name: train, epochs: 1, optimizer: {sgd: {lr: 0.1}}}]\n"


def imagenet_resnet(model: str) -> Graph:
    """A torchvision ResNet at 224x224."""
    return build(loads_spec(f"{HEAD}input: {{image: [3, 224, 224]}}\nnetwork: {{from: torchvision, model: {model}}}\n"))


def small_resnet(model: str) -> Graph:
    """A torchvision ResNet with a stem for 32x32 images (its name ends in _cifar), 10 classes."""
    network = f"network: {{from: torchvision, model: {model}, classes: 10}}"
    return build(loads_spec(f"{HEAD}input: {{image: [3, 32, 32]}}\n{network}\n"))


def cifar_resnet(widths: tuple[int, ...], depth: int) -> Graph:
    """Basic blocks, option-B shortcuts, at 32x32."""
    stages = "\n".join(
        f"  - stage: {{name: s{i + 1}, block: basic, out: {width}, depth: {depth}, stride: {1 if i == 0 else 2}}}"
        for i, width in enumerate(widths)
    )
    return build(
        loads_spec(
            f"{HEAD}input: {{image: [3, 32, 32]}}\nnetwork:\n  - conv_bn_relu: {{out: {widths[0]}, kernel: 3}}\n"
            f"{stages}\n  - classifier: {{classes: 10}}\n"
        )
    )


class HandBlock(nn.Module):
    """The usual hand-written basic block."""

    def __init__(self, inputs: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != out:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


class HandResNet(nn.Module):
    """The usual hand-written CIFAR ResNet."""

    def __init__(self, widths: tuple[int, ...], depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        blocks = []
        inputs = widths[0]
        for stage, out in enumerate(widths):
            for index in range(depth):
                blocks.append(HandBlock(inputs, out, 2 if stage > 0 and index == 0 else 1))
                inputs = out
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(inputs, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn1(self.conv1(x)), inplace=True))
        return self.fc(x.mean((2, 3)))


def interleaved(functions: Mapping[str, Callable[[], Any]], repeats: int, warmup: int = 2) -> dict[str, list[float]]:
    """Seconds of each function, called by turns, so that a machine that slows down slows all of them.

    Each turn begins with another function: what runs first after the others finds warmer or colder caches.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    order = list(functions.items())
    for turn in range(warmup + repeats):
        order = [*order[1:], order[0]]
        for name, function in order:
            started = time.perf_counter()
            function()
            if turn >= warmup:
                times[name].append(time.perf_counter() - started)
    return times


def summary(seconds: list[float]) -> dict[str, float]:
    """Minimum and median in milliseconds."""
    return {"min_ms": round(1e3 * min(seconds), 4), "median_ms": round(1e3 * statistics.median(seconds), 4)}


def report(name: str, figures: Mapping[str, Any]) -> None:
    """Print the figures as JSON, with what they were measured on; `--out FILE` also writes them."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    data = {
        "benchmark": name,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        **figures,
    }
    text = json.dumps(data, indent=2)
    print(text)
    if "--out" in sys.argv:
        Path(sys.argv[sys.argv.index("--out") + 1]).write_text(text + "\n")
