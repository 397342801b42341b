"""Runs stages, each in a process of its own, within a budget of time; what was measured is never lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.accelerator import metadata, results
from benchmarks.accelerator.stage import NO_DEVICE, REASON, SKIPPED
from benchmarks.accelerator.stages import Stage

LEAST = 12.0  # seconds below which no stage begins: torch and the device take some to start
TAIL = 20  # lines of the log that an error keeps


@dataclass(frozen=True)
class Call:
    """One call: where results go, a scratch folder, the device, and how many seconds there are."""

    out: Path
    work: Path
    device: str
    tiny: bool
    budget: float
    retry: bool = False

    @property
    def log(self) -> Path:
        """What the stages print beside figures."""
        return self.out.with_name(f"{self.out.name}.log")

    def command(self, stage: Stage) -> list[str]:
        """What runs a stage."""
        size = ["--tiny"] if self.tiny else []
        where = ["--out", str(self.out), "--work", str(self.work), "--device", self.device]
        return [sys.executable, "-m", "benchmarks.accelerator.stage", stage.name, *where, *size]


class Interrupted(BaseException):
    """The call is to end: Ctrl-C, or a signal that asks politely."""


def drive(call: Call, stages: Sequence[Stage], command: Callable[[Stage], list[str]] | None = None) -> int:
    """Run the stages that have no result yet, then say what there is of each; see `main` for the exit status."""
    deadline = time.monotonic() + call.budget
    known = results.read(call.out)
    environment = _environment(call)
    device = True
    with _interruptible():
        try:
            for stage in stages:
                if _has_result(known, stage, call.retry):
                    continue
                left = deadline - time.monotonic()
                if left < min(LEAST, stage.limit):
                    break
                device = _run(call, stage, left, (command or call.command)(stage), environment)
                if not device:
                    break
        except Interrupted:
            print("interrupted; the same command goes on", file=sys.stderr)
    return _summary(call, stages) if device else 2


def _has_result(known: dict[str, results.StageResult], stage: Stage, retry: bool) -> bool:
    status = known[stage.name].status if stage.name in known else None
    return status == "done" if retry else status in results.RESULTS


def _run(call: Call, stage: Stage, left: float, command: list[str], environment: dict[str, str]) -> bool:
    """Run one stage to its end or to its limit and record what came of it; whether there is a device."""
    limit = min(stage.limit, left)
    started = time.monotonic()
    status, error = "interrupted", None
    with open(call.log, "ab") as log:
        begin = log.tell()
        # a group of its own, so that what it starts ends with it
        process = subprocess.Popen(command, stderr=log, cwd=metadata.ROOT, env=environment, start_new_session=True)
        results.add(call.out, {"stage": stage.name, "start": time.strftime("%Y-%m-%dT%H:%M:%S"), "pid": process.pid})
        try:
            code = process.wait(limit)
            status = {0: "done", SKIPPED: "skipped", NO_DEVICE: "skipped"}.get(code, "failed")
            error = _reason(call.log, begin, code) if code != 0 else None
        except subprocess.TimeoutExpired:
            code = None
            status = "timed out" if limit == stage.limit else "out of time"
            error = f"stopped after {limit:.0f} s; {_tail(call.log, begin)}"
        finally:
            _end(process)
            seconds = round(time.monotonic() - started, 1)
            line = {"stage": stage.name, "status": status, "seconds": seconds}
            results.add(call.out, line if error is None else {**line, "error": error})
            why = "" if error is None else f": {error.splitlines()[0] if status == 'skipped' else error}"
            print(f"{stage.name}: {status} after {seconds} s{why}", flush=True)
    return code != NO_DEVICE


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a stage and what it started, if anything still runs."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _reason(log: Path, begin: int, code: int) -> str:
    """Why a stage ended: what it said itself, or the signal that killed it, and the end of its log."""
    tail = _tail(log, begin)
    said = [line.removeprefix(REASON) for line in tail.splitlines() if line.startswith(REASON)]
    if said and code in (SKIPPED, NO_DEVICE):
        return said[-1]
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    return f"{said[-1] if said else how}\n{tail}"


def _tail(log: Path, begin: int) -> str:
    with open(log, "rb") as file:
        file.seek(begin)
        return "\n".join(file.read().decode(errors="replace").splitlines()[-TAIL:])


def _environment(call: Call) -> dict[str, str]:
    """The checkout and its metadata come before anything that is installed."""
    site = call.work / "site"
    metadata.write(site)
    paths = [str(metadata.ROOT), str(site), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise `Interrupted`, once."""

    def stop(number: int, frame: Any) -> None:
        for name in signals:
            signal.signal(name, signal.SIG_IGN)
        raise Interrupted

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(name, stop) for name in signals]
    try:
        yield
    finally:
        for name, handler in zip(signals, before, strict=True):
            signal.signal(name, handler)


def _summary(call: Call, stages: Sequence[Stage]) -> int:
    by_stage = results.read(call.out)
    print(f"\nresults: {call.out}    log: {call.log}")
    lacking = 0
    for stage in stages:
        result = by_stage.get(stage.name, results.StageResult())
        status = result.status or "not run yet"
        lacking += status not in ("done", "skipped")
        time_taken = "" if result.seconds is None else f"{result.seconds:6.1f} s"
        print(f"  {stage.name:<16} {status:<12} {time_taken:>9}   {len(result.figures)} figures")
    return 1 if lacking else 0
