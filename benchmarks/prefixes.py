"""What shared prefixes save over the 20 points of a space of two choices, and what leaving a state costs a run.

The points are trained one after the other in one process, in a random order as a search visits them: each alone, then
each with a store. Every run with the store must equal the run alone, bit for bit.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import cifar_resnet, report
from nasir.api import Run, run
from nasir.backends.torch.backend import TorchBackend
from nasir.records import EpochRecord
from nasir.running.prefixes import PrefixStore
from nasir.running.replay import compare
from nasir.spec import loads_spec
from nasir.testing.backend_contract import initial
from nasir.training.backend import Setup
from nasir.training.plans import DataPlan, TrainPlan

INTERVALS = (2, 3, 4, 6)  # epochs between two blocks
FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5)  # of the channels, pruned at the end of growth
SPEC = """\
nasir: 1
name: point
device: cpu
input: {{image: [1, 8, 8]}}
network:
  - conv_bn_relu: {{out: 8, kernel: 3}}
  - stage: {{name: s1, block: basic, out: 8, depth: 1}}
  - stage: {{name: s2, block: basic, out: 16, depth: 1, stride: 2}}
  - classifier: {{classes: 10}}
data: {{dataset: digits, batch_size: 64, augment: [{{pad_crop: {{pad: 1}}}}], validation: 0.15}}
precision: fp32
phases:
  - name: grow
    epochs: 12
    optimizer: {{sgd: {{lr: 0.05, momentum: 0.9, weight_decay: 5.0e-4}}}}
    rules:
      - every: {interval}
        do: {{insert-block: {{init: gaussian}}}}
        where: {{stages: [s1, s2]}}
      - when: end
        do: {{prune-channels: {{fraction: {fraction}}}}}
  - name: finetune
    epochs: 6
    optimizer: {{sgd: {{lr: 0.05, momentum: 0.9, weight_decay: 5.0e-4}}}}
    schedule: {{cosine: {{}}}}
"""


def train(points: Iterable[tuple[int, float]], folder: Path, store: PrefixStore | None) -> tuple[list[Run], float]:
    """The runs of the points in that order, and the CPU-seconds of all of them, start to end."""
    started = time.process_time()
    runs = []
    for interval, fraction in points:
        spec = loads_spec(SPEC.format(interval=interval, fraction=fraction), str(folder.parent / "point.yaml"))
        runs.append(run(spec, folder / f"{interval}-{fraction}", prefixes=store))
    return runs, time.process_time() - started


def tensors(path: Path) -> dict[str, bytes]:
    """The files of the newest checkpoint: weights and optimizer state."""
    newest = max((path / "checkpoints").glob("step_*"), key=lambda step: int(step.name.removeprefix("step_")))
    return {file.name: file.read_bytes() for file in newest.glob("*.safetensors")}


def epochs(runs: Iterable[Run]) -> int:
    """Epochs of the histories, whoever trained them."""
    return sum(isinstance(record, EpochRecord) for done in runs for record in done.journal)


def study(folder: Path) -> dict[str, Any]:
    """The 20 points alone and with a store."""
    points = list(product(INTERVALS, FRACTIONS))
    random.Random(0).shuffle(points)
    alone, cpu_alone = train(points, folder / "alone", None)
    store = PrefixStore(folder / "prefixes", 10**9)
    shared, cpu_shared = train(points, folder / "shared", store)
    equal = [
        not compare(lone.journal, other.journal) and tensors(lone.path) == tensors(other.path)
        for lone, other in zip(alone, shared, strict=True)
    ]
    if not all(equal):
        raise SystemExit(f"{equal.count(False)} of {len(equal)} runs differ from the run alone")
    taken = sum(done.prefix_epochs for done in shared)
    return {
        "points": len(points),
        "epochs_alone": epochs(alone),
        "epochs_shared": epochs(shared) - taken,
        "epochs_saved": round(taken / epochs(alone), 3),
        "cpu_seconds_alone": round(cpu_alone, 1),
        "cpu_seconds_shared": round(cpu_shared, 1),
        "cpu_seconds_saved": round(1 - cpu_shared / cpu_alone, 3),
        "equal_bit_for_bit": all(equal),
        "runs_with_a_prefix": sum(done.prefix_epochs > 0 for done in shared),
        "store_bytes": sum(file.stat().st_size for file in store.folder.rglob("*") if file.is_file()),
    }


def saving(folder: Path, repeats: int = 7) -> dict[str, Any]:
    """Seconds that storing a state of a ResNet-20 with momentum takes, beside a training step of batch 128."""
    graph = cifar_resnet((16, 32, 64), 3)
    data = DataPlan("synthetic", {"classes": 10, "size": 32, "channels": 3, "train": 640, "test": 64}, 128)
    session = TorchBackend().open(Setup(data, folder, seed=0, device="cpu", precision="fp32"))
    try:
        session.build(graph, initial(graph))
        session.begin_phase(TrainPlan(precision="fp32"), None, resumed=False)
        session.train(0, 0, None, lambda: False)
        started = time.perf_counter()
        steps = session.train(1, 1, None, lambda: False).steps
        step = (time.perf_counter() - started) / steps
        store, blobs = PrefixStore(folder / "saves", 10**9), folder / "blobs"
        blobs.mkdir()
        seconds = []
        for number in range(repeats):
            meta = {"key": f"{number:064x}", "graph": "", "ordinal": 0}
            started = time.perf_counter()
            store.put(
                "0" * 64, [meta["key"]], [1.0], [], "run", blobs, lambda to, meta=meta: session.export(to, 1, meta)
            )
            seconds.append(time.perf_counter() - started)
        size = store.states("0" * 64)[0].bytes
    finally:
        session.close()
    save = statistics.median(seconds)
    epoch = step * 45_000 / 128
    return {
        "save_ms": round(1000 * save, 2),
        "state_mb": round(size / 1e6, 2),
        "step_ms": round(1000 * step, 1),
        "share_of_an_epoch_of_45000": round(save / epoch, 6),
    }


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        report("prefixes", {"study": study(Path(folder)), "resnet20": saving(Path(folder))})


if __name__ == "__main__":
    main()
