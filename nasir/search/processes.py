"""Workers as processes of this machine: cores divided between them, a log each, none left without a supervisor."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from nasir.cores import THREADS, cores, threads_allowed
from nasir.running.engine import Signals
from nasir.search.devices import VISIBLE, view

LINES = 15  # of a log that an error shows


def limited(environment: Mapping[str, str], threads: int) -> dict[str, str]:
    """The environment of a worker with so many threads, or fewer if it says so.

    One number for all libraries: torch follows MKL's where the two differ, and threads that wait for each other spin.
    """
    least = threads_allowed(environment, threads)
    return {**environment, "PYTHONUNBUFFERED": "1", **dict.fromkeys(THREADS, str(least))}


class Log:
    """`workers/N.log` with the first N that no living worker or supervisor holds."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.number = 1
        while True:
            self.path = folder / f"{self.number}.log"
            self.file: BinaryIO = self.path.open("ab")
            try:
                # workers inherit the lock with their stderr: it lasts until the last of them is gone
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                self.file.close()
                self.number += 1
        self.began = self.path.stat().st_size

    def begin(self, title: str, environment: Mapping[str, str]) -> None:
        """Head what a new worker writes: who it is, and which CUDA devices it may see where that was said."""
        seen = f", {VISIBLE}={environment[VISIBLE]}" if VISIBLE in environment else ""
        self.file.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {title}{seen}\n".encode())
        self.file.flush()
        self.began = self.path.stat().st_size

    def tail(self) -> str:
        """The last lines since `begin`."""
        with self.path.open("rb") as file:
            file.seek(max(self.began, self.path.stat().st_size - 200 * LINES))
            lines = file.read().decode("utf-8", "replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-LINES:]) or "  nothing"

    def close(self) -> None:
        self.file.close()


class Process:
    """A worker process; it has a process group of its own, so that Ctrl-C reaches it through the supervisor only."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Log) -> None:
        self.log = log
        self.stopped = False
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=log.file, stderr=log.file, process_group=0
        )

    def poll(self) -> int | None:
        code = self.process.poll()
        if code is not None and self.process.stdin is not None:
            self.process.stdin.close()
        return code

    def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def tail(self) -> str:
        return self.log.tail()


class Processes:
    """A place for `workers` workers on this machine; `command` is `nasir search --worker` for this study.

    `folder`: of their logs. `origin`: tells their seeds from those of earlier workers and of other machines.
    `devices`: CUDA devices dealt out to them by turns (none: they see what this process sees).
    Workers of this machine and folder are told apart by the number of the log that they hold.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        workers: int,
        origin: str = "",
        devices: Sequence[str] = (),
    ) -> None:
        self.command = tuple(command)
        self.origin = origin
        self.devices = tuple(devices)
        self.environment = limited(environment, max(1, cores() // workers))
        self.logs = [Log(folder) for _ in range(workers)]
        self.token = uuid.uuid4().hex[:6]  # machines may share a name

    def identity(self, slot: int, restart: int) -> str:
        return f"{socket.gethostname()}-{self.logs[slot - 1].number}-{self.token}.{restart}"

    def start(self, slot: int, restart: int) -> Process:
        identity, log = self.identity(slot, restart), self.logs[slot - 1]
        environment = {**self.environment, **view(self.devices, slot)}
        log.begin(identity, environment)
        command = [*self.command, "--identity", identity, "--slot", f"{log.number}.{restart}.{self.origin}"]
        return Process(command, environment, log)

    def close(self) -> None:
        for log in self.logs:
            log.close()


def worker_command(study: str, folder: Path) -> list[str]:
    """The command of a worker; the storage is in its environment, where other users do not see a password."""
    return [sys.executable, "-m", "nasir", "search", "--worker", "--study", study, "--out", str(folder)]


def stop_without_supervisor(signals: Signals) -> None:
    """Ask for a stop when the supervisor is gone: the other end of stdin is closed, however it ended."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        if not signals.exit_code:
            signals.exit_code = 75

    threading.Thread(target=wait, name="supervisor", daemon=True).start()
