"""A run that version 0.1.0 began and was stopped in, with growth, a trial and a prune behind it: read, replayed,
reported and gone on with by the nasir of today, whatever release of torch is installed.

It was stopped within its third epoch: `nasir run old.yaml`, then SIGTERM. Its folder names were made plain afterwards.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from test_layers import HEAVY, loaded_after

import nasir
from nasir.cli.main import main
from nasir.journal.directory import RunDirectory
from nasir.records import DecisionRecord, DeclinedRecord, EpochRecord, Record, ResumeRecord, RewriteRecord, TrialRecord
from nasir.report import write_report
from nasir.running.replay import replay_graphs

STORED = Path(__file__).parent / "data" / "run-0.1.0.tar.gz"


@pytest.fixture
def old(tmp_path: Path) -> RunDirectory:
    """The stored run, unpacked."""
    with tarfile.open(STORED) as packed:
        packed.extractall(tmp_path, filter="data")
    return RunDirectory.open(tmp_path / "run-0.1.0")


def decided(records: tuple[Record, ...]) -> list[tuple[object, ...]]:
    """What was decided, tried and rewritten, without what depends on the release of torch: metrics and ids."""
    facts: list[tuple[object, ...]] = []
    for record in records:
        match record:
            case DecisionRecord():
                rest = record.rule, record.site, record.sites, record.reason
                facts.append((record.epoch, record.action, record.pass_name, record.options, *rest))
            case RewriteRecord():
                what = record.ordinal, record.preserves, record.added, record.removed, record.depths, record.cost
                facts.append((record.epoch, record.kind, record.pass_name, record.site, *what))
            case TrialRecord() | DeclinedRecord():
                facts.append((record.epoch, record.kind, record.pass_name, record.site))
    return facts


def test_every_line_of_its_journal_would_be_written_alike(old: RunDirectory) -> None:
    lines = old.journal_path.read_text(encoding="utf-8").splitlines()
    again = [
        json.dumps(record.to_json(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        for record in old.records()
    ]
    assert again == lines
    assert [record.kind for record in old.records()][:5] == ["start", "phase", "epoch", "decision", "rewrite"]


def test_it_is_replayed_and_reported(old: RunDirectory) -> None:
    graphs = replay_graphs(old)
    assert [graph.depths() for graph in graphs] == [
        {"s1": 1, "s2": 1},
        {"s1": 1, "s2": 2},
        {"s1": 2, "s2": 2},
        {"s1": 2, "s2": 2},
    ]
    report = write_report(old.path).read_text(encoding="utf-8")
    assert "prune-channels" in report and "unfinished after 2 epochs" in report


def test_it_is_told_that_it_has_no_checksums(old: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("replay", "report", "show"):
        assert main([command, str(old.path)]) == 0
        assert (
            "note: " in (told := capsys.readouterr().err) and "its first 16 lines are from before journals had" in told
        )
    assert main(["verify", str(old.path)]) == 0
    assert (
        "sound (16 lines, 2 epochs" in (told := capsys.readouterr().out)
        and "its first 16 lines are from before" in told
    )


def test_it_is_verified_without_torch(old: RunDirectory) -> None:
    code = "from pathlib import Path\nfrom nasir.running.verify import verify\n"
    assert not loaded_after(f"{code}assert verify(Path({str(old.path)!r})).sound") & HEAVY


def test_it_goes_on_to_its_end_and_decides_as_a_run_of_today(old: RunDirectory, tmp_path: Path) -> None:
    notices: list[str] = []
    done = nasir.resume(old.path, notice=notices.append)
    assert any("its first 16 lines are from before journals had checksums" in text for text in notices)
    contents = old.contents()
    assert contents.unprotected == 16 < len(contents.records) and contents.damage is None
    today = nasir.run(old.spec_path, out=tmp_path / "today")
    assert decided(done.journal) == decided(today.journal)
    assert done.graph.depths() == today.graph.depths() and done.graph.cost() == today.graph.cost()
    epochs = [record for record in done.journal if isinstance(record, EpochRecord)]
    assert [record.epoch for record in epochs] == list(range(1, 8))
    (resumed,) = [record for record in old.records() if isinstance(record, ResumeRecord)]
    assert resumed.checkpoint_step == 15, "in the middle of an epoch"
    assert len(replay_graphs(old)) == len(replay_graphs(RunDirectory.open(today.path)))


def test_another_release_of_torch_is_told_and_not_refused(old: RunDirectory) -> None:
    env = old.env()
    old.write_env({**env, "torch": "2.0.0"})
    notices: list[str] = []
    signals = nasir.Signals(75)
    with pytest.raises(nasir.NasirError, match="nasir resume"):
        nasir.resume(old.path, notice=notices.append, signals=signals)
    assert any(text.startswith("resuming will not be bit-exact: torch was '2.0.0', is ") for text in notices)


def test_what_went_on_with_it_vouches_for_its_old_lines(old: RunDirectory) -> None:
    with pytest.raises(nasir.NasirError, match="nasir resume"):
        nasir.resume(old.path, signals=nasir.Signals(75))
    old.journal_path.write_bytes(old.journal_path.read_bytes().replace(b'"val.accuracy":1.0', b'"val.accuracy":0.0', 1))
    with pytest.raises(nasir.NasirError, match=r"journal\.jsonl:17: damaged: .*or what was before it is not what was"):
        replay_graphs(old)
