"""Small searches for fault tests: real training on the digits, processes to kill, and what must hold afterwards."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Self

import optuna
import warm
from held import Hold
from living import children, status
from optuna.trial import FrozenTrial, TrialState
from small_runs import stable, weights

from nasir.journal.directory import RunDirectory
from nasir.journal.log import effective, read_journal
from nasir.records import CheckpointRecord, EndRecord
from nasir.search.points import Ledger

SPEC = """\
nasir: 1
name: faults
HOLD\
seed: 5
device: cpu
input: {image: [1, 8, 8]}
network:
  - conv_bn_relu: {out: 4, kernel: 3}
  - stage: {name: s1, block: basic, out: 4, depth: 1}
  - stage: {name: s2, block: basic, out: 8, depth: 1, stride: 2}
  - classifier: {classes: 10}
data: {dataset: digits, batch_size: 32, validation: 200}
phases:
  - name: grow
    epochs: EPOCHS
    optimizer: {sgd: {lr: {choose: {float: [0.01, 0.2], log: true}}, momentum: 0.9}}
    rules:
      - every: {choose: {int: [1, 2]}}
        do: {insert-block: {init: {choose: [zero, gaussian]}}}
        where: {stages: [s1]}
        at_most: 2
search:
  trials: TRIALS
  sampler: SAMPLER
  pruner: PRUNER
  retries: 10
  reuse: {prefixes: false, architectures: false}
  heartbeat: HEARTBEAT
"""
DEFAULTS = {"EPOCHS": "6", "TRIALS": "8", "SAMPLER": "random", "PRUNER": "none"}
DEFAULTS["HEARTBEAT"] = "{interval: 60, grace: 300}"
ENDS = (TrialState.COMPLETE, TrialState.PRUNED)


def write_search(folder: Path, held: Hold | None = None, **values: object) -> Path:
    """The spec as a file; names of `DEFAULTS` in lower case change it. `held`: what its trials wait for."""
    text = SPEC.replace("HOLD", "" if held is None else held.lines)
    for name, value in {**DEFAULTS, **{name.upper(): str(value) for name, value in values.items()}}.items():
        text = text.replace(name, value)
    path = folder / "faults.yaml"
    path.write_text(text)
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "nasir", "search", *map(str, arguments)]


def environment(url: str | None = None) -> dict[str, str]:
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    return variables if url is None else {**variables, "NASIR_STORAGE": url}


class Search:
    """A running `nasir search`."""

    def __init__(self, log: Path, *arguments: object, url: str | None = None) -> None:
        self.log = log
        with log.open("ab") as file:
            self.process = subprocess.Popen(command(*arguments), stdout=file, stderr=file, env=environment(url))

    def workers(self) -> list[int]:
        """Process ids of its living workers."""
        return children(self.process.pid)

    def said(self) -> str:
        return self.log.read_text()

    def wait(self) -> int:
        """Its exit code; the time limit of the test bounds it."""
        return self.process.wait()

    def suspend(self, pid: int, database: Path) -> None:
        """Stop one of its workers for a while, but not while it holds a lock of the SQLite file."""
        while True:
            os.kill(pid, signal.SIGSTOP)
            while (state_and_parent := status(pid)) is not None and state_and_parent[0] != "T":
                time.sleep(0.001)
            if not locked(database):
                return
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.01)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Leave nothing running, whatever a test met."""
        left = self.workers()
        self.process.kill()
        self.process.wait()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def locked(database: Path) -> bool:
    """Whether somebody writes into an SQLite file and has not finished within a moment."""
    with closing(sqlite3.connect(database, timeout=1.0, isolation_level=None)) as connection:
        try:
            connection.execute("begin exclusive")
        except sqlite3.OperationalError:
            return True
        connection.execute("rollback")
    return False


def silence(database: Path, trial: FrozenTrial, seconds: int) -> None:
    """Make a trial's last sign of life so much older."""
    with closing(sqlite3.connect(database, timeout=60.0)) as connection, connection:
        changed = connection.execute(
            "update trial_heartbeats set heartbeat = datetime(heartbeat, ?) where trial_id = ?",
            (f"-{seconds} seconds", trial._trial_id),
        )
        assert changed.rowcount == 1


def until(condition: Callable[[], Any], search: Search | None = None) -> Any:
    """The first true answer; fails when the search ends before. The time limit of the test bounds it."""
    while True:
        began = time.monotonic()
        if result := condition():
            return result
        assert search is None or search.process.poll() is None, search.said()
        time.sleep(max(0.02, 9 * (time.monotonic() - began)))  # a tenth of a core at most: others are to get on


def trials_of(url: str, name: str = "faults") -> list[FrozenTrial]:
    """All trials of a study, none of them while it has not been made."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.RDBStorage(url)
    try:
        return optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    except KeyError:
        return []
    finally:
        storage.remove_session()
        storage.engine.dispose()


def training(search: Search | None, folder: Path) -> dict[int, Path]:
    """Process ids of the workers that train a run with a checkpoint at this moment, and their run directories.

    `search`: None where the workers are not its children.
    """
    workers = None if search is None else set(search.workers())
    runs = {}
    for path in folder.glob("trials/*/lock"):
        holder, run = path.read_text().split(), RunDirectory(path.parent)  # "pid N on HOST"; a dead one stays there
        if len(holder) < 2 or (workers is not None and int(holder[1]) not in workers):
            continue
        if run.checkpoint_steps() and not any(isinstance(record, EndRecord) for record in run.records()):
            runs[int(holder[1])] = run.path
    return runs


def kill_workers(search: Search, folder: Path, times: int, seed: int = 0) -> int:
    """Kill random workers at random moments while the search runs; how many were killed."""
    chance = random.Random(seed)
    killed: set[int] = set()  # it takes a moment until a killed process is gone
    while len(killed) < times and search.process.poll() is None:
        if len(killed) % 4 == 3:  # any worker, which may be starting or between two trials
            pids = set(search.workers())
        else:  # starting takes as long as training here: most kills are to hit what trains
            pids = set(training(search, folder))
        if pids - killed:
            victim = chance.choice(sorted(pids - killed))
            time.sleep(chance.uniform(0.0, 0.3))
            if victim in search.workers():  # it may have ended by itself
                os.kill(victim, signal.SIGKILL)
                killed.add(victim)
        time.sleep(0.05)
    return len(killed)


def assert_exactly_once(trials: list[FrozenTrial], points: int, retries: int = 10) -> list[FrozenTrial]:
    """Every point ended COMPLETE or PRUNED once, nothing is left over; the trials that settled one, by point."""
    ledger = Ledger(trials, retries)
    assert sorted(ledger.points) == list(range(points))
    assert not [trial.number for trial in trials if trial.state in (TrialState.WAITING, TrialState.RUNNING)]
    ends: dict[int, list[FrozenTrial]] = {point: [] for point in range(points)}
    for trial in trials:
        if trial.state in ENDS:
            ends[trial.user_attrs["point"]].append(trial)
    assert all(len(settled) == 1 for settled in ends.values()), {point: len(states) for point, states in ends.items()}
    return [states[0] for states in ends.values()]


def assert_resumed(trials: list[FrozenTrial], folder: Path) -> list[FrozenTrial]:
    """Each retry began where the newest checkpoint of the attempt before stood; those that did and came to an end.

    A checkpoint is written while training goes on: the last one that the journal of a killed attempt tells of may not
    have come to the disk, and the one before has. The first is there before it is told of.
    """
    resumed = []
    runs = {(t.user_attrs["point"], t.user_attrs["attempt"]): t for t in trials if not t.user_attrs.get("duplicate")}
    for (point, attempt), trial in runs.items():
        before = runs.get((point, attempt - 1))
        if before is None or "run" not in before.user_attrs or trial.state not in ENDS:
            continue
        assert trial.user_attrs["run"] != before.user_attrs["run"]
        assert trial.params == before.params or not before.params
        journal = folder / before.user_attrs["run"] / "journal.jsonl"
        records = effective(read_journal(journal)[0]) if journal.exists() else ()
        saved = [record["epoch"] for record in records if isinstance(record, CheckpointRecord)]
        told = trial.user_attrs.get("resumed", 0)
        assert told >= (saved[-2:][0] if saved else 0), (point, attempt, told, saved)
        if saved:
            resumed.append(trial)
    return resumed


def assert_equals_alone(trial: FrozenTrial, folder: Path, scratch: Path) -> None:
    """A trial equals the run of its spec alone, bit for bit: decisions, metrics and weights."""
    run = folder / trial.user_attrs["run"]
    done = warm.nasir("run", str(run / "spec.yaml"), "--out", str(scratch))
    assert done.returncode == 0, done.stderr
    assert stable(RunDirectory.open(run).effective()) == stable(RunDirectory.open(scratch).effective())
    assert weights(run) == weights(scratch)
    assert trial.value == stable(RunDirectory.open(scratch).effective())[-1]["metrics"]["val.accuracy"]
