"""`nasir search` as a user meets it: new, gone on with, refused, looked at."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import warm

from nasir.cli.main import main

SPEC = """\
nasir: 1
name: tiny
seed: 3
device: cpu
input: {image: [3, 8, 8]}
network:
  - conv_bn_relu: {out: 4, kernel: 3}
  - classifier: {classes: 3}
data:
  dataset: synthetic
  options: {classes: 3, size: 8, channels: 3, train: 48, test: 24}
  batch_size: 16
  validation: 24
phases:
  - name: train
    epochs: 2
    optimizer: {sgd: {lr: {choose: {float: [0.01, 0.5], log: true}, default: 0.1}}}
search: {trials: 3, sampler: random}
"""
SECRET = "s3cret"


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NASIR_STORAGE", raising=False)
    path = tmp_path / "tiny.yaml"
    path.write_text(SPEC)
    return path


def nasir(*arguments: object, storage: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    if storage is not None:
        environment["NASIR_STORAGE"] = storage
    return warm.nasir(*map(str, arguments), environment=environment)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command says that ends with 2 before it does anything."""
    assert main(["search", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err


@pytest.mark.slow
def test_a_search_from_its_spec_to_the_winner_trained_again(spec: Path) -> None:
    done = nasir("search", spec, "--trials", 2)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("study tiny in studies/tiny: 2 trials; storage sqlite:///")
    assert re.match(r"\[1/2\] trial 0  val\.accuracy [\d.]+  lr=0\.1  2 epochs  \S+  best so far$", lines[1])
    assert re.match(r"\[2/2\] trial 1  val\.accuracy ", lines[2]) and len(lines) == 3
    assert "best trial:" in done.stdout and "nasir run --best studies/tiny" in done.stdout
    assert "report: studies/tiny/report.html" in done.stdout
    study = Path("studies/tiny")
    assert (study / "report.html").exists() and (study / "workers" / "1.log").exists()
    card = json.loads((study / "study.json").read_text())
    assert card["study"] == "tiny" and card["storage"].endswith("study.db")

    more = nasir("search", study, "--trials", 3, "--json")  # goes on
    assert more.returncode == 0, more.stderr
    facts = json.loads(more.stdout)
    assert (facts["done"], facts["points"]) == (3, 3) and "2 of them done" in more.stderr
    best = facts["best"][0]
    assert "[3/3] trial 2" in more.stderr and "trial 0  " not in more.stderr
    rates = {trial["choices"]["phases.0.optimizer.sgd.lr"] for trial in facts["best"]}
    assert len(rates) == 1

    again = nasir("search", spec, "--trials", 3)  # has all it asks for
    assert again.returncode == 0 and "best trial:" in again.stdout and "takes none back" not in again.stderr
    fewer = nasir("search", spec, "--trials", 1)
    assert fewer.returncode == 0 and "--trials 1: the study has 3 already and takes none back" in fewer.stderr

    study.rename("moved")
    study = Path("moved")
    table = nasir("search", study, "--export", "csv")
    rows = list(csv.DictReader(io.StringIO(table.stdout)))
    assert table.returncode == 0 and [row["number"] for row in rows] == ["0", "1", "2"]
    into = nasir("search", study, "--export", "csv", "--to", "trials.csv")
    assert into.returncode == 0 and Path("trials.csv").read_text() == table.stdout
    (study / "report.html").unlink()
    page = nasir("search", study, "--report", storage="postgresql://nobody@127.0.0.1:1/none")  # is for new studies
    assert page.returncode == 0 and page.stdout == "report: moved/report.html\n"
    assert (study / "report.html").exists()

    winner = nasir("run", "--best", study, "--out", "winner", "--json")
    assert winner.returncode == 0, winner.stderr
    assert json.loads(winner.stdout)["metrics"]["val.accuracy"] == best["values"]["val.accuracy"]
    other = nasir("run", "--best", study, "--trial", 1, "--out", "other", "--json")
    assert other.returncode == 0, other.stderr
    unknown = nasir("run", "--best", study, "--trial", 77)
    assert unknown.returncode == 2 and "77" in unknown.stderr

    spec.write_text(SPEC.replace("0.01, 0.5", "0.01, 0.7"))
    changed = nasir("search", spec, "--out", "moved")
    assert changed.returncode == 1 and "lr" in changed.stderr and "0.7" in changed.stderr


@pytest.mark.slow
def test_a_hand_started_worker_takes_the_spec_from_the_storage(spec: Path) -> None:
    url = f"sqlite:///{spec.parent / 'shared.db'}"
    begun = nasir("search", spec, "--timeout", "0.001", "--storage", url)
    assert begun.returncode == 1 and "3 trials left" in begun.stderr and "no trial is complete" in begun.stdout
    late = nasir("search", "--worker", "--timeout", "0.001", "--out", "elsewhere", storage=url)
    assert late.returncode == 0 and not Path("elsewhere/trials").exists(), late.stderr
    worker = nasir("search", "--worker", "--out", "elsewhere", storage=url)  # there is one study: no name is needed
    assert worker.returncode == 0, worker.stderr
    assert len(list(Path("elsewhere/trials").iterdir())) == 3
    again = nasir("search", spec, "--storage", url, "--study", "second", "--timeout", "0.001")
    assert again.returncode == 1
    lost = nasir("search", "--worker", storage=url)
    assert lost.returncode == 2 and "'second', 'tiny'" in lost.stderr and "--study" in lost.stderr


@pytest.mark.slow
def test_the_password_of_a_storage_is_neither_printed_nor_written(spec: Path) -> None:
    url = f"postgresql+psycopg2://nasir:{SECRET}@127.0.0.1:1/none?connect_timeout=1"
    away = nasir("search", spec, storage=url)
    assert away.returncode == 1 and "refused" in away.stderr and "***" in away.stderr
    study = Path("studies/tiny")
    study.mkdir(parents=True, exist_ok=True)
    (study / "study.json").write_text(json.dumps({"study": "tiny", "storage": url.replace(SECRET, "***")}))
    unknown = nasir("search", study)
    assert unknown.returncode == 2 and "--storage or NASIR_STORAGE" in unknown.stderr
    known = nasir("search", study, storage=url)
    assert known.returncode == 1 and "refused" in known.stderr
    assert not any(SECRET in done.stdout + done.stderr for done in (away, unknown, known))
    assert not any(SECRET in path.read_text() for path in Path().rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a spec"),
        (["missing.yaml"], "no such file"),
        (["."], "no search here (study.json is missing); name a folder made by `nasir search`, or a spec\n"),
        ([".", "--report"], "no search here (study.json is missing); name a folder made by `nasir search`\n"),
        (["--worker"], "--storage"),
        (["tiny.yaml", "--worker", "--storage", "sqlite:///a.db"], "leave the spec out"),
        (["--worker", "--workers", "2", "--storage", "sqlite:///a.db"], "leave --workers out"),
        (["--worker", "--report", "--storage", "sqlite:///a.db"], "leave --report out"),
        ([".", "--report", "--set", "seed=1"], "leave --set out"),
        ([".", "--export", "csv", "--trials", "3"], "leave --trials out"),
        (["tiny.yaml", "--storage", "redis://localhost"], "heartbeats"),
        (["tiny.yaml", "--storage", "nonsense"], "not a URL"),
        (["tiny.yaml", "--set", "search.trials=none"], "search.trials"),
        (["tiny.yaml", "--set", "phases.0.optimizer.sgd.lr=0.1"], "nothing to choose"),
        (["tiny.yaml", "--report"], "no search here"),
        (["tiny.yaml", "--to", "x.csv"], "--export"),
        (["tiny.yaml", "--ray-cpus", "2"], "--ray"),
    ],
)
def test_bad_requests_are_refused(
    arguments: list[str], message: str, spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, *arguments)
    assert not list(spec.parent.rglob("*.db"))


@pytest.mark.parametrize(
    "arguments", [["--workers", "0"], ["--trials", "-1"], ["--timeout", "soon"], ["--export", "xml"]]
)
def test_bad_numbers_are_refused_by_the_parser(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["search", "tiny.yaml", *arguments])
    assert arguments[0] in capsys.readouterr().err


def test_a_folder_of_another_study_is_refused(spec: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other").mkdir()
    Path("other/study.json").write_text('{"study": "big", "storage": "sqlite:///other/study.db"}')
    assert "belongs to the study 'big'" in refused(capsys, spec, "--out", "other")
    assert "--set is only for a new search" in refused(capsys, "other", "--set", "seed=1")
    Path("other/study.json").write_text("{")
    assert main(["search", "other"]) == 1
    assert "study.json: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--best STUDY"),
        (["tiny.yaml", "--best", "."], "--best STUDY"),
        (["tiny.yaml", "--trial", "3"], "--trial"),
        (["--best", "."], "no search here"),
    ],
)
def test_what_is_to_be_run_is_said_once(
    arguments: list[str], message: str, spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_without_optuna_the_remedy_is_named_and_nothing_else_needs_it(spec: Path) -> None:
    code = (
        "import sys; sys.modules['optuna'] = None\n"
        "import importlib.metadata as m; found = m.version\n"
        "def version(name):\n    if name == 'optuna': raise m.PackageNotFoundError(name)\n    return found(name)\n"
        "m.version = version\n"
        "from nasir.cli.main import main\n"
        "assert main(['check', 'tiny.yaml']) == 0\n"
        "assert main(['search', 'tiny.yaml']) == 2\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pip install 'nasir[search]'" in done.stderr
