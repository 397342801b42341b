"""Top-5 accuracy: measured where a spec asks for it, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_runs import SPEC, write_spec

import nasir
from nasir.backends.torch.train.loop import within
from nasir.cli.main import main
from nasir.records import EpochRecord

SEVEN = SPEC.replace("classes: 3", "classes: 7").replace("validation: 24", "validation: 24\n  metrics: [top5]")


def test_it_is_measured_reported_and_read_by_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = SEVEN.replace("at_most: 3", "freeze: {plateau: {metric: val.top5, window: 2 epochs, less_than: 1.0}}")
    assert main(["run", str(write_spec(tmp_path, text)), "--out", str(tmp_path / "run"), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    for part in ("val", "test"):
        assert metrics[f"{part}.accuracy"] <= metrics[f"{part}.top5"] <= 1
    records = [
        record
        for record in nasir.journal.directory.RunDirectory.open(tmp_path / "run").effective()
        if isinstance(record, EpochRecord)
    ]
    assert all(("val.top5" in record.metrics) and ("train.top5" not in record.metrics) for record in records)
    assert main(["report", str(tmp_path / "run"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["metrics"] == metrics and [row["phase"] for row in told["phases"]] == ["grow", "finetune"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "test accuracy, top 5" in page and "validation, top 5" in page


def test_a_spec_that_does_not_ask_is_as_it_was(tmp_path: Path) -> None:
    done = nasir.run(write_spec(tmp_path, SPEC.replace("epochs: 2", "epochs: 1")), out=tmp_path / "run")
    assert set(done.metrics) == {"val.loss", "val.accuracy", "test.loss", "test.accuracy"}
    assert "metrics" not in nasir.load_spec(tmp_path / "tiny.yaml").resolved()["data"]


def test_ranks_are_those_of_topk() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(200, 9), torch.randint(0, 9, (200,))
    wanted = (logits.topk(5, 1).indices == labels.unsqueeze(1)).any(1)
    assert torch.equal(within(logits, labels, 5), wanted) and 0 < wanted.sum() < 200
    assert torch.equal(within(logits, labels, 1), logits.argmax(1) == labels)
    assert not within(torch.full((3, 9), torch.nan), labels[:3], 5).any()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            SEVEN.replace("classes: 7", "classes: 5"),
            ":17:13: data.metrics.0: top5 is always 1 with 5 classes; leave it",
        ),
        (SEVEN.replace("[top5]", "[top3]"), "data.metrics.0: unknown value 'top3'; did you mean 'top5'?"),
        (SEVEN.replace("[top5]", "[]"), "data.metrics"),
        (SEVEN.replace("[top5]", "[top5, top5]"), "metrics: one is named twice among top5, top5"),
        (
            SPEC.replace("at_most: 3", "freeze: {plateau: {metric: val.top5}}"),
            "val.top5 is not measured; add it to the data: `metrics: [top5]`",
        ),
    ],
)
def test_what_says_nothing_is_refused(text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(write_spec(tmp_path, text))]) == 2
    assert told in capsys.readouterr().err
