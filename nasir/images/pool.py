"""Many images at once: in processes, for the interpreter lock lets one thread at a time decode small ones."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import NamedTuple

import numpy as np

from nasir.cores import cores, threads_allowed
from nasir.errors import DataError
from nasir.images.decode import DamagedImage, Fault, ImageSource, Pixels, View, decode_into
from nasir.images.worker import Lost, Worker

LEAST = 3000  # images from which on processes decode: two of them then make up for their start, even with 32x32
EACH = 1000  # images of a process at least
MOST = 32  # processes, or threads
LISTED = 20  # faults that an error names
_PIECE, _PIECE_BYTES = 256, 4 * 2**20  # images in a request, and bytes of their pixels
_log = logging.getLogger(__name__)


class Decoded(NamedTuple):
    """Images uint8 [N, C, H, W], the heights and widths that they are stored in, int32 [N, 2], and what is wrong, by
    place; an image that has a fault is black and has no size."""

    images: Pixels
    sizes: Pixels
    faults: tuple[Fault, ...]


def decode_all(sources: Sequence[ImageSource], view: View, workers: int | None = None) -> Pixels:
    """All `sources` as uint8 [N, C, H, W]; DataError names those that cannot be used. See `decode_each`."""
    decoded = decode_each(sources, view, workers)
    refuse(decoded.faults, len(sources))
    return decoded.images


def decode_each(sources: Sequence[ImageSource], view: View, workers: int | None = None) -> Decoded:
    """All `sources`, as far as they can be used; the same with any number of `workers`.

    `workers`: processes; None: as many as cores and thread limits (`OMP_NUM_THREADS`) allow, at most one for each
    1,000 images, and none for less than 3,000. With less than two, threads of this process decode.
    """
    images = np.empty((len(sources), view.channels, *view.size), np.uint8)
    sizes = np.empty((len(sources), 2), np.int32)
    allowed = min(threads_allowed(os.environ, cores()), MOST)
    if workers is None:
        workers = min(allowed, len(sources) // EACH) if len(sources) >= LEAST else 0
    most = _PIECE if workers > 1 else 1 + len(sources) // (16 * allowed)
    size = max(min(most, _PIECE, _PIECE_BYTES // max(images[:1].nbytes, 1)), 1)
    pieces = [slice(start, start + size) for start in range(0, len(sources), size)]
    work = _Work(sources, view, images, sizes, pieces, workers > 1)
    work.run(workers if workers > 1 else allowed)
    return Decoded(images, sizes, tuple(sorted(work.faults)))


def refuse(faults: Sequence[Fault], total: int, remedy: str = "") -> None:
    """Raise the DataError that lists what is wrong with images, if anything is; `total`: images in all."""
    if not faults:
        return
    kind = DamagedImage if all(fault.damaged for fault in faults) else DataError
    if len(faults) == 1 and not remedy:
        raise kind(faults[0].text)
    listed = [fault.text for fault in faults[:LISTED]]
    further = f"; {remedy}" if remedy else ""
    more = f"; the first {LISTED}" if len(faults) > LISTED else ""
    raise kind(
        "\n".join([f"{len(faults)} of {total} image{'s' * (total > 1)} cannot be used{further}{more}:", *listed])
    )


class _Work:
    """Images dealt out, piece by piece, to threads that have a worker process each, or that decode themselves."""

    def __init__(
        self,
        sources: Sequence[ImageSource],
        view: View,
        images: Pixels,
        sizes: Pixels,
        pieces: Sequence[slice],
        processes: bool,
    ) -> None:
        self._sources, self._view, self._images, self._sizes = sources, view, images, sizes
        self._pieces, self._processes = iter(pieces), processes
        self.faults: list[Fault] = []  # in no order
        self._stopped = False
        self._workers: list[Worker] = []
        self._lock = Lock()

    def run(self, threads: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            lanes = [pool.submit(self._lane) for _ in range(threads)]
            try:
                for lane in lanes:
                    lane.result()
            except BaseException:
                self._stop()
                raise

    def _lane(self) -> None:
        worker = None
        try:
            worker = self._start() if self._processes else None
            while (piece := self._deal()) is not None:
                worker = self._decode(worker, piece)
        except BaseException:
            self._stop()
            raise
        finally:
            if worker is not None:
                worker.close()

    def _deal(self) -> slice | None:
        with self._lock:
            return None if self._stopped else next(self._pieces, None)

    def _decode(self, worker: Worker | None, piece: slice) -> Worker | None:
        """Decode a piece; the worker comes back, or None if it was lost."""
        given = self._images[piece], self._sizes[piece], self._sources[piece]
        if worker is not None:
            try:
                self._note(piece, worker.decode_into(*given))
                return worker
            except Lost as lost:
                worker.close()
                if self._stopped:
                    return None
                _tell(lost)
        self._note(piece, decode_into(*given, self._view))
        return None

    def _note(self, piece: slice, faults: Sequence[Fault]) -> None:
        self.faults.extend(fault._replace(place=piece.start + fault.place) for fault in faults)

    def _start(self) -> Worker | None:
        with self._lock:
            if self._stopped:
                return None
            try:
                worker = Worker(self._view)
            except Lost as lost:
                _tell(lost)
                return None
            self._workers.append(worker)
            return worker

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            for worker in self._workers:
                worker.kill()


def _tell(lost: Lost) -> None:
    _log.warning("a process that decodes images was lost (%s); this one decodes in its place", lost)
