"""The chain of a journal: whatever single bit flips, no record is read with another value than was written."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzzing import mutations
from made_records import as_line, made, write_chained

from nasir.errors import JournalError
from nasir.journal.chain import Chain, checksum, opened, sealed
from nasir.journal.directory import RunDirectory
from nasir.journal.log import Journal, read_contents, read_journal
from nasir.records import Record, StartRecord, from_json

STORED = Path(__file__).parent / "data" / "records-0.1.0.jsonl"


def stored_records() -> Iterator[Record]:
    """Records of all kinds, as runs wrote them, the start first."""
    records = [from_json(json.loads(line)) for line in STORED.read_text(encoding="utf-8").splitlines()]
    yield from sorted(records, key=lambda record: not isinstance(record, StartRecord))


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A journal with a record of every shape."""
    path = tmp_path / "journal.jsonl"
    with Journal(path, clock=lambda: 1796045800.5) as opened_journal:
        for record in stored_records():
            opened_journal.append(record)
    return path


def test_every_line_can_be_checked_by_hand(journal: Path) -> None:
    before = ""
    for line in journal.read_bytes().splitlines():
        told = json.loads(line)["chain"]
        text = line.replace(f',"chain":"{told}"'.encode(), b"")
        assert told == hashlib.sha256(before.encode() + text).hexdigest()[:16]
        assert opened(line) == (text, told) and sealed(text, told) == line
        before = told
    contents = read_contents(journal)
    assert contents.chain.at(len(contents.chain)) == before and contents.unprotected == 0 and contents.damage is None
    assert contents.chain.mark() == {"n": len(contents.records), "chain": before}
    assert not any("chain" in record for record in contents.records)
    assert from_json(json.loads(line)) == contents.records[-1], "a line as it lies there is a record too"


@pytest.mark.slow
def test_no_flipped_bit_gives_another_value(journal: Path) -> None:
    whole, chance, dropped = journal.read_bytes(), random.Random(0), 0
    records = read_journal(journal)[0]
    count = mutations(3000)
    for bit in chance.sample(range(8 * len(whole)), min(count, 8 * len(whole))):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        journal.write_bytes(damaged)
        try:
            read, _ = read_journal(journal)
        except JournalError as error:
            line = whole.count(b"\n", 0, bit // 8)
            assert f"{journal}:" in str(error) and "nasir verify" in str(error)
            assert int(str(error).removeprefix(f"{journal}:").partition(":")[0]) in (line + 1, line + 2)
            continue
        assert read == records[:-1], "only the last line may pass for one that a crash tore"
        dropped += 1
    assert dropped <= count / 100


@pytest.mark.parametrize("line", range(5))
def test_a_flip_in_any_line_is_told_with_its_line(tmp_path: Path, line: int) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        for epoch in range(5):
            journal.append(made("epoch", {"epoch": epoch + 1, "metrics": {"val.accuracy": 0.5}}))
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b"0.5", b"0.7")
    path.write_bytes(b"".join(lines))
    with pytest.raises(JournalError, match=rf"journal\.jsonl:{line + 1}: damaged: record {line} .*`nasir verify"):
        Journal(path)
    contents = read_contents(path)
    assert len(contents.records) == len(contents.chain) == line
    assert contents.size == sum(map(len, lines[:line]))


def test_a_last_line_whose_end_is_gone_is_dropped_not_changed(journal: Path) -> None:
    whole, records = journal.read_bytes(), read_journal(journal)[0]
    journal.write_bytes(whole[:-1] + b"\x0b")  # its line break, with a bit flipped
    assert read_journal(journal)[0] == records[:-1]
    with Journal(journal) as opened_journal:
        assert opened_journal.repaired and opened_journal.append(records[-1]).n == len(records) - 1
    assert type(read_journal(journal)[0][-1]) is type(records[-1])


@pytest.mark.parametrize("change", ["removed", "doubled", "moved", "cut before", "of another journal"])
def test_lines_that_are_not_in_their_place_are_told(journal: Path, tmp_path: Path, change: str) -> None:
    with Journal(tmp_path / "other.jsonl", clock=lambda: 0.0) as other:
        for record in stored_records():
            other.append(record)
    lines = journal.read_bytes().splitlines(keepends=True)
    others = (tmp_path / "other.jsonl").read_bytes().splitlines(keepends=True)
    changed = {
        "removed": lines[:5] + lines[6:],
        "doubled": lines[:6] + lines[5:],
        "moved": [*lines[:5], lines[6], lines[5], *lines[7:]],
        "cut before": lines[3:],
        "of another journal": lines[:5] + others[5:],
    }[change]
    journal.write_bytes(b"".join(changed))
    with pytest.raises(JournalError, match=r"journal\.jsonl:\d+: damaged"):
        read_journal(journal)


def test_a_line_without_a_checksum_among_others_is_refused(journal: Path) -> None:
    lines = journal.read_bytes().splitlines()
    journal.write_bytes(b"\n".join([*lines[:-1], opened(lines[-1])[0]]) + b"\n")
    with pytest.raises(JournalError, match=r"has no checksum, and those before it have; if a nasir from before"):
        read_journal(journal)


def test_a_journal_from_before_is_vouched_for_by_its_first_new_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    records = [made("epoch", {"n": n, "time": 1.5, "epoch": n + 1}) for n in range(4)]
    path.write_bytes(b"".join(as_line(record) + b"\n" for record in records))
    assert read_contents(path).unprotected == 4
    with Journal(path) as journal:
        assert journal.unprotected == 4
        journal.append(made("epoch", {"epoch": 5}))
    contents = read_contents(path)
    assert contents.unprotected == 4 and len(contents.records) == 5 and contents.damage is None
    path.write_bytes(path.read_bytes().replace(b'"epoch":2', b'"epoch":3'))
    with pytest.raises(JournalError, match=r"journal\.jsonl:5: damaged"):
        Journal(path)


def test_what_lies_beside_a_journal_belongs_to_it(tmp_path: Path) -> None:
    chain = Chain(tmp_path / "run" / "journal.jsonl", ["0" * 16, "1" * 16])
    for mark in ({}, {"n": 7}, {"n": 0, "chain": ""}, {"n": 1, "chain": "0" * 16}, chain.mark()):
        chain.check(mark, tmp_path / "step_1")
    with pytest.raises(JournalError, match=r"its end is gone: it has 2 .*step_1 was stored after line 3"):
        chain.check({"n": 3, "chain": "2" * 16}, tmp_path / "step_1")
    with pytest.raises(JournalError, match=r"step_1: belongs to another journal: .*line 2 .*'0000.*is '1111.*verify"):
        chain.check({"n": 2, "chain": "0" * 16}, tmp_path / "step_1")


def test_a_record_cannot_bring_a_checksum_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        assert "chain" not in journal.append(made("epoch", {"chain": "f" * 16}))
    assert path.read_bytes().count(b"chain") == 1


def test_what_a_killed_process_left_is_removed_by_the_next_that_writes(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run")
    run.individuals.joinpath("3").mkdir(parents=True)
    names = ("spec.yaml.tmp.999999999", "blobs/aa.json.tmp.999999999", "checkpoints/step_4.tmp.999999999.old")
    for name in (*names, "individuals/3/step_0.tmp.999999999", "blobs/bb.json.tmp.1", "checkpoints/step_1"):
        (run.path / name).mkdir() if "step" in name else (run.path / name).write_text("half")
    with run.lock():
        left = {str(entry.relative_to(run.path)) for entry in run.path.rglob("*") if entry != run.path / "lock"}
    assert left == {"blobs", "checkpoints", "individuals", "individuals/3", "blobs/bb.json.tmp.1", "checkpoints/step_1"}


def test_chained_lines_of_tests_are_those_of_journals(journal: Path, tmp_path: Path) -> None:
    write_chained(tmp_path / "again.jsonl", map(as_line, read_journal(journal)[0]))
    assert (tmp_path / "again.jsonl").read_bytes() == journal.read_bytes()
    assert checksum("", b"{}") == hashlib.sha256(b"{}").hexdigest()[:16]
