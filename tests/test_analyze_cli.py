"""`nasir analyze --residual` as a user meets it: specs, runs, graphs, and the report."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import small_resnet
from small_runs import SPEC

from nasir.analysis.contributions import Contribution, ResidualAnalysis, Spread
from nasir.backends.torch import Model
from nasir.backends.torch.session import TorchSession
from nasir.cli.main import main
from nasir.figures.kept import checkpoint_after
from nasir.figures.plane import open_backend
from nasir.journal.directory import RunDirectory
from nasir.report import write_report
from nasir.report.residual_table import render
from nasir.running.engine import setup_of
from nasir.running.replay import reopen

sys.path.insert(0, str(Path(__file__).parent / "report"))
from browser import dumped, needs_browser

SHORT = SPEC.replace("    until: all_frozen", "    epochs: 2").replace(
    "    epochs: 2\n    optimizer", "    epochs: 1\n    optimizer"
)


def analyze(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert main(["analyze", *words]) == code
    captured = capsys.readouterr()
    return captured.out, captured.err


def facts(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    return json.loads(analyze(capsys, *words, "--residual", "--json")[0])


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("analyzed") / "tiny.yaml"
    path.write_text(SHORT)
    return path


@pytest.fixture(scope="module")
def made(spec: Path) -> Path:
    """A run whose last phase keeps no average."""
    out = spec.parent / "run"
    assert main(["run", str(spec), "--out", str(out)]) == 0
    return out


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def test_a_spec_is_measured_with_fresh_weights_and_the_statistics_of_the_batch(
    spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, _ = analyze(capsys, str(spec), "--residual", "--batch", "32")
    head, _, columns, *rows = text.splitlines()
    assert head == (
        "2 residual sums x + f(x): fresh weights of seed 3, 32 training examples of synthetic, batch norms by the "
        "statistics of the batch"
    )
    assert columns.split()[:4] == ["|f|/|x|", "mean", "|f|/|x+f|", "var"]
    assert rows[0].split()[0] == "s1.0" and rows[1].startswith("s2.0 (projected)")
    assert re.search(r"^effective depth +\S+ of 2 branches$", text, re.M)
    found = facts(capsys, str(spec), "--batch", "32")
    assert [row["label"] for row in found["sums"]] == ["s1.0.add", "s2.0.add"] and found["samples"] == 32
    # a batch norm ends each branch
    assert all(row["variance"]["branch"] == pytest.approx(1, rel=1e-2) for row in found["sums"])
    assert found["statistics"] == "batch" and found["epoch"] is None and found["orders"] == []
    best = max(found["response"], key=lambda point: point["response"])
    assert best["scale"] == pytest.approx(found["most_responsive_scale"], abs=0.05)
    running = facts(capsys, str(spec), "--statistics", "running", "--set", "seed=4", "--orders", "5")
    assert running["statistics"] == "running" and running["weights"] == "fresh weights of seed 4"
    assert [row["order"] for row in running["orders"]] == [0, 1, 2] and running["orders"][-1]["partial"] < 1e-5


def test_a_run_is_measured_with_the_weights_that_it_evaluates(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(capsys, str(made), "--data", "synthetic")
    assert found["weights"] == "weights after epoch 3" and found["epoch"] == 3 and found["statistics"] == "running"
    directory = RunDirectory.open(made)
    kept = checkpoint_after(directory, None)
    assert found["graph"] == kept.graph.digest and found["data"] == "synthetic images"
    # the same by hand, on the examples of the run
    own = facts(capsys, str(made), "--batch", "72")  # all of them
    assert own["samples"] == 72 and own["data"] == "training examples of synthetic"
    weights = kept.read(open_backend(directory), False)
    model = Model.from_graph(kept.graph)
    model.load_state_dict({name: torch.tensor(weights[name]) for name in model.state_dict()})
    stored, env = reopen(directory)
    images, labels = TorchSession(setup_of(stored, Path(env["base"]))).source.labelled(72)
    by_hand = model.analyze_residual(images, labels).to_json()
    assert own["sums"] == by_hand["sums"] != found["sums"]


def test_the_moving_average_is_measured_where_the_phase_has_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "averaged.yaml"
    path.write_text(SHORT.partition("  - name: finetune")[0].replace("decay: 0.9", "decay: 0.5"))
    assert main(["run", str(path), "--out", str(tmp_path / "run")]) == 0
    found = facts(capsys, str(tmp_path / "run"))
    assert found["weights"] == "moving average of the weights after epoch 2"


def test_a_graph_is_measured_on_synthetic_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "graph.txt"
    path.write_text(small_resnet().to_text())
    found = facts(capsys, str(path))
    assert len(found["sums"]) == 3 and found["data"] == "synthetic images" and found["statistics"] == "batch"
    assert all(row["gradient"] > 0 for row in found["sums"])
    _, error = analyze(capsys, str(path), "--residual", "--data", "spec", code=2)
    assert "a graph file has no data; leave --data out" in error


def test_what_cannot_be_is_refused(spec: Path, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        (("--batch", "1"), "--batch 1: too few; give at least 2"),
        (("--orders", "-1"), "--orders -1: too few; give at least 0"),
        (("--report",), "only runs have a report; leave --report out"),
    ):
        assert told in analyze(capsys, str(spec), "--residual", *words, code=2)[1]
    assert "--set changes a spec" in analyze(capsys, str(made), "--residual", "--set", "seed=1", code=2)[1]
    with pytest.raises(SystemExit):
        main(["analyze", str(spec)])
    assert "--residual" in capsys.readouterr().err


def test_a_network_without_residual_sums_says_so(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = spec.parent / "plain.yaml"
    head = SHORT.partition("phases:")[0].replace("block: basic", "block: plain")
    path.write_text(head + "phases: [{name: a, epochs: 1, optimizer: {sgd: {lr: 0.1}}}]\n")
    text, _ = analyze(capsys, str(path), "--residual")
    assert text.startswith("the network has no residual sums")
    assert facts(capsys, str(path))["sums"] == []


def test_the_report_shows_what_was_kept(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = write_report(run).read_text()
    assert "Residual branches" not in before
    _, told = analyze(capsys, str(run), "--residual", "--report", "--orders", "1")
    assert f"wrote {run / 'report.html'}" in told
    text = (run / "report.html").read_text()
    section = text.partition("<h2>Residual branches</h2>")[2].partition("<h2>")[0]
    for words in ("weights after epoch 3", "path mass", "effective depth", "What each branch adds", "s2.0 (projected)"):
        assert words in section, words
    assert section.count("<svg") == 4 and not re.search(r"\bnan\b|\binf\b", section)
    assert main(["verify", str(run)]) == 0
    for damaged in ("{", "[]", "{}", '{"sums": [1]}'):
        (run / "residual.json").write_text(damaged)
        assert "residual.json is damaged" in write_report(run).read_text()


@needs_browser
def test_a_browser_reads_values_by_residual_sum(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    analyze(capsys, str(run), "--residual", "--report")
    page = dumped(run / "report.html", tmp_path / "profile")
    count = (run / "report.html").read_text().count('<svg class="chart"')
    assert f'data-ready="charts-{count}"' in page.stdout and 'data-x="residual sum"' in page.stdout
    assert "Uncaught" not in page.stderr


def test_very_deep_networks_and_odd_numbers_have_a_table() -> None:
    spread = Spread(1.0, 1.0)
    deep = Contribution("b.add", "b", False, 1, spread, spread, 0.0, math.nan, math.inf)
    text = render(ResidualAnalysis((deep,) * 1100, 1100, 4, "running"))
    assert "path mass              - (- at ratios of 1)" in text and "nan" not in text and "inf" not in text
    assert "|gradient|" not in text  # nothing was measured
