"""One attempt at a trial as an ordinary run: begun, gone on with where an earlier attempt stopped, and summed up."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from nasir import api
from nasir.errors import CheckpointError, JournalError, UsageError
from nasir.ir import Graph
from nasir.journal.directory import RunDirectory, share_file
from nasir.journal.log import effective, read_journal
from nasir.records import EndRecord, EpochRecord, PrefixRecord, PrunedRecord, Record, newest_network, of_kind
from nasir.running.engine import Signals, setup_of
from nasir.running.modules import module_behind
from nasir.running.prefixes import PrefixStore
from nasir.search import architectures
from nasir.spec import Spec, import_plugins
from nasir.spec.imported import imported
from nasir.spec.inherit import inherited
from nasir.spec.model_search import Search
from nasir.spec.model_source import RunNetwork
from nasir.spec.network import build
from nasir.training.backend import make_backend

__all__ = [
    "Executor",
    "Outcome",
    "Pruned",
    "TrialJob",
    "data_fingerprint",
    "start_network",
    "summed_up",
    "tidy",
    "train",
]

STEP = re.compile(r"step_(\d+)")


class Pruned(Exception):
    """Raised by a listener at an epoch: the trial is not worth going on with."""


@dataclass(frozen=True, slots=True)
class TrialJob:
    """What to run and where.

    `number` is that of the Optuna trial; `previous` the run directory of the newest earlier attempt that left a
    checkpoint on this machine; `study` the study folder; `say` takes remarks for the log.
    """

    spec: Spec
    number: int
    point: int
    attempt: int
    directory: Path
    previous: Path | None
    study: Path
    search: Search
    say: Callable[[str], None] = lambda text: None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of a trial.

    `metrics`: val.*, test.* and train.* at the end. `cost`: params and macs. `epochs` and `cpu_seconds`: of the whole
    training, also what an earlier attempt or a stored prefix did of it. `seconds`: wall time of this attempt. `notes`:
    further user attributes, such as `prefix` and `resumed`.
    """

    metrics: Mapping[str, float]
    cost: Mapping[str, float]
    depths: Mapping[str, int]
    epochs: int
    cpu_seconds: float
    seconds: float = 0.0
    latency_ms: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def found(self) -> dict[str, float]:
        """Every number that an objective or a constraint may name."""
        latency = {} if self.latency_ms is None else {"latency_ms": self.latency_ms}
        return {**self.metrics, **self.cost, **latency, "epochs": self.epochs, "cpu_seconds": self.cpu_seconds}


Executor = Callable[[TrialJob, Callable[[Record], None], Signals], Outcome]
"""Runs a trial: shows each journal record to the listener, whose exceptions end it, and heeds the signals."""


def train(job: TrialJob, listener: Callable[[Record], None], signals: Signals) -> Outcome:
    """Train a trial to its end. Raises what `nasir.run` raises, and what the listener does."""
    started = time.monotonic()
    reuse = job.search.reuse
    options: dict[str, Any] = {"signals": signals, "notice": job.say, "prefix_every": reuse.every}
    options["prefixes"] = PrefixStore(job.study / "prefixes", reuse.disk) if reuse.prefixes else None
    options["note_data"] = job.search.caches_architectures
    try:
        run = _gone_on(job, listener, options) or api.run(job.spec, job.directory, listener=listener, **options)
    except Pruned:
        _mark_pruned(job.directory)
        raise
    outcome = summed_up(run.journal, time.monotonic() - started)
    data = RunDirectory(job.directory).env().get("data")
    if data is not None:
        outcome = replace(outcome, notes={**outcome.notes, architectures.DATA: data})
    if "latency_ms" not in job.search.metrics:
        return outcome
    latency = job.search.latency
    module = module_behind(job.spec, run.graph)
    measure = make_backend(job.spec.backend).measure
    measure = measure if module is None else partial(measure, module=module)
    measured = measure(run.graph, latency.batch, latency.device, latency.threads)
    return replace(outcome, seconds=time.monotonic() - started, latency_ms=1000 * measured.median)


def start_network(spec: Spec) -> Graph:
    """The network that training would begin with."""
    import_plugins(spec)
    if isinstance(spec.network, RunNetwork):
        return inherited(spec).graph
    return build(spec, module=imported(spec))


def data_fingerprint(spec: Spec) -> str:
    """The digest of the data that training would read."""
    with closing(make_backend(spec.backend).open(setup_of(spec, spec.source.resolve().parent))) as session:
        return session.fingerprint()


def summed_up(records: Iterable[Record], seconds: float) -> Outcome:
    """The outcome of a run from its effective records, at its end or as far as it came."""
    records = tuple(records)
    epochs = of_kind(records, EpochRecord)
    last = epochs[-1] if epochs else None
    end = next((record for record in records if isinstance(record, EndRecord)), None)
    prefix = next((record for record in records if isinstance(record, PrefixRecord)), None)
    cost, depths = newest_network(records)
    return Outcome(
        metrics={**(last.metrics if last else {}), **(end.metrics if end else {})},
        cost=cost,
        depths=depths,
        epochs=len(epochs),
        cpu_seconds=round(sum(record.cpu_seconds for record in epochs), 3),
        seconds=round(seconds, 3),
        notes={} if prefix is None else {"prefix": {"epochs": prefix.epochs, "run": prefix.run}},
    )


# -- going on where an earlier attempt stopped


def _gone_on(job: TrialJob, listener: Callable[[Record], None], options: Mapping[str, Any]) -> api.Run | None:
    """The finished run, or None where there is nothing to go on from."""
    if job.previous is None:
        return None
    trained = False

    def hear(record: Record) -> None:
        nonlocal trained
        trained = trained or isinstance(record, EpochRecord)
        listener(record)

    try:
        seed(job.previous, job.directory)
        return api.resume(job.directory, listener=hear, **options)
    except (JournalError, CheckpointError, UsageError, OSError) as error:
        if trained:
            raise
        job.say(f"{job.previous} is not usable, so the trial starts anew: {error}")
        shutil.rmtree(job.directory, ignore_errors=True)
        return None


def has_checkpoint(directory: Path) -> bool:
    """Whether a run left something to go on from here."""
    return (directory / "journal.jsonl").is_file() and bool(_steps(directory))


def seed(previous: Path, directory: Path) -> None:
    """Make a run directory that goes on from another one, which is not changed and may still be written to.

    The order matters beside a writer: a checkpoint needs the records before it, and those the blobs they name.
    """
    aside = directory.with_name(f"{directory.name}.tmp.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        for step in _steps(previous):
            _share(step, aside / "checkpoints" / step.name)
        for individual in _entries(previous / "individuals"):
            for step in _steps(individual, "."):
                _share(step, aside / "individuals" / individual.name / step.name)
        for name in ("spec.yaml", "env.json"):
            share_file(previous / name, aside / name)
        records, size = read_journal(previous / "journal.jsonl")
        if not records:
            raise JournalError(f"{previous}: killed before its first record")
        (aside / "journal.jsonl").write_bytes((previous / "journal.jsonl").read_bytes()[:size])
        _share(previous / "blobs", aside / "blobs")
        shutil.rmtree(directory, ignore_errors=True)
        os.rename(aside, directory)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _share(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for file in source.iterdir() if source.is_dir() else ():
        if ".tmp." not in file.name:
            try:
                share_file(file, target / file.name)
            except FileNotFoundError:
                continue  # the writer removed an old checkpoint; what is missing fails its digest


def _steps(directory: Path, below: str = "checkpoints") -> list[Path]:
    """Checkpoints in a folder of a directory, oldest first."""
    folder = directory / below
    steps = [(match, path) for path in _entries(folder) if (match := STEP.fullmatch(path.name))]
    return [path for _, path in sorted(steps, key=lambda pair: int(pair[0][1]))]


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


# -- afterwards


def history(directory: Path) -> list[Record]:
    """The effective records so far; none where there is no run."""
    try:
        return list(effective(read_journal(directory / "journal.jsonl")[0]))
    except JournalError:
        return []


def _mark_pruned(directory: Path) -> None:
    run = RunDirectory(directory)
    with run.lock(), run.journal() as journal:
        journal.append(PrunedRecord(epoch=len(journal.effective(EpochRecord))))


def tidy(directory: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints of a run that nobody will go on with; with none, individuals too."""
    steps = _steps(directory)
    for step in steps[: len(steps) - keep]:
        shutil.rmtree(step, ignore_errors=True)
    if not keep:
        shutil.rmtree(directory / "individuals", ignore_errors=True)
