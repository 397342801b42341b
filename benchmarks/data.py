"""Images before the first step, and batches of them: each way beside the one it replaced, with the same results.

Decoding: 6,000 JPEG files of 32x32 by threads of one process, image by image, and by processes. Archive: a .tar.gz of
them unpacked and its files decoded, and read in memory. Batches: augmented ones of 128 images, made step by step and by
one indexing operation (`fused`, what CUDA gets), both on one CPU thread. Wall and CPU seconds; CPU ones include
processes that have ended. On a busy machine wall seconds say little, and CPU seconds are more than on an idle one.
"""

from __future__ import annotations

import os
import resource
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.common import report
from nasir.backends.torch.data.archives import read_archive, unpack
from nasir.backends.torch.data.in_memory import DataSource
from nasir.backends.torch.data.rawdata import RawData
from nasir.cores import cores
from nasir.datasets.decoded import read_tree
from nasir.images.decode import View, decode
from nasir.images.pool import decode_all
from nasir.images.tree import find_files
from nasir.training.plans import DataPlan

COUNT, CLASSES, SIDE, REPEATS = 6_000, 10, 32, 3


def spent() -> float:
    """CPU seconds of this process and of those of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def by_turns(ways: dict[str, Callable[[], Any]], repeats: int = REPEATS) -> dict[str, dict[str, float]]:
    """Least wall seconds and median CPU seconds of each, called by turns; all must return the same array."""
    wall: dict[str, list[float]] = {name: [] for name in ways}
    work: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        outputs = []
        for name, way in ways.items():
            began, used = time.perf_counter(), spent()
            outputs.append(way())
            wall[name].append(time.perf_counter() - began)
            work[name].append(spent() - used)
        assert all(np.array_equal(outputs[0], other) for other in outputs)
    return {
        name: {"wall_s": round(min(wall[name]), 3), "cpu_s": round(statistics.median(work[name]), 3)} for name in ways
    }


def write_images(folder: Path) -> None:
    """Smooth pictures, which take about as many bytes as photographs of that size."""
    random = np.random.default_rng(0)
    for part, count in (("train", COUNT), ("test", CLASSES)):
        for number in range(count):
            place = folder / part / f"class{number % CLASSES}"
            place.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(place / f"{number:05}.jpg", quality=90)


def by_threads(paths: tuple[str, ...], view: View) -> np.ndarray[Any, Any]:
    """What `decode_all` was before."""
    images = np.empty((len(paths), view.channels, *view.size), np.uint8)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        for position, image in enumerate(pool.map(partial(decode, view=view), paths)):
            images[position] = image.transpose(2, 0, 1)
    return images


def decoding(folder: Path) -> dict[str, Any]:
    files, _ = find_files(folder / "train")
    view = View((SIDE, SIDE), fixed=True)
    workers = max(cores(), 2)
    ways: dict[str, Callable[[], Any]] = {
        "threads": partial(by_threads, files.paths, view),
        "processes": partial(decode_all, files.paths, view, workers),
    }
    return {"images": len(files), "workers": workers, **by_turns(ways)}


def archives(folder: Path, scratch: Path) -> dict[str, Any]:
    packed = scratch / "images.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(folder, ".")
    caches = iter(range(10**6))

    def cold(way: Callable[[], Any]) -> Any:
        os.environ["NASIR_CACHE"] = str(scratch / f"cache{next(caches)}")
        return way()

    def in_memory() -> Any:
        read = read_archive(packed, ("",), 3)
        assert read is not None
        return read.train_images.numpy()

    def as_files() -> Any:
        return read_tree(unpack(packed) / "train", None, 3)[0]

    return by_turns({"unpacked": partial(cold, as_files), "in_memory": partial(cold, in_memory)})


def batches() -> dict[str, Any]:
    torch.set_num_threads(1)  # threads that wait for each other on a busy machine count as CPU seconds
    random = torch.Generator().manual_seed(0)
    values = torch.randint(0, 256, (10_000, 3, SIDE, SIDE), generator=random, dtype=torch.uint8)
    labels = torch.arange(10_000) % CLASSES
    raw = RawData(values, labels, values[:10], labels[:10], tuple(f"class{n}" for n in range(CLASSES)))
    plan = DataPlan("random", batch_size=128, augment=("pad_crop", "hflip"))
    sources = {
        name: DataSource(raw, plan, torch.device("cpu"), channels_last=True, fused=name == "fused")
        for name in ("step_by_step", "fused")
    }

    def epoch(source: DataSource) -> Any:
        for x, _ in source.batches(0):
            last = x
        return last.numpy()

    return {"batches_an_epoch": 79, **by_turns({name: partial(epoch, s) for name, s in sources.items()}, 9)}


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        write_images(folder)
        report("data", {"decode": decoding(folder), "archive": archives(folder, Path(scratch)), "batches": batches()})


if __name__ == "__main__":
    main()
