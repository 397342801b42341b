"""What a growth step of a known shape costs a training ResNet-20: time, memory, compilations."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.accelerator.bench import Bench
from benchmarks.common import cifar_resnet
from nasir.backends.torch.device.meter import nbytes
from nasir.backends.torch.session import TorchSession
from nasir.passes.insert_block import InsertBlock

STAGE = "s2"
TARGET_MS = 20


def grow(session: TorchSession) -> int:
    """Append a block to the second stage; the bytes of its weights."""
    rewrite = InsertBlock(init="gaussian").attempt(session.model.graph, STAGE)
    session.propose(rewrite)
    session.accept()
    return nbytes(map(session.model.tensor, rewrite.plan.sources))


def run(bench: Bench, mode: str) -> None:
    widths, depth = bench.first_net
    session = bench.session(cifar_resnet(widths, depth), compiled=mode == "compiled")
    steps = iter([*[False] * 7, True] * 1000)

    def train(epoch: int) -> None:
        """Eight steps: a growth step is measured on a network that has momentum and a warm allocator."""
        session.train(epoch, epoch, None, lambda: next(steps))

    train(0)
    costs: list[float] = []
    peaks: list[int | None] = []
    added = 0
    graphs = session.compilation.compiler.graphs if session.compilation.compiler else 0
    for turn in range(bench.sizes.growths):
        with bench.device.peak() as peak:

            def step() -> None:
                nonlocal added
                added = grow(session)

            costs.append(1e3 * bench.device.seconds(step))
            peaks.append(peak())
        train(turn + 1)
    figures: dict[str, Any] = {
        "median_ms": round(statistics.median(costs[1:]), 2),
        "least_ms": round(min(costs[1:]), 2),
        "first_ms": round(costs[0], 2),
        "target_ms": TARGET_MS,
        "peak_extra_bytes": max((peak for peak in peaks[1:] if peak is not None), default=None),
        "block_bytes": added,
        "new_compiled_graphs": session.compilation.compiler.graphs - graphs if session.compilation.compiler else None,
    }
    session.close()
    bench.emit(mode, **figures)
