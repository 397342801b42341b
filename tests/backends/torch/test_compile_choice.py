"""`compile: auto`: how steps are timed, what is chosen, and what the user hears. Compiling itself: test_compile.py."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from small_runs import SPEC, write_spec

import nasir.api
from nasir.backends.torch import compile as compiling
from nasir.backends.torch.compile import TIMED, WARM, Choice, step_seconds
from nasir.backends.torch.session import TorchSession
from nasir.cli import main
from nasir.errors import Diverged
from nasir.report.progress import line


def test_steps_are_timed_over_as_many_epochs_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(compiling.time, "perf_counter", lambda: clock[0])
    # of each epoch the second step; of those two to warm up, then three that count
    durations = iter([9.0, 70.0, 1.0, 80.0, 1.0, 5.0, 1.0, 2.0, 1.0, 3.0])
    epochs: list[int] = []

    def train(epoch: int, stop: Any) -> None:
        epochs.append(epoch)
        clock[0] += 100.0  # to draw an epoch is no part of a step
        for _ in range(2):
            clock[0] += next(durations)
            if stop():
                return

    assert (WARM, TIMED) == (2, 3)
    assert step_seconds(train, lambda: None) == 3.0 and epochs == [0, 1, 2, 3, 4]


def test_what_stops_the_compiler_is_a_reason_to_do_without() -> None:
    def seconds(compiled: bool) -> float:
        if compiled:
            raise RuntimeError("no C++ compiler\nat all")
        return 0.25

    choice = Choice.measured(seconds)
    assert choice == Choice(False, 250.0, None, "RuntimeError: no C++ compiler")
    told = line({"kind": "compilation", **choice.record()})
    assert told == "blocks run eager: a step takes 250 ms eager, compiled RuntimeError: no C++ compiler"


def test_what_fails_without_the_compiler_fails() -> None:
    def seconds(compiled: bool) -> float:
        raise Diverged("so it is", {})

    with pytest.raises(Diverged):
        Choice.measured(seconds)


def test_a_run_prints_and_journals_its_choice_for_every_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = nasir.api.run(write_spec(tmp_path), tmp_path / "plain")
    monkeypatch.setattr(TorchSession, "_run_compiled", lambda session, wanted: setattr(session, "compiled", False))
    monkeypatch.setattr("nasir.backends.torch.session.BlockCompiler.compile", lambda self, model: None)
    times = iter([0.002, 0.003] * 2)
    monkeypatch.setattr("nasir.backends.torch.session.step_seconds", lambda train, wait: next(times))
    spec = write_spec(tmp_path, SPEC.replace("precision: fp32\n", "precision: fp32\ncompile: auto\n"))
    assert main(["run", str(spec), "--out", str(tmp_path / "auto")]) == 0
    assert capsys.readouterr().err.count("blocks run eager: a step takes 2 ms eager, compiled 3 ms") == 2
    run = nasir.api.resume(tmp_path / "auto")
    found = [record for record in run.journal if record["kind"] == "compilation"]
    assert [record["phase"] for record in found] == ["grow", "finetune"]
    assert all((r["compiled"], r["eager_ms"], r["compiled_ms"]) == (False, 2.0, 3.0) for r in found)
    assert run.metrics == wanted.metrics


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("deterministic: true\ncompile: auto\n", r"tiny\.yaml:\d+:\d+: compile: auto goes by measured time.*use false"),
        ("precision: tf32\n", r"tiny\.yaml:\d+:\d+: precision: tf32 is of CUDA devices, and `device` is cpu"),
    ],
)
def test_settings_that_exclude_each_other_are_refused_at_their_place(
    line: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write_spec(tmp_path, SPEC.replace("precision: fp32\n", line))
    assert main(["check", str(spec)]) == 2
    assert re.search(told, capsys.readouterr().err)
