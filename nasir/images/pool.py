"""Many images at once: in processes, for the interpreter lock lets one thread at a time decode small ones."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np

from nasir.cores import cores, threads_allowed
from nasir.errors import DataError
from nasir.images.decode import ImageSource, Pixels, View, decode_into
from nasir.images.worker import Lost, Worker

LEAST = 3000  # images from which on processes decode: two of them then make up for their start, even with 32x32
EACH = 1000  # images of a process at least
MOST = 32  # processes, or threads
_PIECE, _PIECE_BYTES = 256, 4 * 2**20  # images in a request, and bytes of their pixels
_log = logging.getLogger(__name__)


def decode_all(sources: Sequence[ImageSource], view: View, workers: int | None = None) -> Pixels:
    """All `sources` as uint8 [N, C, H, W]; the same, and the same DataError, with any number of `workers`.

    `workers`: processes; None: as many as cores and thread limits (`OMP_NUM_THREADS`) allow, at most one for each
    1,000 images, and none for less than 3,000. With less than two, threads of this process decode.
    """
    images = np.empty((len(sources), view.channels, *view.size), np.uint8)
    allowed = min(threads_allowed(os.environ, cores()), MOST)
    if workers is None:
        workers = min(allowed, len(sources) // EACH) if len(sources) >= LEAST else 0
    most = _PIECE if workers > 1 else 1 + len(sources) // (16 * allowed)
    size = max(min(most, _PIECE, _PIECE_BYTES // max(images[:1].nbytes, 1)), 1)
    pieces = [slice(start, start + size) for start in range(0, len(sources), size)]
    _Work(sources, view, images, pieces, workers > 1).run(workers if workers > 1 else allowed)
    return images


class _Work:
    """Images dealt out, piece by piece, to threads that have a worker process each, or that decode themselves."""

    def __init__(
        self, sources: Sequence[ImageSource], view: View, images: Pixels, pieces: Sequence[slice], processes: bool
    ) -> None:
        self._sources, self._view, self._images = sources, view, images
        self._pieces, self._processes = enumerate(pieces), processes
        self._faults: dict[int, DataError] = {}  # by number of the piece
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
        if self._faults:  # pieces are dealt out in order, so none before the first damaged one is left out
            raise self._faults[min(self._faults)]

    def _lane(self) -> None:
        worker = None
        try:
            worker = self._start() if self._processes else None
            while (dealt := self._deal()) is not None:
                number, piece = dealt
                try:
                    worker = self._decode(worker, piece)
                except DataError as error:
                    self._faults[number] = error
        except BaseException:
            self._stop()
            raise
        finally:
            if worker is not None:
                worker.close()

    def _deal(self) -> tuple[int, slice] | None:
        with self._lock:
            return None if self._stopped or self._faults else next(self._pieces, None)

    def _decode(self, worker: Worker | None, piece: slice) -> Worker | None:
        """Decode a piece; the worker comes back, or None if it was lost."""
        images, sources = self._images[piece], self._sources[piece]
        if worker is not None:
            try:
                worker.decode_into(images, sources)
                return worker
            except Lost as lost:
                worker.close()
                if self._stopped:
                    return None
                _tell(lost)
        decode_into(images, sources, self._view)
        return None

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
