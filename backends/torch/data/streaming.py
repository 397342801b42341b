"""Images that stay in their files: worker processes decode and augment a batch when it is needed.

A job says all that its image needs (file, offsets, mirroring, key of the random crop), so workers keep no state, and
batches depend on (seed, epoch, step) alone: not on the number of workers, nor on where in an epoch a run is resumed.
Pixels travel as uint8 and are normalised on the device. A pass over the data has its own workers, which end with it.

Pillow does here what torchvision's v2 transforms make it do (the tests compare), without torchvision in the workers.
"""

from __future__ import annotations

import atexit
import math
import multiprocessing
import os
import signal
import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nasir.backends.torch.data.batches import (
    RESIZED,
    Batches,
    BatchSource,
    draw_epoch,
    random_stream,
)
from nasir.backends.torch.data.rawdata import FileData, Files
from nasir.datasets.split import partition, sampled
from nasir.errors import DataError, RunError
from nasir.images.decode import View, decode, fitted, load, pixels, resized_part
from nasir.training.plans import DataPlan, ResizedCrop

_started: weakref.WeakSet[BaseProcess] = weakref.WeakSet()


class Job(NamedTuple):
    """An image to decode. `key`: of the stream that a random crop is drawn from; `offset`: (top, left) of a crop."""

    path: str
    label: int
    key: tuple[int, ...] = ()
    offset: tuple[int, int] | None = None
    mirrored: bool = False


@dataclass(frozen=True)
class Decoder(Dataset[tuple[Any, int]]):
    """From a job to (uint8 [H, W, C], label), or to (what is wrong with the file, label)."""

    view: View
    crop: ResizedCrop | None
    pad: int

    def __getitem__(self, job: Job) -> tuple[Any, int]:
        try:
            values = self._cropped(job)
        except DataError as error:
            # raised in the main process, whose traceback is of use and names no worker
            return str(error), job.label
        if job.offset is not None and self.pad:
            top, left = job.offset
            height, width = self.view.size
            room = np.pad(values, ((self.pad, self.pad), (self.pad, self.pad), (0, 0)))
            values = room[top : top + height, left : left + width]
        return (values[:, ::-1] if job.mirrored else values), job.label

    def _cropped(self, job: Job) -> np.ndarray[Any, Any]:
        image = load(job.path, self.view)
        if self.crop is None or not job.key:
            return pixels(fitted(image, self.view, job.path))
        box = draw_box(random_stream(*job.key), image.height, image.width, self.crop)
        return pixels(resized_part(image, box, self.view.size))


def draw_box(random: np.random.Generator, height: int, width: int, crop: ResizedCrop) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random part of an image, distributed as in torchvision's RandomResizedCrop.

    Ten tries; if none fits, the middle of the image, cut to the nearest ratio allowed.
    """
    low, high = (math.log(value) for value in crop.ratio)
    for share, shape, down, right in random.random((10, 4)):
        area = height * width * (crop.scale[0] + share * (crop.scale[1] - crop.scale[0]))
        ratio = math.exp(low + shape * (high - low))
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            return int(down * (height - tall + 1)), int(right * (width - wide + 1)), tall, wide
    ratio = min(max(width / height, crop.ratio[0]), crop.ratio[1])
    wide, tall = min(width, max(round(height * ratio), 1)), min(height, max(round(width / ratio), 1))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def _stamp(files: Files) -> bytes:
    """Path, size, time of change and label of each file; none of the three for one that is gone."""
    lines = []
    for path, label in zip(files.paths, files.labels.tolist(), strict=True):
        try:
            status = os.stat(path)
            lines.append(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0{label}\n")
        except OSError:
            lines.append(f"{path}\0{label}\n")
    return "".join(lines).encode(errors="surrogateescape")


class StreamSource(BatchSource):
    """Batches of a data set that is too large for memory."""

    def __init__(self, raw: FileData, plan: DataPlan, device: torch.device, *, channels_last: bool = False) -> None:
        super().__init__(plan, device, raw.class_names, channels_last)
        self.workers = raw.workers
        self._view = raw.view
        self._decoder = Decoder(raw.view, plan.resized_crop, plan.pad)
        self._check()
        kept, held = partition(raw.train.labels, plan)
        self._train, self._validation, self._test = raw.train.take(kept), raw.train.take(held), raw.test
        self._count(raw.found, self._train.labels, self._validation.labels, self._test.labels)
        self._probe: Tensor | None = None
        self._normalise(self.shape, 255.0, raw.constants, self._sample())

    @property
    def shape(self) -> tuple[int, ...]:
        return (self._view.channels, *self._view.size)

    def fingerprint(self) -> str:
        return self._digest([repr(self._view).encode(), *map(_stamp, (self._train, self._validation))])

    @property
    def train_size(self) -> int:
        return len(self._train)

    @property
    def validation_size(self) -> int:
        return len(self._validation)

    def batches(self, epoch: int, start_step: int = 0) -> Batches:
        return self._finished(self._training_jobs(epoch, start_step))

    def validation(self) -> Batches:
        return self._finished(self._plain_jobs(self._validation))

    def train_plain(self) -> Batches:
        return self._finished(self._plain_jobs(self._train))

    def probe(self, count: int) -> Tensor:
        count = min(count, self.train_size)
        if self._probe is None or len(self._probe) < count:
            self._probe = self._decode(self._train.paths[:count])
        return self._finish(self._probe[:count].to(self.device))

    def labelled(self, count: int) -> tuple[Tensor, Tensor]:
        chosen = self._train.take(self._spread(count))
        labels = torch.from_numpy(np.asarray(chosen.labels, dtype=np.int64))
        return self._finish(self._decode(chosen.paths).to(self.device)), labels.to(self.device)

    def _decode(self, paths: Sequence[Any]) -> Tensor:
        """uint8 [n, H, W, C] of files, as evaluation sees them."""
        with ThreadPoolExecutor(max(self.workers, 1)) as pool:
            return torch.from_numpy(np.stack(list(pool.map(partial(decode, view=self._view), paths))))

    def test(self) -> Batches:
        return self._finished(self._plain_jobs(self._test))

    def _check(self) -> None:
        crop, size = self.plan.resized_crop, self._view.size
        if crop is not None and crop.size is not None and (crop.size, crop.size) != size:
            raise DataError(
                f"data set {self.plan.dataset!r}: random_resized_crop makes images of {crop.size}x{crop.size}, those "
                f"to evaluate on are {size[0]}x{size[1]}; give both one size"
            )

    def _training_jobs(self, epoch: int, start_step: int) -> Iterator[list[Job]]:
        draw = draw_epoch(self.plan, self.train_size, epoch)
        size, crops, flips = self.plan.batch_size, self._decoder.crop is not None, self.plan.flips
        for step in range(start_step, self.steps_per_epoch):
            jobs = []
            for place in range(step * size, min((step + 1) * size, self.train_size)):
                position = int(draw.order[place])
                jobs.append(
                    Job(
                        self._train.paths[position],
                        int(self._train.labels[position]),
                        (self.plan.seed, RESIZED, epoch, place) if crops else (),
                        (int(draw.top[place]), int(draw.left[place])),
                        flips and bool(draw.mirrored[place]),
                    )
                )
            yield jobs

    def _plain_jobs(self, files: Files) -> Iterator[list[Job]]:
        size = self.plan.eval_batch_size
        for start in range(0, len(files), size):
            part = slice(start, start + size)
            yield [Job(path, int(label)) for path, label in zip(files.paths[part], files.labels[part], strict=True)]

    def _sample(self) -> Iterator[Tensor]:
        """Training images to measure, [n, C, H, W]: a stratified draw, or all when there are few."""
        files = self._train.take(sampled(self._train.labels, self.plan))
        for values, _ in self._decoded(self._plain_jobs(files)):
            yield values.permute(0, 3, 1, 2)

    def _finished(self, jobs: Iterator[list[Job]]) -> Batches:
        for values, labels in self._decoded(jobs):
            there = values.to(self.device, non_blocking=True)
            yield self._finish(there), labels.to(self.device, non_blocking=True)

    def _decoded(self, jobs: Iterator[list[Job]]) -> Iterator[tuple[Tensor, Tensor]]:
        """uint8 [n, H, W, C] and labels [n] for each list of jobs, in memory that a device can copy from at once."""
        iterator = self._workers_for(jobs)
        try:
            while True:
                lost = ""
                try:
                    values, labels = next(iterator)
                except StopIteration:
                    return
                except (RuntimeError, OSError, EOFError) as error:  # the last two: a batch whose worker is gone
                    if not self.workers:
                        raise
                    lost = str(error) or type(error).__name__
                if lost:  # raised here, after the exception whose frames would keep the other workers alive
                    raise RunError(
                        f"data set {self.plan.dataset!r}: a process that decodes images was lost ({lost}); give it "
                        f"memory (also in /dev/shm), or set `options: {{workers: N}}` below {self.workers}"
                    )
                if isinstance(values, str):
                    raise DataError(values)
                yield values, labels
        finally:
            del iterator  # ends the workers

    def _workers_for(self, jobs: Iterable[list[Job]]) -> Iterator[tuple[Any, Tensor]]:
        with warnings.catch_warnings(), _same_handler():
            # Python's, about threads: workers use nothing that a thread of this process could hold at the fork
            warnings.filterwarnings("ignore", ".*use of fork", DeprecationWarning)
            # torch's, about few cores: their number is the user's choice
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            loader = DataLoader(
                self._decoder,
                batch_sampler=jobs,
                num_workers=self.workers,
                collate_fn=_stacked,
                pin_memory=self.device.type == "cuda",
                worker_init_fn=_outlive_signals,
                generator=torch.Generator(),  # the global one is not to move
            )
            others = set(multiprocessing.active_children())
            iterator = iter(loader)
            _started.update(set(multiprocessing.active_children()) - others)
            return iterator


def _stacked(items: list[tuple[Any, int]]) -> tuple[Any, Tensor]:
    """A batch, or the first message about a file in place of its images."""
    labels = torch.tensor([label for _, label in items], dtype=torch.int64)
    for item, _ in items:
        if isinstance(item, str):
            return item, labels
    return torch.from_numpy(np.stack([values for values, _ in items])), labels


@contextmanager
def _same_handler() -> Iterator[None]:
    """Keep the process's own answer to the end of a child: torch's raises wherever the main process happens to be.

    A lost worker is then found by the next call for a batch, within seconds, which can say what to do about it.
    """
    number = getattr(signal, "SIGCHLD", None)  # not on every system
    before = None if number is None else signal.getsignal(number)
    yield
    if number is not None and before is not None and signal.getsignal(number) != before:
        signal.signal(number, before)


def _outlive_signals(worker: int) -> None:
    """Let the main process come to its checkpoint when a terminal or a scheduler signals all processes of a job.

    Workers end when their pass does, or within seconds of the main process.
    """
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


@atexit.register
def _end_workers() -> None:
    """Those of a pass that an exception cut short: they ignore the SIGTERM that Python sends, and then waits for."""
    for process in list(_started):
        process.kill()
