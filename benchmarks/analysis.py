"""Residual analysis of a ResNet-50 at 224x224 against its forward pass in evaluation, by turns.

`analysis`: norms, shares and variances of all residual sums; `with_gradients`: also a backward pass down to the first
sum. The ratios are medians over neighbouring measurements, `floor` that of the forward pass against itself.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.common import imagenet_resnet, interleaved, report, summary
from nasir.backends.torch import Model
from nasir.backends.torch.observe.residuals import contributions

BUDGET = 3.0
"""Forward passes that an analysis may take."""
BATCHES = (1, 8)


def compared(model: Model, batch: int, repeats: int) -> dict[str, Any]:
    x, y = torch.randn(batch, 3, 224, 224), torch.arange(batch)

    def forward() -> None:
        with torch.no_grad():
            model(x)

    functions: dict[str, Callable[[], Any]] = {
        "forward": forward,
        "analysis": lambda: contributions(model, [x]),
        "with_gradients": lambda: contributions(model, [x], y),
        "forward_again": forward,
    }
    times = interleaved(functions, repeats, warmup=1)
    rows = list(zip(*times.values(), strict=True))
    ratios = {
        name: round(statistics.median(2 * row[place] / (row[0] + row[3]) for row in rows), 3)
        for place, name in ((1, "analysis"), (2, "with_gradients"))
    }
    floor = round(statistics.median(row[3] / row[0] for row in rows), 3)
    return {**{name: summary(taken) for name, taken in times.items()}, "ratio": ratios, "floor": floor}


def main() -> int:
    model = Model.from_graph(imagenet_resnet("resnet50")).eval()
    figures = {f"batch{batch}": compared(model, batch, 7) for batch in BATCHES}
    slow = [name for name, found in figures.items() if max(found["ratio"].values()) > BUDGET]
    report("analysis", {"budget_forward_passes": BUDGET, "resnet50": figures, "over_budget": slow})
    return 1 if slow else 0


if __name__ == "__main__":
    raise SystemExit(main())
