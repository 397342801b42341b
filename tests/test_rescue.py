"""Going back: where checkpoints are lost, a journal is damaged, or things of other runs lie beside it."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_records import as_line, write_chained
from small_runs import HEAD, stable, weights, write_spec

import nasir
from nasir.cli.main import main
from nasir.errors import CheckpointError, JournalError, NasirError, Preempted, UsageError
from nasir.figures.kept import kept_checkpoints
from nasir.journal.directory import RunDirectory
from nasir.journal.repair import mend
from nasir.records import CheckpointRecord, EpochRecord, Record, ResumeRecord, of_kind
from nasir.running.verify import verify

TEXT = (
    HEAD
    + """\
checkpoint: {every: 1, keep: 10}
phases:
  - name: grow
    epochs: 4
    optimizer: {sgd: {lr: 0.05, momentum: 0.9}}
    rules:
      - every: 1
        do: {insert-block: {init: gaussian}}
        where: {stages: [s1, s2]}
        at_most: 2
"""
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    return nasir.run(write_spec(folder, TEXT), folder / "run").path


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, stopped after its third epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    signals = nasir.Signals()

    def hear(record: Record) -> None:
        if isinstance(record, EpochRecord) and record.epoch == 3:
            signals.exit_code = 75

    with pytest.raises(Preempted):
        nasir.run(write_spec(folder, TEXT), folder / "run", signals=signals, listener=hear)
    return folder / "run"


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> RunDirectory:
    """A copy of the stopped run."""
    shutil.copytree(stopped, tmp_path / "run")
    run = RunDirectory.open(tmp_path / "run")
    assert len(of_kind(run.effective(), EpochRecord)) == 3
    assert [meta_of(run, step)["epoch"] for step in run.checkpoint_steps()] == [1, 2, 3]
    return run


def meta_of(run: RunDirectory, step: int) -> dict[str, object]:
    meta: dict[str, object] = json.loads((run.checkpoint(step) / "manifest.json").read_text())["meta"]
    return meta


def damage(run: RunDirectory, line: int) -> None:
    """Change a digit of that line, from 1."""
    lines = run.journal_path.read_bytes().splitlines(keepends=True)
    before, key, after = lines[line - 1].rpartition(b'"time":1')
    lines[line - 1] = before + key[:-1] + b"2" + after
    assert key
    run.journal_path.write_bytes(b"".join(lines))


def assert_equal(path: Path, whole: Path) -> None:
    assert stable(RunDirectory.open(path).effective()) == stable(RunDirectory.open(whole).effective())
    assert weights(path) == weights(whole)


def files(run: RunDirectory) -> dict[str, bytes]:
    """All but what holds the lock."""
    found = (path for path in run.path.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(run.path)): path.read_bytes() for path in found}


def test_where_the_checkpoints_are_gone_a_resume_asks_first(run: RunDirectory, whole: Path) -> None:
    shutil.rmtree(run.checkpoints)
    before = files(run)
    assert f"`nasir resume {run.path} --from-start`" in verify(run.path).rescue[0]
    with pytest.raises(CheckpointError, match=r"no checkpoint is here, .* one of epoch 3; .*--from-start"):
        nasir.resume(run.path)
    assert files(run) == before
    done = nasir.resume(run.path, from_start=True)
    assert of_kind(run.records(), ResumeRecord)[-1].checkpoint_step is None
    assert_equal(done.path, whole)


def test_from_the_start_leaves_checkpoints_aside(run: RunDirectory, whole: Path) -> None:
    steps = run.checkpoint_steps()
    assert_equal(nasir.resume(run.path, from_start=True).path, whole)
    assert {path.name for path in run.checkpoints.glob("*.aside")} == {f"step_{step}.aside" for step in steps}


def test_a_run_that_never_had_a_checkpoint_begins_anew_unasked(run: RunDirectory, whole: Path) -> None:
    first = of_kind(run.records(), CheckpointRecord)[0].n
    lines = run.journal_path.read_bytes().splitlines(keepends=True)
    run.journal_path.write_bytes(b"".join(lines[:first]))
    shutil.rmtree(run.checkpoints)
    assert_equal(nasir.resume(run.path).path, whole)


def test_a_damaged_journal_is_refused_and_a_resume_from_before_the_damage_equals_the_whole_run(
    run: RunDirectory, whole: Path
) -> None:
    second = next(record.n for record in run.effective() if isinstance(record, EpochRecord) and record.epoch == 3)
    damage(run, second + 1)
    before = files(run)
    for harm in (lambda: nasir.resume(run.path), lambda: nasir.resume(run.path, from_epoch=3)):
        with pytest.raises(NasirError, match=rf"journal\.jsonl:{second + 1}: damaged|no sound checkpoint of epoch 3"):
            harm()
        assert files(run) == before
    found = verify(run.path)
    assert not found.sound and len(found.faults) == 1 and f"journal.jsonl:{second + 1}: damaged" in found.faults[0]
    assert found.rescue[0] == f"the journal is sound up to line {second} (epoch 2)"
    assert f"the checkpoint of epoch 2 is sound: `nasir resume {run.path} --from-epoch 2`" in found.rescue[-1]
    notices: list[str] = []
    done = nasir.resume(run.path, from_epoch=2, notice=notices.append)
    assert any(f"cut after line {second}; as it was, it is kept as journal.damaged" in text for text in notices)
    assert (run.path / "journal.damaged").read_bytes() == before["journal.jsonl"]
    assert len(list(run.checkpoints.glob("*.aside"))) == 1
    assert_equal(done.path, whole)


def test_a_resume_may_go_back_to_any_epoch_that_has_a_checkpoint(run: RunDirectory, whole: Path) -> None:
    with pytest.raises(UsageError, match=r"no sound checkpoint of epoch 7; sound ones are of epoch 3, 2, 1"):
        nasir.resume(run.path, from_epoch=7)
    with pytest.raises(UsageError, match="from the start, or from epoch 1"):
        nasir.resume(run.path, from_epoch=1, from_start=True)
    assert_equal(nasir.resume(run.path, from_epoch=1).path, whole)
    assert len(of_kind(run.records(), EpochRecord)) == 3 + 3
    with pytest.raises(UsageError, match="this run is finished"):
        nasir.resume(run.path, from_epoch=1)


def test_a_checkpoint_beside_another_journal_is_refused(run: RunDirectory) -> None:
    lines = [as_line(record) for record in run.records()]
    changed = [line.replace(b'"val.accuracy":0.', b'"val.accuracy":0.1') for line in lines]
    write_chained(run.journal_path, changed)
    before = files(run)
    with pytest.raises(JournalError, match=r"step_\d+: belongs to another journal: .*`nasir verify"):
        nasir.resume(run.path)
    with pytest.raises(JournalError, match="belongs to another journal"):
        kept_checkpoints(run)
    assert main(["export", str(run.path), "--to", "safetensors", "--out", str(run.path.with_name("weights"))]) == 1
    write_chained(run.journal_path, lines[:5])
    with pytest.raises(JournalError, match=r"its end is gone: it has 5 whole lines, .*step_\d+ was stored after"):
        nasir.resume(run.path)
    assert {**files(run), "journal.jsonl": b""} == {**before, "journal.jsonl": b""}


def test_another_run_is_not_taken_from_one_whose_journal_was_changed(run: RunDirectory, tmp_path: Path) -> None:
    spec = tmp_path / "next.yaml"
    network = TEXT[TEXT.index("network:") : TEXT.index("data:")]
    spec.write_text(TEXT.replace(network, f"network: {{from: run, run: {run.path}}}\n"))
    assert nasir.build(spec).depths()
    write_chained(run.journal_path, [as_line({**record, "time": 1.5}) for record in run.records()])
    with pytest.raises(NasirError, match=r"next\.yaml:\d+:\d+: .*step_\d+: belongs to another journal"):
        nasir.build(spec)


def test_a_whole_run_is_sound(whole: Path, stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(whole)]) == main(["verify", str(stopped)]) == 0
    told = capsys.readouterr().out
    assert f"{whole}: sound (" in told and "4 epochs" in told and "damaged" not in told and "rescue" not in told


HARM: dict[str, tuple[Callable[[RunDirectory], object], str]] = {
    "blob gone": (
        lambda run: next(run.blobs.glob("*.json")).unlink(),
        r"blobs/\w+\.json: missing, and the journal names it",
    ),
    "blob changed": (lambda run: flip(next(run.blobs.glob("*.json"))), r"blobs/\w+\.json: damaged"),
    "array changed": (lambda run: flip(run.blobs / f"{run.put_array(np.arange(9.0))}.npy"), r"blobs/\w+\.npy: damaged"),
    "weights changed": (lambda run: flip(newest(run) / "model.safetensors"), r"model\.safetensors: its sha256 differs"),
    "weights gone": (lambda run: (newest(run) / "model.safetensors").unlink(), r"model\.safetensors: cannot be read"),
    "manifest changed": (lambda run: flip(newest(run) / "manifest.json"), r"manifest\.json: damaged"),
    "checkpoints gone": (lambda run: shutil.rmtree(run.checkpoints), r"empty, and the journal tells of a checkpoint"),
    "spec changed": (
        lambda run: run.write_spec(run.spec().replace("seed: 3", "seed: 4")),
        "not the spec this run began",
    ),
    "spec gone": (lambda run: run.spec_path.unlink(), r"spec\.yaml"),
    "environment changed": (lambda run: run.env_path.write_text("{"), r"env\.json: not JSON"),
    "end of the journal gone": (
        lambda run: shorten(run),
        r"its end is gone: it has \d+ whole lines, and .*step_\d+ was",
    ),
    "report of another run": (
        lambda run: run.report_path.write_text("<footer>journal 3:0123456789abcdef</footer>"),
        r"report\.html: made from another journal",
    ),
}


def newest(run: RunDirectory) -> Path:
    return run.checkpoint(run.checkpoint_steps()[-1])


def flip(path: Path) -> None:
    """Flip a bit in the middle of a file that may have other names."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.unlink()
    path.write_bytes(data)


def shorten(run: RunDirectory) -> None:
    lines = run.journal_path.read_bytes().splitlines(keepends=True)
    run.journal_path.write_bytes(b"".join(lines[:-3]))


@pytest.mark.parametrize("what", HARM)
def test_harm_is_told_by_name_and_with_what_to_do(
    run: RunDirectory, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    harm, text = HARM[what]
    harm(run)
    before = files(run)
    assert main(["verify", str(run.path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["sound"] and any(re.search(text, fault) for fault in found["faults"])
    assert found["rescue"] and files(run) == before


def test_a_flipped_bit_is_mended_wherever_it_is(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    whole, chance = run.journal_path.read_bytes(), random.Random(0)
    ends = [place for place, byte in enumerate(whole) if byte == ord("\n")]
    for place in (*chance.sample(range(ends[-2]), 8), ends[2], ends[2] - 4, ends[4] + 1):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        run.journal_path.write_bytes(damaged)
        mended = mend(run.journal_path)
        assert mended is not None and mended.data == whole
        assert [line for line, _ in mended.places] == [whole.count(b"\n", 0, place) + 1]
    damaged[ends[0] - 40] ^= 2
    run.journal_path.write_bytes(damaged)
    assert main(["verify", str(run.path)]) == 1
    assert "nothing but flipped bits is wrong (line 1, byte " in capsys.readouterr().out
    assert main(["verify", str(run.path), "--repair"]) == 0
    assert run.journal_path.read_bytes() == whole and (run.path / "journal.damaged").read_bytes() == damaged
    assert "journal mended in 2 places; as it was, it is kept as journal.damaged" in capsys.readouterr().out
    damage(run, 3)
    lines = run.journal_path.read_bytes().splitlines(keepends=True)
    run.journal_path.write_bytes(b"".join([*lines[:3], lines[4], lines[3], *lines[5:]]))
    assert mend(run.journal_path) is None, "more is wrong"


def test_all_runs_of_a_study_are_checked(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    study = run.path.parent / "study"
    (study / "trials").mkdir(parents=True)
    (study / "study.json").write_text("{}")
    shutil.copytree(run.path, study / "trials" / "0000-a0")
    shutil.copytree(run.path, study / "trials" / "0001-a0")
    shutil.rmtree(study / "trials" / "0001-a0" / "checkpoints")  # as a search does with a trial that is over
    assert main(["verify", str(study)]) == 0
    damage(RunDirectory(study / "trials" / "0001-a0"), 3)
    assert main(["verify", str(study)]) == 1
    assert f"{study}: 2 runs, 1 damaged" in capsys.readouterr().out
