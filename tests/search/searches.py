"""Small studies for tests: a spec with choices, dummy trainings, and everything that may happen to a worker."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import sqlalchemy
import warm

from nasir.records import Record, from_json
from nasir.running.engine import Signals
from nasir.search.storage import open_storage
from nasir.search.study import Study
from nasir.search.trial import Executor, Outcome, TrialJob
from nasir.search.urls import sqlite_url
from nasir.search.worker import Identity, work
from nasir.spec.search import SearchSpec, loads_search

SPEC = """\
nasir: 1
name: small
seed: 1
device: cpu
input: {image: [3, 8, 8]}
network:
  - conv_bn_relu: {out: 4, kernel: 3}
  - stage: {name: s1, block: basic, out: 4, depth: 1}
  - classifier: {classes: 3}
data:
  dataset: synthetic
  options: {classes: 3, size: 8, channels: 3, train: 96, test: 48}
  batch_size: 16
  validation: 24
precision: fp32
phases:
  - name: grow
    epochs: 3
    optimizer: {sgd: {lr: {choose: {float: [0.001, 0.5], log: true}, name: lr}, momentum: 0.9}}
    rules:
      - every: {choose: {int: [1, 2]}, name: every}
        do: {insert-block: {init: {choose: [zero, gaussian], name: init}}}
        where: {stages: [s1]}
        at_most: 1
search:
"""


@cache
def spec(search: str = "trials: 3", text: str = SPEC) -> SearchSpec:
    """The small spec with a search section, given in one line or several."""
    lines = [f"  {line}\n" for line in search.splitlines()]
    return loads_search(text + "".join(lines), "small.yaml")


opened: list[Study] = []
"""What a test has opened; closed after it."""


def processes(number: int) -> Pool:
    """Processes of their own, each a copy of one that has the imports behind it."""
    return warm.context().Pool(number)


@cache
def empty() -> bytes:
    """An SQLite file with the tables of studies, and nothing in them."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.db"
        open_storage(sqlite_url(file)).close()
        return file.read_bytes()


def make(
    folder: Path, search: str = "trials: 3", *, trials: int | None = None, text: str = SPEC, **options: Any
) -> Study:
    """A study on SQLite in a folder, made or gone on with. One process at a time may make it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "study.db"
    if not file.exists():  # making the tables takes longer than most tests
        file.write_bytes(empty())
    return from_nothing(folder, search, trials=trials, text=text, **options)


def from_nothing(
    folder: Path, search: str = "trials: 3", *, trials: int | None = None, text: str = SPEC, **options: Any
) -> Study:
    """The same without a database to begin with; any number of processes may make it at once."""
    url = sqlite_url(folder / "study.db")
    return relaxed(Study.create(spec(search, text), url, "small", folder, trials, **options))


def relaxed(study: Study) -> Study:
    """Do not wait for the disk: no test pulls a plug."""
    engine = study.storage._backend.engine
    sqlalchemy.event.listen(
        engine, "connect", lambda connection, record: connection.execute("pragma synchronous = off")
    )
    engine.dispose()
    opened.append(study)
    return study


def again(study: Study, **options: Any) -> Study:
    """The same study as another process would open it."""
    url = study.storage.url.render_as_string(hide_password=False)
    return relaxed(Study.open(url, study.name, study.folder, **options))


def silence(study: Study, trial: int, seconds: int) -> None:
    """Make the last sign of life of a trial, by its number, so much older: no test waits for a grace to pass."""
    number = study.trials()[trial]._trial_id
    with study.storage._backend.engine.begin() as connection:
        changed = connection.execute(
            sqlalchemy.text("update trial_heartbeats set heartbeat = datetime(heartbeat, :by) where trial_id = :trial"),
            {"by": f"-{seconds} seconds", "trial": number},
        )
    assert changed.rowcount == 1


def epoch(number: int, accuracy: float = 0.5, **more: Any) -> Record:
    """A journal record of an epoch."""
    fields = {
        "phase": "grow",
        "epoch": number,
        "phase_epoch": number,
        "metrics": {"val.accuracy": accuracy, "val.loss": 1.0 - accuracy},
        "depths": {"s1": 1},
        "params": 100,
        "macs": 1000,
        "samples": 10,
        "cpu_seconds": 1.0,
        **more,
    }
    return from_json({**fields, "kind": "epoch"})


def outcome(accuracy: float = 0.5, **fields: Any) -> Outcome:
    metrics = {"val.accuracy": accuracy, "val.loss": 1.0 - accuracy}
    return Outcome(metrics, {"params": 100, "macs": 1000}, {"s1": 1}, fields.pop("epochs", 3), 3.0, **fields)


def quick(job: TrialJob, listener: Callable[[Record], None], signals: Signals) -> Outcome:
    """A training that takes no time, better with a larger learning rate."""
    accuracy = min(1.0, 2 * job.spec.phases[0].optimizer.chosen["lr"])
    for number in range(1, 4):
        listener(epoch(number, accuracy * number / 3))
    return outcome(accuracy)


def drive(study: Study, name: str = "w", executor: Executor = quick, slot: str | None = "1.0", **options: Any) -> int:
    """One worker until it ends."""
    return work(study, Identity(name, slot), executor, say=lambda text: None, **options)


class Killed(BaseException):
    """Stands for kill -9: nothing in the worker catches it."""


def dies(job: TrialJob, listener: Callable[[Record], None], signals: Signals) -> Outcome:
    listener(epoch(1))
    raise Killed


def ended(study: Study) -> dict[int, list[str]]:
    """How the trials of each point ended."""
    states: dict[int, list[str]] = {}
    for trial in study.trials():
        states.setdefault(trial.user_attrs["point"], []).append(trial.state.name)
    return states
