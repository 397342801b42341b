"""The lowered network against the hand-written one: forward and backward, step by step in turns."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet50

from benchmarks.common import HandResNet, cifar_resnet, imagenet_resnet, interleaved, report, summary
from nasir.backends.torch import Model


def step(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Forward and backward of one batch."""
    model.zero_grad(set_to_none=True)
    nn.functional.cross_entropy(model(x), y).backward()


def compare(hand: nn.Module, lowered: nn.Module, x: Tensor, repeats: int) -> dict[str, Any]:
    """Times of both by turns; `ratio` is the median of the ratios of neighbouring steps."""
    y = torch.zeros(len(x), dtype=torch.int64)
    twin = lambda: step(hand, x, y)  # noqa: E731 - the floor: the hand-written network against itself
    times = interleaved({"hand": twin, "lowered": lambda: step(lowered, x, y), "hand_again": twin}, repeats)
    pairs = list(zip(times["hand"], times["lowered"], times["hand_again"], strict=True))
    return {
        "hand": summary(times["hand"]),
        "lowered": summary(times["lowered"]),
        "ratio": round(statistics.median(2 * b / (a + c) for a, b, c in pairs), 4),
        "floor": round(statistics.median(c / a for a, _, c in pairs), 4),
    }


def main() -> None:
    torch.manual_seed(0)
    figures: dict[str, Any] = {"target_ratio": 1.03}
    resnet20 = HandResNet((16, 32, 64), 3), Model.from_graph(cifar_resnet((16, 32, 64), 3))
    fifty = resnet50(), Model.from_graph(imagenet_resnet("resnet50"))
    figures["resnet20_batch1"] = compare(*resnet20, torch.randn(1, 3, 32, 32), 200)
    figures["resnet20_batch128"] = compare(*resnet20, torch.randn(128, 3, 32, 32), 30)
    figures["resnet50_batch1"] = compare(*fifty, torch.randn(1, 3, 224, 224), 20)
    figures["resnet50_batch128_at_32"] = compare(*fifty, torch.randn(128, 3, 32, 32), 8)
    report("lowered against hand-written, forward and backward", figures)


if __name__ == "__main__":
    main()
