"""The journal and the run directory: durability, repair, locking, content addresses."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_records import made

from nasir.errors import JournalError, RunError, UsageError
from nasir.files import canonical_json
from nasir.journal.directory import RunDirectory
from nasir.journal.log import TORN, Journal, effective, read_journal
from nasir.records import DecisionRecord, EpochRecord, RewriteRecord


def test_append_then_read_back_equals_the_live_records(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        record = journal.append(
            made("decision", {"action": "freeze", "pass": "insert-block", "stages": ("s1", "s2"), "loss": 0.1 + 0.2})
        )
        journal.append(made("epoch", {"epoch": 1}))
        live = journal.records()
    assert record["stages"] == record.extra["stages"] == ["s1", "s2"]
    assert record.n == 0 and isinstance(record, DecisionRecord)
    with Journal(path) as again:
        assert again.records() == live and again.repaired == 0
        assert [record.epoch for record in again.records(EpochRecord)] == [1]
    *keys, last = json.loads(path.read_text().splitlines()[0])
    assert keys == sorted(keys) and last == "chain"


def test_a_diverged_loss_survives_the_roundstrip(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.append(made("epoch", {"metrics": {"train.loss": float("nan")}}))
    (record,), _ = read_journal(tmp_path / "j")
    assert record.metrics["train.loss"] != record.metrics["train.loss"]


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_torn_last_line_is_cut_and_kept_aside(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append(made("start", {"name": "täst"}))
        journal.append(made("epoch", {"epoch": 1, "filler": "x" * 60}))
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    torn = whole[:-cut].split(b"\n")[1]
    assert [record.kind for record in read_journal(path)[0]] == ["start"]
    with Journal(path) as journal:
        assert journal.repaired == len(torn)
        assert journal.append(made("epoch", {"epoch": 1})).n == 1
    assert (tmp_path / TORN).read_bytes() == torn + b"\n"
    assert [record.n for record in read_journal(path)[0]] == [0, 1]


def test_a_hole_of_zeros_after_a_power_cut_is_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append(made("start"))
    with open(path, "ab") as file:
        file.write(b"\0" * 300 + b"}\n")
    with Journal(path) as journal:
        assert len(journal) == 1 and journal.repaired == 302


@pytest.mark.parametrize(
    "line",
    [b"{broken", b"[]", b'{"kind":"epoch"}', b'{"kind":"epoch","n":7}', b"\xff", b'{"kind":"resume","n":1}', b""],
)
def test_damage_before_the_last_line_names_file_and_line(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        for _ in range(3):
            journal.append(made("epoch"))
    lines = path.read_bytes().splitlines()
    lines[1] = line
    path.write_bytes(b"\n".join(lines) + b"\n")
    before = path.read_bytes()
    with pytest.raises(JournalError, match=r"journal\.jsonl:2: "):
        Journal(path)
    assert path.read_bytes() == before and not (tmp_path / TORN).exists()


def test_resume_voids_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append(made("start"))
        journal.append(made("epoch", {"epoch": 1}))
        journal.append(made("checkpoint", {"step": 10}))
        journal.append(made("epoch", {"epoch": 2}))
        journal.append(made("rewrite", {"ordinal": 0}))
        journal.append(made("resume", {"checkpoint_step": 10, "supersedes_from": 3}))
        journal.append(made("epoch", {"epoch": 2}))
        journal.append(made("resume", {"checkpoint_step": 10, "supersedes_from": 3}))
        journal.append(made("epoch", {"epoch": 2}))
        live = journal.effective()
        assert [record.n for record in live] == [0, 1, 2, 8]
        assert len(journal.records()) == 9 and journal.effective(RewriteRecord) == ()
    assert effective(read_journal(path)[0]) == live
    with Journal(path) as again:
        assert again.effective() == live


def test_a_resume_with_an_impossible_range_is_refused_and_not_written(tmp_path: Path) -> None:
    with Journal(tmp_path / "j") as journal:
        with pytest.raises(JournalError, match="supersedes_from"):
            journal.append(made("resume", {"checkpoint_step": 1, "supersedes_from": 4}))
        with pytest.raises(JournalError, match="cannot be written as JSON"):
            journal.append(made("epoch", {"bad": object()}))
        assert (tmp_path / "j").stat().st_size == 0


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(tmp_path / "j") as journal:
        journal.append(made("start"))
        real = os.fsync
        failures = iter([OSError(errno.ENOSPC, "No space left on device")])

        def failing(descriptor: int) -> None:
            for failure in failures:
                raise failure
            real(descriptor)

        monkeypatch.setattr(os, "fsync", failing)
        with pytest.raises(JournalError, match="No space left"):
            journal.append(made("epoch", {"epoch": 1}))
        assert journal.append(made("epoch", {"epoch": 1})).n == 1
    assert [record.n for record in read_journal(tmp_path / "j")[0]] == [0, 1]


WRITER = """
import sys
from pathlib import Path
from nasir.journal.directory import RunDirectory
from nasir.records import from_json
run = RunDirectory.open(sys.argv[1])
with run.lock(), run.journal() as journal:
    print("ready", flush=True)
    while True:
        digest = run.put_blob({"of": len(journal), "filler": list(range(400))})
        record = journal.append(from_json({"kind": "rewrite", "graph": digest, "filler": "x" * 3000}))
        print(record.n, flush=True)
"""


@pytest.mark.slow
def test_kill_9_loses_no_acknowledged_record(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.journal().close()
    chance = random.Random(0)
    acknowledged = -1
    for rounds in range(8):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(run.path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        acknowledged = max(acknowledged, *(int(child.stdout.readline()) for _ in range(rounds % 4)), -1)
        time.sleep(chance.uniform(0.0, 0.08))
        child.send_signal(signal.SIGKILL)
        heard = [int(line) for line in child.stdout.read().split() if line.isdigit()]
        child.stdout.close()
        child.wait()
        acknowledged = max([acknowledged, *heard])
        with run.lock(), run.journal() as journal:
            assert len(journal) > acknowledged
            for record in journal.records()[-5:]:
                assert run.get_blob(record.graph)["of"] == record.n
    assert acknowledged > 0


def test_a_second_process_is_refused_and_told_who_holds_the_lock(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.journal().close()
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(run.path)], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        with pytest.raises(RunError, match=rf"in use by pid {child.pid} "), run.lock():
            raise AssertionError("two holders")
    finally:
        child.kill()
        child.communicate()
    with run.lock():
        assert str(os.getpid()) in (run.path / "lock").read_text()


def test_create_refuses_what_is_not_its_own(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(UsageError, match="this is a file"):
        RunDirectory.create(file)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        RunDirectory.create(foreign)
    assert sorted(entry.name for entry in foreign.iterdir()) == ["thesis.tex"]
    with pytest.raises(UsageError, match="no run here"):
        RunDirectory.open(tmp_path / "nothing")
    (foreign / "study.json").write_text("{}")
    with pytest.raises(UsageError, match=r"no run here .* folder of a search .*`nasir search "):
        RunDirectory.open(foreign)


def test_create_takes_a_run_that_never_started_but_not_one_that_did(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "a" / "run")
    run.write_spec("nasir: 1\n")
    run.write_env({"torch": "x"})
    run.journal().close()
    (run.path / "spec.yaml.tmp.99").write_text("half")
    again = RunDirectory.create(run.path)
    with again.journal() as journal:
        journal.append(made("start"))
    with pytest.raises(UsageError, match="nasir resume"):
        RunDirectory.create(run.path)
    opened = RunDirectory.open(run.path)
    assert opened.spec() == "nasir: 1\n" and opened.env() == {"torch": "x"}
    assert [record.kind for record in opened.effective()] == ["start"]


def test_blobs_are_addressed_and_verified_by_content(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    digest = run.put_blob({"b": [1, 2.5], "a": "ü"})
    assert digest == run.put_blob({"a": "ü", "b": [1, 2.5]})
    assert run.get_blob(digest) == {"a": "ü", "b": [1, 2.5]}
    path = run.blobs / f"{digest}.json"
    assert path.read_bytes() == canonical_json({"a": "ü", "b": [1, 2.5]})
    path.write_bytes(path.read_bytes().replace(b"2.5", b"2.6"))
    with pytest.raises(JournalError, match="damaged"):
        run.get_blob(digest)
    assert run.put_blob({"a": "ü", "b": [1, 2.5]}) == digest
    assert run.get_blob(digest)["b"] == [1, 2.5]
    with pytest.raises(JournalError, match="cannot be read"):
        run.get_blob("0" * 64)
    with pytest.raises(JournalError, match="not the digest"):
        run.get_blob("../../etc/passwd")
    with pytest.raises(ValueError, match="JSON compliant"):
        run.put_blob(float("nan"))
