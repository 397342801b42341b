"""The benchmark of accelerators: its driver loses no more than the stage that fails, and its stages run on a CPU."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import collected
import pytest
import torch
from living import living

from benchmarks.accelerator import driver, graphs, metadata, results, stage
from benchmarks.accelerator.__main__ import main
from benchmarks.accelerator.bench import FULL, TINY, Bench, Device, Skip, check
from benchmarks.accelerator.stages import BY_NAME, STAGES, Stage
from benchmarks.accelerator.tests import Outcomes, files
from benchmarks.common import cifar_resnet

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "accelerator.sh"


def statuses(path: Path) -> dict[str, str | None]:
    return {name: result.status for name, result in results.read(path).items()}


# -- the results file


def test_a_line_that_a_kill_cut_short_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    assert results.read(path) == {}
    results.add(path, {"stage": "a", "figure": "x", "ms": 1})
    with open(path, "a") as file:
        file.write('{"stage": "a", "figure": "y", "m')
    results.add(path, {"stage": "a", "status": "done", "seconds": 2.0})
    assert results.read(path) == {"a": results.StageResult("done", 2.0, None, {"x": {"ms": 1}})}


def test_figures_of_an_earlier_attempt_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    for figure in ("x", "y"):
        results.add(path, {"stage": "a", "start": "now"})
        results.add(path, {"stage": "a", "figure": figure})
    assert results.read(path)["a"] == results.StageResult(None, None, None, {"y": {}})


# -- the tests of a device


def test_every_file_with_tests_for_a_device_is_found(pytestconfig: pytest.Config) -> None:
    """By their text, as collecting them all takes long; here they are collected, unless they have been already."""
    wanted = collected.files(pytestconfig, "cuda")
    if wanted is None:
        ask = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", "cuda", "-p", "no:cacheprovider", "tests"]
        told = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        wanted = {ROOT / line.partition("::")[0] for line in told.splitlines() if "::" in line}
    assert len(wanted) > 6 and set(files()) >= wanted


# -- the driver, with stages of a line each


def line(name: str, text: str) -> Stage:
    return Stage(name, text, 20.0, "")


def drive(tmp_path: Path, *stages: Stage, budget: float = 60.0, retry: bool = False) -> int:
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    call = driver.Call(tmp_path / "r.jsonl", work, "cpu", True, budget, retry)
    return driver.drive(call, stages, lambda made: [sys.executable, "-c", f"import os, sys, time\n{made.module}"])


COUNTED = "open(r'{}', 'a').write('{}')"  # a stage that leaves a letter each time it runs


def test_one_that_fails_is_killed_or_hangs_takes_no_other_along(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = tmp_path / "ran"
    good = [line(name, COUNTED.format(ran, name)) for name in ("a", "b")]
    bad = [
        line("failing", "print('reason: no luck', file=sys.stderr); sys.exit(1)"),
        line("raising", "1 / 0"),
        line("killed", "os.kill(os.getpid(), 11)"),
        Stage("hanging", "time.sleep(60)", 1.0, ""),
        line("lacking", f"print('reason: no data', file=sys.stderr); sys.exit({stage.SKIPPED})"),
    ]
    stages = [good[0], *bad, good[1]]
    assert drive(tmp_path, *stages) == 1
    recorded = results.read(tmp_path / "r.jsonl")
    assert {name: result.status for name, result in recorded.items()} == {
        "a": "done",
        "failing": "failed",
        "raising": "failed",
        "killed": "failed",
        "hanging": "timed out",
        "lacking": "skipped",
        "b": "done",
    }
    errors = {name: result.error or "" for name, result in recorded.items()}
    assert errors["failing"].startswith("no luck\n")
    assert "ZeroDivisionError" in errors["raising"]
    assert errors["killed"].startswith("killed by SIGSEGV")
    assert errors["hanging"].startswith("stopped after 1 s")
    assert errors["lacking"] == "no data"
    assert "b: done" in capsys.readouterr().out

    # a second call runs what has no result: what it lacked may be there now
    assert drive(tmp_path, *[line(made.name, "") for made in stages]) == 1
    assert ran.read_text() == "ab"
    assert statuses(tmp_path / "r.jsonl")["lacking"] == "done"
    assert drive(tmp_path, *[line(made.name, "") for made in stages], retry=True) == 0
    assert set(statuses(tmp_path / "r.jsonl").values()) == {"done"}


def test_what_the_budget_leaves_no_time_for_is_left_to_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    slow = Stage("slow", "time.sleep(60)", 300.0, "")
    later = line("later", COUNTED.format(ran, "l"))
    assert drive(tmp_path, slow, later, budget=driver.LEAST / 4) == 1
    assert statuses(tmp_path / "r.jsonl") == {} and not ran.exists()
    with monkeypatch.context() as patch:
        patch.setattr(driver, "LEAST", 1.0)
        assert drive(tmp_path, slow, later, budget=1.5) == 1
    assert statuses(tmp_path / "r.jsonl") == {"slow": "out of time"}
    assert drive(tmp_path, line("slow", ""), later) == 0
    assert ran.read_text() == "l"


def test_without_a_device_nothing_else_is_tried(tmp_path: Path) -> None:
    gone = line("first", f"print('reason: no CUDA device', file=sys.stderr); sys.exit({stage.NO_DEVICE})")
    assert drive(tmp_path, gone, line("second", "")) == 2
    assert statuses(tmp_path / "r.jsonl") == {"first": "skipped"}


def test_a_signal_ends_the_stage_and_what_it_started(tmp_path: Path) -> None:
    child = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid, file=open(r'{}', 'w')); time.sleep(60)"
    note = tmp_path / "pid"
    program = (
        "import sys; from pathlib import Path; from benchmarks.accelerator import driver; "
        "from benchmarks.accelerator.stages import Stage\n"
        f"work = Path(r'{tmp_path}')\n"
        f"stage = Stage('a', {child.format(note)!r}, 60.0, '')\n"
        "call = driver.Call(work / 'r.jsonl', work, 'cpu', True, 60.0)\n"
        "sys.exit(driver.drive(call, [stage], lambda one: [sys.executable, '-c', 'import time; ' + one.module]))"
    )
    running = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.DEVNULL)
    waited(lambda: note.exists() and bool(note.read_text().strip()))
    running.send_signal(signal.SIGTERM)
    assert running.wait(60) == 1
    assert statuses(tmp_path / "r.jsonl") == {"a": "interrupted"}
    waited(lambda: not living(int(note.read_text())))


def waited(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# -- a checkout that is not installed


def test_metadata_are_those_of_an_installation(tmp_path: Path) -> None:
    metadata.write(tmp_path)
    (distribution,) = Distribution.discover(path=[str(tmp_path)])
    table = metadata.project()
    assert (distribution.name, distribution.version) == (table["name"], table["version"])
    points = {(p.group, p.name, p.value) for p in distribution.entry_points}
    wanted = {**table["entry-points"], "console_scripts": table["scripts"]}
    assert points == {(group, *item) for group, listed in wanted.items() for item in listed.items()}


# -- the stages themselves


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Bench, dict[str, Any]]:
    for name in ("NASIR_DATA", "NASIR_CACHE"):
        monkeypatch.setenv(name, "")  # stages set them: put back afterwards
    figures: dict[str, Any] = {}

    def emit(figure: str, **values: Any) -> None:
        json.dumps(values, allow_nan=False)
        figures[figure] = values

    return Bench(Device("cpu"), TINY, tmp_path, emit, emit), figures


def ran(name: str, bench: tuple[Bench, dict[str, Any]]) -> dict[str, Any]:
    chosen = BY_NAME[name]
    module = __import__(f"benchmarks.accelerator.{chosen.module}", fromlist=["run"])
    module.run(bench[0], *chosen.options)
    return bench[1]


def test_the_environment_is_told(bench: tuple[Bench, dict[str, Any]]) -> None:
    figures = ran("environment", bench)
    assert figures["packages"]["missing"] == [] and figures["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert figures["machine"]["torch"] == torch.__version__ and figures["machine"]["cores"] >= 1
    assert figures["ceilings"].keys() == {"bf16_tflops", "copy_gb_s"}


def test_speed_is_told_of_both_loops(bench: tuple[Bench, dict[str, Any]]) -> None:
    (figures,) = ran("speed-eager", bench).values()
    assert figures["nasir_images_per_s"] > 0 and figures["hand_images_per_s"] > 0 and figures["turns"] == 1


def test_growth_is_timed(bench: tuple[Bench, dict[str, Any]]) -> None:
    (figures,) = ran("growth-eager", bench).values()
    assert figures["median_ms"] > 0
    # two 3x3 convolutions of 8 channels; two norms of scale, shift, mean, variance and a counter of 8 bytes each
    assert figures["block_bytes"] == 4 * 2 * 9 * 8 * 8 + 2 * (4 * 4 * 8 + 8)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # warnings of torch's compiler are not ours
def test_compiled_stages_run(bench: tuple[Bench, dict[str, Any]]) -> None:
    torch._dynamo.reset()
    assert ran("growth-compiled", bench)["compiled"]["new_compiled_graphs"] == 0
    assert ran("speed-compiled", bench)["tiny"]["compiled_graphs"] > 0


def test_checkpoints_are_timed_and_sized(bench: tuple[Bench, dict[str, Any]]) -> None:
    figures = ran("checkpoints", bench)
    assert len(figures) == 2
    assert all(saved["first_save_ms"] > 0 and saved["bytes"] > 0 for saved in figures.values())
    assert not list(bench[0].work.glob("checkpoints-*"))


def test_rewrites_are_weighed(bench: tuple[Bench, dict[str, Any]]) -> None:
    figures = ran("memory", bench)
    assert figures.pop("left behind by insertions and removals")["cycles"] > 0
    assert len(figures) == 6 and all(0 < f["changed_bytes"] for f in figures.values())


def test_replayed_steps_are_the_eager_ones(bench: tuple[Bench, dict[str, Any]]) -> None:
    (figures,) = ran("graphs", bench).values()
    eager, captured = figures["losses"]
    assert eager == captured > 0


def test_images_and_a_run_on_them(bench: tuple[Bench, dict[str, Any]]) -> None:
    figures = ran("images", bench)
    assert figures.keys() == {"cold cache", "warm cache", "epochs"}
    assert figures["epochs"]["images_per_s"] > 0
    run = ran("autogrow", bench)["run"]
    assert run["depths"] == {"s1": 2, "s2": 2, "s3": 2} and 0 <= run["test_accuracy"] <= 1


def test_data_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASIR_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("NASIR_CACHE", "")
    full = Bench(Device("cpu"), FULL, tmp_path, lambda *a, **k: None, lambda *a, **k: None)
    with pytest.raises(Skip, match=r"nowhere; set NASIR_DATA"):
        full.cifar10()


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check("cpu")
    with pytest.raises(Skip, match="no CUDA device") as caught:
        check("cuda:0")
    assert caught.value.device


def test_a_step_is_captured_after_steps_beside_it(bench: tuple[Bench, dict[str, Any]], monkeypatch: Any) -> None:
    """On a CPU, with stand-ins for torch's: which calls are made, and in which order."""
    calls: list[str] = []

    class Stand:
        def __init__(self, name: str = "side") -> None:
            self.name = name

        def wait_stream(self, other: Stand) -> None:
            calls.append(f"{self.name} waits for {other.name}")

        def replay(self) -> None:
            calls.append("replay")

    def graph(_: Stand) -> AbstractContextManager[None]:
        calls.append("capture")
        return nullcontext()

    def stream(side: Stand) -> AbstractContextManager[None]:
        calls.append(f"on {side.name}")
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "Stream", Stand)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Stand)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stand("main"))
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    session = bench[0].session(cifar_resnet(*bench[0].first_net))
    step = graphs.Step(session, torch.randn(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64))
    step.on_cuda = True
    graphs.warm(step)
    graphs.capture(step)()
    session.close()
    assert calls == ["side waits for main", "on side", "main waits for side", "capture", "replay"]


def test_outcomes_of_tests_are_recorded_as_they_come(bench: tuple[Bench, dict[str, Any]], pytester: Any) -> None:
    pytester.makepyfile(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2\n"
        "@pytest.mark.skip(reason='no such thing')\n"
        "def test_left_out(): pass\n"
        "@pytest.fixture\n"
        "def broken(): raise OSError('disk')\n"
        "def test_unready(broken): pass\n"
    )
    outcomes = Outcomes(bench[0])
    pytester.inline_run(plugins=[outcomes])
    by_test = {name.partition("::")[2]: values for name, values in bench[1].items()}
    assert {name: values["outcome"] for name, values in by_test.items()} == {
        "test_good": "passed",
        "test_bad": "failed",
        "test_left_out": "skipped",
        "test_unready": "error",
    }
    assert "assert 1 == 2" in by_test["test_bad"]["error"] and "OSError" in by_test["test_unready"]["error"]
    assert by_test["test_left_out"]["reason"] == "Skipped: no such thing"
    assert [name.partition("::")[2] for name in outcomes.failed] == ["test_bad", "test_unready"]


# -- the script


def test_wrong_options_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--stages", "environment,nothing"], ["--budget", "0"]):
        with pytest.raises(SystemExit):
            main([*wrong, "--out", str(tmp_path / "r.jsonl")])
    assert "no stage nothing; there are environment" in capsys.readouterr().err
    assert not (tmp_path / "r.jsonl").exists()


def test_stages_have_names_of_their_own_and_fit_the_time() -> None:
    assert len(BY_NAME) == len(STAGES)
    assert all(driver.LEAST < planned.limit < 480 for planned in STAGES)


@pytest.mark.slow
def test_a_killed_stage_is_recorded_and_run_again(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    shell = shutil.which("sh")
    assert shell is not None
    command = [shell, str(SCRIPT), "--out", str(out), "--device", "cpu", "--tiny", "--stages"]
    environment = {**os.environ, "PYTHON": sys.executable}
    running = subprocess.Popen(
        [*command, "environment,growth-eager"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    waited(lambda: out.exists() and '"pid"' in out.read_text())
    started = next(json.loads(text) for text in out.read_text().splitlines() if '"pid"' in text)
    os.kill(started["pid"], signal.SIGKILL)
    printed, _ = running.communicate(timeout=300)
    assert running.returncode == 1
    recorded = results.read(out)
    assert {name: result.status for name, result in recorded.items()} == {
        "environment": "failed",
        "growth-eager": "done",
    }
    assert (recorded["environment"].error or "").startswith("killed by SIGKILL")
    assert recorded["growth-eager"].figures["eager"]["median_ms"] > 0
    assert "growth-eager: eager: {" in printed

    before = out.read_text()
    again = [*command, "environment,growth-eager", "--retry"]
    done = subprocess.run(again, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert out.read_text().startswith(before) and "growth-eager: eager" not in done.stdout
    assert results.read(out)["environment"].figures["machine"]["torch"] == torch.__version__
