"""A process that decodes images, told which ones through stdin; pixels go back through stdout.

The pipes are all there is between it and the process that started it: when that one ends, however it does, stdin is at
its end and so is this process, and no file or shared memory is left.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

import numpy as np
from PIL import ImageFile

from nasir.cores import THREADS
from nasir.images.decode import Fault, ImageSource, Pixels, View, decode_into

# the paths of the process that starts it, so that it finds the same modules; nothing of the main script is imported
_COMMAND = "import sys; sys.path[:] = sys.argv[1:]; from nasir.images.worker import serve; serve()"


class Lost(Exception):
    """A worker process did not answer."""


class Worker:
    """A worker process, as seen by the one that starts it; Lost when that cannot be done."""

    def __init__(self, view: View) -> None:
        if not sys.executable or getattr(sys, "frozen", False):
            raise Lost("there is no Python to start")
        command = [sys.executable, "-P", "-c", _COMMAND, *(os.path.abspath(path) for path in sys.path)]
        pipe = subprocess.PIPE
        # a process group of its own: Ctrl-C reaches it through its stdin only
        group = 0 if os.name == "posix" else None
        environment = {**os.environ, **dict.fromkeys(THREADS, "1")}
        try:
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, process_group=group)
        except OSError as error:
            raise Lost(str(error)) from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._settings = (view, ImageFile.LOAD_TRUNCATED_IMAGES)

    def decode_into(self, images: Pixels, sizes: Pixels, sources: Sequence[ImageSource]) -> list[Fault]:
        """As `decode.decode_into`; the arrays must be contiguous, `sizes` int32. Lost: the process is gone."""
        try:
            pickle.dump((self._settings, sources), self._requests, pickle.HIGHEST_PROTOCOL)
            self._requests.flush()
            faults: list[Fault] = pickle.load(self._answers)
            for array in (images, sizes):
                if self._answers.readinto(array.data.cast("B")) < array.nbytes:  # type: ignore[attr-defined]
                    raise EOFError("its answer was cut short")
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise Lost(str(error) or type(error).__name__) from error
        return faults

    def kill(self) -> None:
        """End the process; a call of `decode_into` then raises Lost."""
        self._process.kill()

    def close(self) -> None:
        """End the process and wait until it is gone."""
        self.kill()
        self._process.wait()
        self._answers.close()
        with suppress(OSError):  # a request it did not take
            self._requests.close()


def serve() -> None:
    """What a worker does."""
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what anything prints is not to land among pixels
        try:
            while _answer(sys.stdin.buffer, answers):
                pass
        except BrokenPipeError:
            os._exit(0)  # nobody is left to answer


def _answer(requests: IO[bytes], answers: IO[bytes]) -> bool:
    """Answer one request; false when there are no more."""
    try:
        settings, sources = pickle.load(requests)
    except EOFError:
        return False
    view, ImageFile.LOAD_TRUNCATED_IMAGES = settings
    images = np.empty((len(sources), view.channels, *view.size), np.uint8)
    sizes = np.empty((len(sources), 2), np.int32)
    try:
        faults = decode_into(images, sizes, sources, view)
    except Exception:
        return False  # the process that asked will decode these itself, and meet the same
    pickle.dump(faults, answers, pickle.HIGHEST_PROTOCOL)
    answers.write(images.data)
    answers.write(sizes.data)
    answers.flush()
    return True
