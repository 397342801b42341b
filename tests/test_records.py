"""Records of journals: read and written byte for byte, refused where they are none, and read in the old way."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from made_records import as_line, made, write_chained
from test_layers import ROOT, sources

from nasir.errors import JournalError
from nasir.journal.log import read_journal
from nasir.policy import PhasePlan, PhaseProgress, PhaseView, RulePlan, RulesPolicy
from nasir.records import (
    KINDS,
    DecisionRecord,
    DeclinedRecord,
    EpochRecord,
    PhaseRecord,
    Record,
    ResumeRecord,
    RewriteRecord,
    from_json,
    newest_network,
    read_record,
)
from nasir.records.base import layout
from nasir.rewriting.evidence import Evidence

OLD = (Path(__file__).parent / "data" / "records-0.1.0.jsonl").read_text(encoding="utf-8").splitlines()
EPOCH = {"kind": "epoch", "epoch": 3, "metrics": {"val.accuracy": 0.5}}


def written(record: Record) -> str:
    """The line of a record, as a journal writes it."""
    return json.dumps(record.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@pytest.mark.parametrize("line", OLD, ids=lambda line: json.loads(line)["kind"])
def test_what_version_0_1_0_wrote_is_written_alike(line: str) -> None:
    """One line of each kind and set of keys, from journals of real runs."""
    record = read_record(line)
    assert written(record) == line
    assert record.extra == {}, "a key that the class does not know"
    fields = {item.name for item in dataclasses.fields(record)} - {"absent"}
    again = type(record)(**{name: getattr(record, name) for name in fields})
    assert written(again) == line, "a record made in Python is another one than that which was read"
    assert record == again == json.loads(line) or "NaN" in line
    for copied in (copy.deepcopy(record), pickle.loads(pickle.dumps(record))):
        assert written(copied) == line and type(copied) is type(record)


def test_the_stored_lines_have_all_kinds() -> None:
    assert {json.loads(line)["kind"] for line in OLD} == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_says_what_it_holds(kind: str) -> None:
    assert KINDS[kind].kind == kind and KINDS[kind].__doc__
    assert all(place.says and place.allowed.plain for place in layout(KINDS[kind]).places)


def test_what_an_older_record_lacks_has_a_default_and_stays_away() -> None:
    record = from_json({**EPOCH, "n": 4})
    assert isinstance(record, EpochRecord)
    assert (record.lr, record.cpu_seconds, record.depths, record.samples, record.phase) == (None, 0.0, {}, None, "")
    assert record.to_json() == {**EPOCH, "n": 4}
    rewrite = from_json({"kind": "rewrite", "pass": "widen"})
    assert isinstance(rewrite, RewriteRecord)
    assert (rewrite.pass_name, rewrite.added, rewrite.noted, rewrite.delta_logits) == ("widen", (), {}, None)
    rewrite.noted["mine"] = 1  # type: ignore[index]
    assert from_json({"kind": "rewrite"}).noted == {}, "defaults are shared"  # type: ignore[attr-defined]


def test_unknown_keys_are_kept() -> None:
    record = from_json({**EPOCH, "loudness": [1, 2]})
    assert record.extra == {"loudness": [1, 2]} and record.to_json()["loudness"] == [1, 2]
    assert dataclasses.replace(record, n=7).to_json()["loudness"] == [1, 2]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kind": "epcoh"}, r"unknown kind of record 'epcoh' \(is 'epoch' meant\?\); known: start, .*later version"),
        ({"epoch": None}, "epoch record: 'epoch' is nothing; it has to be a whole number of at least 0"),
        ({"epoch": True}, "epoch record: 'epoch' is true; it has to be a whole number of at least 0"),
        ({"epoch": -1}, "'epoch' is .*-1.*; it has to be a whole number of at least 0"),
        ({"epoch": 1.5}, "'epoch' is .*1.5.*; it has to be a whole number of at least 0"),
        ({"lr": "fast"}, "'lr' is .*fast.*; it has to be a number or null"),
        ({"metrics": [1]}, "'metrics' is a list of 1; it has to be an object"),
        ({"time": "noon"}, "'time' is .*noon.*; it has to be a number"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_line(change: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=text):
        from_json({**EPOCH, **change})
    path = tmp_path / "journal.jsonl"
    path.write_text("".join(json.dumps({**EPOCH, "n": n, **(change if n == 1 else {})}) + "\n" for n in range(3)))
    with pytest.raises(JournalError, match=rf"journal\.jsonl:2: .*{text}.*; the journal was damaged or edited"):
        read_journal(path)


def test_a_record_without_what_all_of_its_kind_have_is_refused() -> None:
    with pytest.raises(JournalError, match="epoch record: no 'metrics'; each of them has to have it"):
        from_json({"kind": "epoch", "epoch": 3})


def test_the_old_way_to_read_a_record_works() -> None:
    record = from_json({"kind": "declined", "n": 2, "pass": "widen", "site": "s1", "reason": "no", "own": 1})
    assert (record["kind"], record["pass"], record["n"], record["own"]) == ("declined", "widen", 2, 1)
    assert "noted" not in record and record.get("noted", 5) == 5 and record.get("site") == "s1"
    with pytest.raises(KeyError, match="noted"):
        record["noted"]
    with pytest.raises(KeyError, match="nothing"):
        record["nothing"]
    assert {**record} == dict(record.items()) == record.to_json() and len(record) == len(record.to_json())
    assert set(record) == set(record.keys()) and "no" in record.values()
    assert record == record.to_json() and record != {**record, "n": 3} and record != "declined"


def test_records_cannot_be_changed() -> None:
    record = from_json(EPOCH)
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.epoch = 4  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="unhashable"):
        hash(record)


def test_kinds_are_told_apart_by_match() -> None:
    match from_json({"kind": "decision", "action": "freeze", "site": "s1"}):
        case DecisionRecord(action="freeze", site=site):
            assert site == "s1"
        case _:
            raise AssertionError


@pytest.mark.parametrize(
    "read",
    [
        lambda history: RulesPolicy(PhasePlan("p", 2, (RulePlan("r", "widen", every=1),)), 0).decide(
            history, PhaseView(("s1",), {"s1": 1})
        ),
        lambda history: PhaseProgress.of(history, (PhasePlan("p", epochs=2),)),
        lambda history: Evidence(history=history),
    ],
)
def test_a_history_of_plain_dicts_is_refused_and_not_overlooked(read: Any) -> None:
    read([made("phase", {"phase": "p"}), made("epoch")])
    with pytest.raises(JournalError, match=r"a history of dict: .*`nasir\.records\.from_json\(record\)`"):
        read([{"kind": "phase", "phase": "p"}, {"kind": "epoch", "epoch": 1, "metrics": {}}])


def test_the_newest_network_is_that_of_the_end_or_the_last_epoch_or_the_start() -> None:
    start = made("start", {"cost": {"params": 1, "macs": 2, "activation_bytes": 3}, "depths": {"s1": 1}})
    epoch = made("epoch", {"params": 10, "macs": 20, "depths": {"s1": 2}})
    end = made("end", {"cost": {"params": 100, "macs": 200}, "depths": {"s1": 3}})
    assert newest_network([]) == ({}, {})
    assert newest_network([start]) == ({"params": 1, "macs": 2}, {"s1": 1})
    assert newest_network([start, epoch]) == ({"params": 10, "macs": 20}, {"s1": 2})
    assert newest_network([start, epoch, end]) == ({"params": 100, "macs": 200}, {"s1": 3})


def test_records_made_in_python_leave_out_what_says_nothing() -> None:
    assert PhaseRecord(phase="p", epoch=0, epochs=None).to_json() == {
        "kind": "phase",
        "phase": "p",
        "epoch": 0,
        "epochs": None,
    }
    assert "environment" not in ResumeRecord(supersedes_from=1, checkpoint_step=None).to_json()
    declined = DeclinedRecord(epoch=1, phase="p", pass_name="widen", options={}, site="s1", reason="no")
    assert "noted" not in declined.to_json() and "n" not in declined.to_json()
    assert dataclasses.replace(declined, noted={"a": 1}).to_json()["noted"] == {"a": 1}


def test_nobody_tells_records_apart_by_the_text_of_their_kind() -> None:
    """By `isinstance` or `match` instead, which type checkers follow and which a misspelt name does not pass."""
    kinds = "|".join(KINDS)
    compared = re.compile(rf'\b(record|r|one)(\["kind"\]|\.get\("kind"\)|\.kind) (==|!=|in|not in) [("{{]*({kinds})\b')
    folders = ("nasir", "passes", "backends", "benchmarks", "tests")
    comparisons = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for folder in folders
        for path in sources(folder)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if compared.search(line)
    ]
    assert comparisons == []


BARE = '{"kind":"epoch","epoch":1,"metrics":{}'
START = '{"kind":"start","name":"a","seed":1,"graph":"b"'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BARE + ',"own":' + '{"a":' * 150 + "1" + "}" * 151, "nested more than 100 levels"),
        (BARE + ',"own":' + "[" * 100_000 + "]" * 100_000 + "}", "not a JSON record"),
        (BARE + ',"own":[-99999999999999999999]}', "a whole number of 20 digits"),
        (BARE + ',"phase_epoch":1' + "0" * 9000 + "}", "a whole number of 9001 digits"),
        (BARE + ',"epoch":2}', "the key 'epoch' twice"),
        (BARE + ',"own":{"val.loss":1,"val.loss":2}}', r"the key 'val\.loss' twice"),
        (BARE + ',"phase":"a\\u0000b"}', "a NUL character"),
        (BARE + ',"phase":"a\0b"}', "not a JSON record"),
        (BARE + ',"own":{"\\ud800":1}}', "surrogates not allowed"),
        (BARE + ',"phase_epoch":NaN}', "'phase_epoch' is nan; it has to be a whole number of at least 0"),
        (BARE + ',"seconds":NaN}', "'seconds' is nan; it has to be a number of at least 0"),
        (BARE + ',"seconds":1e999}', "'seconds' is inf; it has to be a number of at least 0"),
        (BARE + ',"depths":{"s1":-1}}', "'depths: s1' is -1; it has to be a whole number of at least 0"),
        (BARE + ',"alive":{"macs":"few"}}', "'alive: macs' is the text 'few'; it has to be a whole number"),
        ('{"kind":"epoch","epoch":1,"metrics":{"val.loss":"low"}}', "'metrics: val.loss' is the text 'low'.* a number"),
        ('{"kind":"rewrite","added":["s1.1",2]}', "'added: 1' is 2; it has to be a text"),
        ('{"kind":"rewrite","cost":{"params":null}}', "'cost: params' is nothing; it has to be a whole number"),
        (START + ',"inherited":{"run":3}}', "'inherited: run' is 3; it has to be a text or null"),
    ],
)
def test_a_line_that_is_no_record_is_refused_with_what_is_wrong(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=told):
        read_record(text)
    with pytest.raises(JournalError, match="can't decode byte 0xff"):
        read_record(text.encode() + b"\xff")
    path = tmp_path / "journal.jsonl"
    write_chained(path, [as_line({**EPOCH, "n": 0}), text.encode(), as_line({**EPOCH, "n": 2})])
    with pytest.raises(JournalError, match=rf"^{re.escape(str(path))}:2: .*{told}"):
        read_journal(path)


def test_a_diverged_metric_and_a_delta_without_bounds_are_read() -> None:
    assert read_record('{"kind":"epoch","epoch":1,"metrics":{"val.loss":NaN}}').metrics["val.loss"] != 0
    assert read_record('{"kind":"rewrite","delta_logits":Infinity}').delta_logits == float("inf")
