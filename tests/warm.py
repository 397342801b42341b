"""Processes of their own that start at once: each is a copy of one that has torch and nasir imported."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import ModuleType
from typing import Any

IMPORTED = [
    "pytest",
    "nasir.api",
    "nasir.cli.main",
    "nasir.report",
    "nasir.search.study",
    "nasir.search.board",
    "nasir.backends.torch.backend",
]


@cache
def context() -> ForkServerContext:
    """What starts the copies; warnings are errors in them, as they were while they imported."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(IMPORTED)
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = "error"
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONWARNINGS"]
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before
    return made


class Process:
    """A copy that runs what `python WORDS` would, with the methods of `subprocess.Popen`."""

    def __init__(
        self,
        *words: str,
        stdout: str | Path = os.devnull,
        stderr: str | Path = os.devnull,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        """`words`: `-m MODULE`, `-c CODE` or a file, then arguments. `stdout`, `stderr`: files, written anew.

        `environment`: this process's by default; what libraries read from it when imported they have read before.
        """
        self.words = words
        streams = str(Path(stdout).absolute()), str(Path(stderr).absolute())
        variables = dict(os.environ if environment is None else environment)
        # a daemon: a test that fails need not wait for what it has started
        self._process = context().Process(
            target=_become, args=(words, streams, variables, str(folder or Path.cwd())), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired after so many seconds."""
        self._process.join(timeout)
        code = self.returncode
        if code is None:
            raise subprocess.TimeoutExpired(self.words, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def completed(
    *words: str, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """A copy that has ended, with what it wrote."""
    with tempfile.TemporaryDirectory() as written:
        out, errors = Path(written) / "out", Path(written) / "errors"
        process = Process(*words, stdout=out, stderr=errors, environment=environment, folder=folder)
        code = process.wait()
        return subprocess.CompletedProcess(words, code, out.read_text(), errors.read_text())


def nasir(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command line, likewise; `options`: as `completed` has them."""
    return completed("-m", "nasir", *arguments, **options)


def _become(words: tuple[str, ...], streams: tuple[str, str], environment: dict[str, str], folder: str) -> None:
    multiprocessing.current_process().daemon = False  # daemons may have no processes of their own
    for number, path in enumerate(streams, 1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    how, *rest = words
    if how == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif how == "-c":
        sys.argv = [how, *rest[1:]]
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = list(words)
        runpy.run_path(how, run_name="__main__")
