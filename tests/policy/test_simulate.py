"""Simulation over a metrics file: what it writes, how fast it is, and what it says about bad files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nasir.errors import DataError
from nasir.policy import PhasePlan, PhaseView, Plateau, RulePlan, Threshold, read_metrics, simulate
from nasir.records import DeclinedRecord, EpochRecord, PhaseRecord

VIEW = PhaseView(("s1", "s2", "s3"), {"s1": 1, "s2": 1, "s3": 1})
AUTOGROW = RulePlan("rules.0", "insert-block", every=3, freeze=Plateau(window=100, less_than=0.0005))
GROW = PhasePlan("grow", rules=(AUTOGROW,), until="all_frozen")


def written(path: Path, text: str) -> Path:
    file = path / "metrics.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_metrics_file_drives_the_policies(tmp_path: Path) -> None:
    lines = [f"{n},{(50 + 0.01 * min(n - 1, 267)) / 100!r},1.5" for n in range(1, 300)]
    rows = read_metrics(written(tmp_path, "\n".join(["epoch,val.accuracy,seconds", *lines])))
    records = simulate((GROW, PhasePlan("tune", epochs=200)), 0, rows, VIEW)
    assert records[-1]["depths"] == {"s1": 42, "s2": 42, "s3": 42}
    assert [r.epoch for r in records if isinstance(r, PhaseRecord)] == [0, 372]
    assert records[-1]["epoch"] == 572
    assert [r.n for r in records] == list(range(len(records)))
    assert records[1]["metrics"] == {"val.accuracy": 0.5} and records[1]["seconds"] == 1.5


def test_a_capped_simulation_says_so() -> None:
    rows = [{"val.accuracy": 0.5 + 0.0001 * n} for n in range(600)]
    records = simulate((GROW,), 0, rows, VIEW, max_epochs=600)
    assert records[-1]["status"] == "capped" and records[-1]["epoch"] == 600


def test_the_last_row_is_held() -> None:
    phase = PhasePlan("grow", epochs=9, rules=(AUTOGROW,))
    records = simulate((phase,), 0, [{"val.accuracy": 0.1}, {"val.accuracy": 0.2}], VIEW)
    assert [r.metrics["val.accuracy"] for r in records if isinstance(r, EpochRecord)] == [0.1] + [0.2] * 8


def test_a_run_that_does_not_end_is_capped() -> None:
    phase = PhasePlan("wait", until=Threshold("val.accuracy", above=0.9))
    assert simulate((phase,), 0, [{"val.accuracy": 0.1}], VIEW, max_epochs=7)[-1]["status"] == "capped"


def test_removal_keeps_the_last_block() -> None:
    shrink = RulePlan("rules.0", "remove-block", every=1)
    records = simulate((PhasePlan("shrink", rules=(shrink,), until="all_frozen"),), 0, [{"val.accuracy": 0.5}], VIEW)
    assert records[-1]["depths"] == VIEW.depths
    assert sum(isinstance(r, DeclinedRecord) for r in records) == 3


def test_without_rows_there_is_nothing_to_simulate() -> None:
    with pytest.raises(DataError, match="at least one epoch"):
        simulate((GROW,), 0, [], VIEW)


def test_blank_lines_spaces_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    file = written(tmp_path, "\ufeffepoch, val.loss\n\n1, 2.5\n2, nan\n")
    rows = read_metrics(file)
    assert rows[0] == {"val.loss": 2.5} and rows[1]["val.loss"] != rows[1]["val.loss"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1:1: the file is empty"),
        ("epoch,val.accuracy\n", ":1:1: there are no epochs"),
        ("step,val.accuracy\n1,0.5\n", ":1:1: no column 'epoch'; the columns are step, val.accuracy"),
        ("epoch,seconds\n1,2\n", ":1:1: no metric beside 'epoch'"),
        ("epoch,val.loss,val.loss\n1,2,3\n", ":1:16: column 'val.loss' occurs twice"),
        ("epoch,,val.loss\n1,2,3\n", ":1:7: the column has no name"),
        ("epoch,val.loss\n1,2\n3,4\n", ":3:1: epoch 3, expected 2"),
        ("epoch,val.loss\n1,high\n", ":2:3: val.loss is 'high', which is not a number"),
        ("epoch,val.loss\n1\n", ":2:1: 1 values for 2 columns (epoch, val.loss)"),
        ("epoch,val.accuracy\n1,93.5\n", ":2:3: val.accuracy is 93.5; accuracies are fractions 0..1"),
        ("epoch,val.loss,seconds\n1,2,-3\n", ":2:5: seconds is -3; it must be at least 0"),
        (f"epoch,val.loss\n1,{'9' * 200_000}\n", ":2:1: field larger than field limit"),
        (f"epoch,val.loss\n1,{'x' * 100_000}\n", f":2:3: val.loss is '{'x' * 59}, which is not a number"),
        (f"epoch,{','.join(map(str, range(20_000)))},7\n", ":1:108897: column '7' occurs twice; remove one"),
    ],
)
def test_bad_files_are_refused_with_their_place(tmp_path: Path, text: str, message: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(DataError, match=re.escape(f"{file}{message}")):
        read_metrics(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_metrics(tmp_path / "none.csv")
    with pytest.raises(DataError, match="cannot be read"):
        read_metrics(tmp_path)
    with pytest.raises(DataError, match="cannot be read as a CSV file in UTF-8: embedded null byte; name a table"):
        read_metrics(tmp_path / "a\0b")
    (tmp_path / "large.csv").write_bytes(b"\n" * (1 << 24) + b"\n")
    with pytest.raises(DataError, match="it has more than 16777216 bytes"):
        read_metrics(tmp_path / "large.csv")
