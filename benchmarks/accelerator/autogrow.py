"""A whole run of a shipped spec on the CIFAR-10 images, shortened: p-AutoGrow grows a network, then fine-tunes it."""

from __future__ import annotations

import time

import nasir
from benchmarks.accelerator.bench import Bench
from benchmarks.accelerator.metadata import ROOT
from nasir.records import EpochRecord

SPEC = ROOT / "specs" / "autogrow" / "cifar10_cpu.yaml"
SHORTER = ("data.batch_size=256", "phases.1.epochs=8")
TINY = ("data.batch_size=8", "data.validation=10", "phases.0.rules.0.at_most=2", "phases.1.epochs=1")


def run(bench: Bench) -> None:
    bench.cifar10()
    changes = [f"device={bench.device.device}", *(TINY if bench.sizes.tiny else SHORTER)]
    spec = nasir.load_spec(SPEC, changes)
    started = time.perf_counter()
    done = nasir.run(spec, bench.work / "autogrow")
    seconds = time.perf_counter() - started
    epochs = [record for record in done.journal if isinstance(record, EpochRecord)]
    bench.emit(
        "run",
        spec=str(SPEC.relative_to(ROOT)),
        changes=changes,
        test_accuracy=round(done.metrics["test.accuracy"], 4),
        depths=done.graph.depths(),
        params=done.graph.cost().params,
        epochs=len(epochs),
        seconds=round(seconds, 1),
    )
