"""Latency of a routed ResNet-20 against the static one, batch 128, by turns.

    python -m benchmarks.routing --out benchmarks/results/routing.json

`all_on`: every sample runs through every block, so the difference from `static` is what routers and routes cost.
`skipped`: at each block that can be skipped, another part of the samples (a quarter, ..., all) skips it. `removed`: the
static network without the blocks that all samples skip, for comparison with `skipped 1.0`. `macs`: those that are
executed for a sample in the mean. `cpu_ratio`: the median, over the turns, of CPU seconds by those of `static` in the
same turn, which other work on the machine disturbs least. With `--cuda` on a CUDA device, in float32.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import cifar_resnet, interleaved, report, summary
from nasir.analysis.routing import routes
from nasir.backends.torch import Model
from nasir.backends.torch.observe.routes import taking
from nasir.passes.insert_router import InsertRouter, steps_of
from nasir.passes.remove_block import RemoveBlock

BATCH, TURNS, PARTS = 128, 30, (0.25, 0.5, 0.75, 1.0)


class Skipping(nn.Module):
    """Scores that send a part of the samples past the block: at each block others."""

    def __init__(self, part: float, turn: int) -> None:
        super().__init__()
        self.part, self.turn = part, turn

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.arange(len(x), device=x.device)
        skips = (rows * 7919 + self.turn * 104729) % len(x) < self.part * len(x)
        return torch.stack([~skips, skips], 1).to(x.dtype)


def routed(static: Model, part: float | None) -> Model:
    """With routers at all stages; `part`: of the samples that skips each block, None: as the routers say."""
    model = Model.from_graph(static.graph).to(next(static.parameters()).device)
    model.load_state_dict(static.state_dict())
    for stage in static.graph.stages:
        model.apply(InsertRouter(), stage.path)
    for turn, route in enumerate(routes(model.graph) if part is not None else ()):
        gate = model.graph.nodes[route].inputs[0].node
        label = model.graph.nodes[model.graph.nodes[gate].inputs[0].node].label
        model.set_submodule(label, Skipping(part or 0.0, turn))
    return model.eval()


def removed(static: Model) -> Model:
    """Without the blocks that can be skipped, but for the last of each stage, which cannot be removed."""
    model = Model.from_graph(static.graph).to(next(static.parameters()).device)
    for stage in static.graph.stages:
        for path in steps_of(model.graph, stage.path):
            if len(model.graph.blocks_of(stage.path)) > 1:
                model.apply(RemoveBlock(), path)
    return model.eval()


def main() -> None:
    device = torch.device("cuda" if "--cuda" in sys.argv else "cpu")
    x = torch.randn(BATCH, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    figures: dict[str, Any] = {"batch": BATCH, "measured_on": str(device)}
    for name, depth in (("resnet20", 3), ("resnet56", 9)):
        static = Model.from_graph(cifar_resnet((16, 32, 64), depth)).to(device).eval()
        models = {"static": static, "all_on": routed(static, None)}
        models |= {f"skipped {part}": routed(static, part) for part in PARTS}
        models["removed"] = removed(static)
        for model in models.values():
            model.use_channels_last()

        cpu: dict[str, list[float]] = {key: [] for key in models}

        def call(key: str, model: Model, cpu: dict[str, list[float]] = cpu) -> Callable[[], None]:
            def run() -> None:
                started = time.process_time()
                model(x)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                cpu[key].append(time.process_time() - started)

            return run

        with torch.inference_mode():
            times = interleaved({key: call(key, model) for key, model in models.items()}, TURNS)
            rows: dict[str, Any] = {}
            for key, model in models.items():
                with taking(model, BATCH) as taken:
                    model(x)
                macs = taken.macs // BATCH if taken.rows else model.graph.cost().macs
                rows[key] = {**summary(times[key]), "macs": macs}
        base = rows["static"]
        for key, row in rows.items():
            pairs = zip(cpu[key], cpu["static"], strict=True)
            row["cpu_ratio"] = round(statistics.median([own / its for own, its in pairs]), 3)
            row["macs_ratio"] = round(row["macs"] / base["macs"], 3)
            row["time_ratio"] = round(row["median_ms"] / base["median_ms"], 3)
            row["min_time_ratio"] = round(row["min_ms"] / base["min_ms"], 3)
        figures[name] = rows
    report("routing", figures)


if __name__ == "__main__":
    main()
