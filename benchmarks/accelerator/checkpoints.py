"""How long saving holds up training, with Adam's moments and a moving average: the copy, not the disk."""

from __future__ import annotations

import shutil
import statistics
import time

from benchmarks.accelerator.bench import Bench
from benchmarks.common import cifar_resnet
from nasir.backends.torch.device.meter import nbytes
from nasir.ir import Graph
from nasir.training.plans import OptimizerPlan

SAVES = 4


def run(bench: Bench) -> None:
    widths, depth = bench.first_net
    _saved(bench, "shallow", cifar_resnet(widths, depth))
    _saved(bench, bench.sizes.deep, bench.deep_net())


def _saved(bench: Bench, name: str, graph: Graph) -> None:
    session = bench.session(graph, optimizer=OptimizerPlan("adam", lr=1e-3), ema_decay=0.999)
    session.train(0, 0, None, lambda: True)  # one step makes the moments
    folder = bench.work / f"checkpoints-{name}"
    calls: list[float] = []
    writes: list[float] = []
    for step in range(SAVES):
        bench.device.wait()
        started = time.perf_counter()
        session.save(folder, step, {"ordinal": 0, "graph": None}, 2)
        calls.append(1e3 * (time.perf_counter() - started))
        session.flush()
        writes.append(1e3 * (time.perf_counter() - started))
    saved = sum(nbytes(group.values()) for group in session._groups().values())
    session.close()
    shutil.rmtree(folder)
    bench.emit(
        name,
        first_save_ms=round(calls[0], 1),
        later_save_ms=round(statistics.median(calls[1:]), 1),
        until_on_disk_ms=round(statistics.median(writes[1:]), 1),
        bytes=saved,
    )
