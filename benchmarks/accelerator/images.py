"""The CIFAR-10 images as files: seconds until the first step, without and with a cache, and images a second."""

from __future__ import annotations

import shutil
import statistics
import time

from benchmarks.accelerator.bench import Bench
from benchmarks.common import cifar_resnet
from nasir.backends.torch.session import TorchSession
from nasir.training.plans import DataPlan

BATCH = 256
EPOCHS = 4


def run(bench: Bench) -> None:
    folder = bench.cifar10()
    shutil.rmtree(bench.work / "cache", ignore_errors=True)
    for cache in ("cold", "warm"):
        started = time.perf_counter()
        session = _opened(bench)
        opened = time.perf_counter() - started
        session.train(0, 0, None, lambda: True)
        bench.device.wait()
        until_step = time.perf_counter() - started
        names = sorted(path.name for path in folder.glob("cifar10*"))
        bench.emit(f"{cache} cache", open_s=round(opened, 2), first_step_s=round(until_step, 2), found=names)
        if cache == "cold":
            session.close()
    _epochs(bench, session)
    session.close()


def _opened(bench: Bench) -> TorchSession:
    widths, depth = bench.first_net
    batch = 8 if bench.sizes.tiny else BATCH
    data = DataPlan("cifar10", {}, batch_size=batch, augment=("pad_crop", "hflip"), drop_last=True)
    return bench.session(cifar_resnet(widths, depth), data=data)


def _epochs(bench: Bench, session: TorchSession) -> None:
    done = session.source.steps_per_epoch * session.source.plan.batch_size
    seconds = [bench.device.seconds(lambda n=n: bench.epoch(session, n)) for n in range(1, EPOCHS)]  # type: ignore[misc]
    bench.emit(
        "epochs",
        batch=session.source.plan.batch_size,
        images=done,
        first_epoch_s=round(seconds[0], 2),
        epoch_s=round(statistics.median(seconds[1:]), 2),
        images_per_s=round(done / statistics.median(seconds[1:])),
    )
