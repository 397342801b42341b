"""Mutated journals: whatever their records say, all that reads them gives a result or a NasirError."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzzing import fuzz, mutate_bytes, mutate_tree, mutated, mutations
from made_records import write_chained

import nasir
from nasir.errors import RunError
from nasir.journal.directory import RunDirectory
from nasir.journal.log import Journal, lineage, read_journal
from nasir.policy import PhaseProgress
from nasir.records import StartRecord, newest_network
from nasir.report import write_report
from nasir.report.progress import line
from nasir.report.tensorboard import scalars
from nasir.running.replay import compare, replay_graphs
from nasir.spec.past import load_stored
from nasir.training.backend import Saved
from nasir.training.manifest import read_manifest, steps

DATA = Path(__file__).parent / "data"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run of version 0.1.0 that was stopped, with growth, a trial and a prune behind it."""
    with tarfile.open(DATA / "run-0.1.0.tar.gz") as packed:
        packed.extractall(tmp_path, filter="data")
    return RunDirectory.open(tmp_path / "run-0.1.0")


def told(path: Path) -> list[Any]:
    """The records of a journal, or of a file of records, as JSON data, numbered; the start first."""
    records = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    records.sort(key=lambda record: record["kind"] != StartRecord.kind)
    return [{**record, "n": n} for n, record in enumerate(records)]


def written(path: Path, tree: Any) -> None:
    """The journal of mutated records, with checksums that fit: as if it had been written like that."""
    lines = tree if isinstance(tree, list) else [tree]
    write_chained(path, [json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogatepass") for line in lines])


class Stub:
    """A session that gets as far as a resume does before it trains."""

    def newest(self, directory: Path) -> Saved | None:
        present = steps(directory)
        if not present:
            return None
        return Saved(read_manifest(directory / f"step_{present[-1]}")["meta"], (), None)

    def begin_phase(self, *_: object, **__: object) -> dict[str, Any]:
        return {}

    def describe(self) -> dict[str, Any]:
        return {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in ("build", "load", "close"):
            return lambda *_, **__: None

        def stop(*_: object, **__: object) -> None:
            raise RunError(f"{name}: here the training would go on")

        return stop


def looked_at(run: RunDirectory) -> None:
    """All that reads a journal and does not train."""
    records = run.effective()
    newest_network(records)
    for record in lineage(records):
        line(record)
        list(scalars(record))
    compare(records, records)
    PhaseProgress.of(records, [phase.plan() for phase in load_stored(run.spec_path).phases])
    write_report(run.path)
    replay_graphs(run)


@pytest.mark.slow
def test_records_that_say_anything_at_all_are_looked_at_or_refused(run: RunDirectory) -> None:
    def attempt(tree: Any) -> None:
        written(run.journal_path, tree)
        looked_at(run)

    originals = [told(run.journal_path), told(DATA / "records-0.1.0.jsonl")]
    fuzz(attempt, mutated(originals, mutate_tree, mutations(250), "records"))


@pytest.mark.slow
def test_a_resume_goes_on_from_records_that_say_anything_or_refuses(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nasir.api.make_backend", lambda name: type("Made", (), {"open": lambda self, setup: Stub()})())

    def attempt(tree: Any) -> None:
        written(run.journal_path, tree)
        nasir.resume(run.path)

    fuzz(attempt, mutated([told(run.journal_path)], mutate_tree, mutations(150), "resume"))


@pytest.mark.slow
def test_of_damaged_bytes_no_record_is_read_that_was_not_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written(path, told(DATA / "records-0.1.0.jsonl"))
    whole, _ = read_journal(path)

    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        with Journal(path) as journal:
            assert journal.records() == whole[: len(journal)], "what is left is what was written"

    fuzz(attempt, mutated([path.read_bytes()], mutate_bytes, mutations(1000), "bytes"))
