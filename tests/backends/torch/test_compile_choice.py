"""`compile: auto`: how steps are timed, what is chosen, and what the user hears. Compiling itself: test_compile.py."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from grown import same_tensors
from small_runs import SPEC, write_spec

import nasir.api
from nasir.backends.torch.backend import TorchBackend
from nasir.backends.torch.lower import compile as compiling
from nasir.backends.torch.lower.compile import TIMED, WARM, Compilation, CompileChoice, step_seconds
from nasir.backends.torch.optimizers.named import export_state
from nasir.cli.main import main
from nasir.errors import Diverged, OutOfMemory
from nasir.records import CompilationRecord, from_json
from nasir.report.progress import line
from nasir.running.engine import setup_of
from nasir.spec import load_spec
from nasir.spec.network import build
from nasir.testing.backend_contract import initial
from nasir.training.plans import OptimizerPlan, TrainPlan


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

    put_back: list[int] = []
    choice = CompileChoice.measured(seconds, lambda: put_back.append(1))
    assert len(put_back) == 2
    assert choice == CompileChoice(False, 250.0, None, "RuntimeError: no C++ compiler")
    told = line(from_json({"kind": "compilation", **choice.record()}))
    assert told == "blocks run eager: a step takes 250 ms eager, compiled RuntimeError: no C++ compiler"


def test_what_fails_without_the_compiler_fails() -> None:
    def seconds(compiled: bool) -> float:
        raise Diverged("so it is", {})

    with pytest.raises(Diverged):
        CompileChoice.measured(seconds, lambda: None)


def test_a_state_that_cannot_be_put_back_is_no_matter_of_compiling() -> None:
    def seconds(compiled: bool) -> float:
        if compiled:
            raise OutOfMemory("a training step: not enough memory")
        return 0.1

    calls: list[int] = []

    def put_back() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OutOfMemory("a second copy: not enough memory")

    with pytest.raises(OutOfMemory, match="a second copy"):
        CompileChoice.measured(seconds, put_back)


def test_a_measured_attempt_that_fails_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After steps that moved weights, statistics, moments and averages."""
    monkeypatch.setattr("nasir.backends.torch.lower.compile.BlockCompiler.compile", lambda self, model: None)
    states = []
    spec = load_spec(write_spec(tmp_path))
    for way in (False, "auto"):
        session = TorchBackend().open(replace(setup_of(spec, tmp_path), compile=way))
        session.build(build(spec), initial(build(spec)))
        plan = TrainPlan(OptimizerPlan("adamw", lr=0.01), precision="fp32", ema_decay=0.9)
        monkeypatch.setattr("nasir.backends.torch.session.step_seconds", lambda train, wait: 1.0)
        session.begin_phase(plan, 8, resumed=False)
        session.train(0, 0, None, lambda: False)
        attempts: list[int] = []

        def timed(train: Any, wait: Any, attempts: list[int] = attempts) -> float:
            attempts.append(1)
            step_seconds(train, wait)
            if len(attempts) == 2:
                raise RuntimeError("the compiler fails late")
            return 1.0

        monkeypatch.setattr("nasir.backends.torch.session.step_seconds", timed)
        told = session.begin_phase(plan, 8, resumed=False)
        assert bool(told) is (way == "auto") and len(attempts) == (2 if told else 0)
        assert session.optimizer is not None and session.ema is not None
        state = export_state(session.optimizer, session.model.named_parameters())
        states.append(
            {
                **{f"w.{name}": tensor.clone() for name, tensor in session.model.state_dict().items()},
                **{f"e.{name}": tensor.clone() for name, tensor in session.ema.tensors.items()},
                **{f"{name}.{key}": tensor.clone() for name, own in state.items() for key, tensor in own.items()},
            }
        )
        session.close()
    assert same_tensors(*states) and any("exp_avg_sq" in name for name in states[0])


def test_a_run_prints_and_journals_its_choice_for_every_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = nasir.api.run(write_spec(tmp_path), tmp_path / "plain")
    monkeypatch.setattr(Compilation, "switch", lambda compilation, model, on: setattr(compilation, "on", False))
    monkeypatch.setattr("nasir.backends.torch.lower.compile.BlockCompiler.compile", lambda self, model: None)
    times = iter([0.002, 0.003] * 2)
    monkeypatch.setattr("nasir.backends.torch.session.step_seconds", lambda train, wait: next(times))
    spec = write_spec(tmp_path, SPEC.replace("precision: fp32\n", "precision: fp32\ncompile: auto\n"))
    assert main(["run", str(spec), "--out", str(tmp_path / "auto")]) == 0
    assert capsys.readouterr().err.count("blocks run eager: a step takes 2 ms eager, compiled 3 ms") == 2
    run = nasir.api.resume(tmp_path / "auto")
    records = [record for record in run.journal if isinstance(record, CompilationRecord)]
    assert [record.phase for record in records] == ["grow", "finetune"]
    assert all((r.compiled, r.eager_ms, r.compiled_ms) == (False, 2.0, 3.0) for r in records)
    assert run.metrics == wanted.metrics


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("deterministic: true\ncompile: auto\n", r"tiny\.yaml:\d+:\d+: compile: auto goes by measured time.*use false"),
        ("precision: tf32\n", r"tiny\.yaml:\d+:\d+: precision: tf32 needs a CUDA device, but `device` is cpu"),
    ],
)
def test_settings_that_exclude_each_other_are_refused_at_their_place(
    line: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write_spec(tmp_path, SPEC.replace("precision: fp32\n", line))
    assert main(["check", str(spec)]) == 2
    assert re.search(told, capsys.readouterr().err)
