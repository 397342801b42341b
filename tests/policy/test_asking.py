"""Policies of others that fail or do not end: told at once, with policy, phase and epoch; a stop is heeded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import nasir
from nasir.errors import Preempted, RunError
from nasir.policy import FreezeSite, PhasePlan, PhaseView, RewriteSite, decisions_of
from nasir.records import EpochRecord, RewriteRecord
from nasir.registry import policies
from nasir.running.engine import Signals

SPEC = """\
nasir: 1
name: asking
device: cpu
input: {image: [1, 8, 8]}
network:
  - conv_bn_relu: {out: 4}
  - stage: {name: s1, block: basic, out: 4, depth: 1}
  - classifier: {classes: 10}
data: {dataset: digits, batch_size: 256, validation: 0.2, subset: 0.3}
phases:
  - name: grow
    epochs: 2
    optimizer: {sgd: {lr: 0.05}}
    policy: asked
    rules: [{do: {insert-block: {init: zero}}}]
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "_objects", dict(policies._objects))  # what is registered here ends with the test


def register(decide: Any) -> None:
    """A policy without options."""

    @policies.register("asked")
    class Asked:
        def __init__(self, plan: PhasePlan, seed: int) -> None:
            self.plan, self.seed = plan, seed

        def decide(self, history: Any, view: PhaseView) -> Any:
            return decide(history, view)


def run(folder: Path, **given: Any) -> Any:
    spec = folder / "s.yaml"
    spec.write_text(SPEC)
    return nasir.run(spec, out=folder / "run", **given)


def test_a_policy_without_options_decides(tmp_path: Path) -> None:
    def decide(history: Any, view: PhaseView) -> Any:
        grow = RewriteSite("grow.rules.0", "insert-block", {"init": "zero"}, "s1")
        return (grow,) if isinstance(history[-1], EpochRecord) else ()

    register(decide)
    assert sum(isinstance(record, RewriteRecord) for record in run(tmp_path).journal) == 2


def test_one_that_repeats_itself_is_stopped_at_the_second_time(tmp_path: Path) -> None:
    register(lambda history, view: (FreezeSite("grow.rules.0", "s1", "so"),))
    with pytest.raises(RunError, match=r"phase 'grow', after epoch 0: policy asked decides again on `freeze` at s1"):
        run(tmp_path)


def test_what_it_raises_is_told_in_two_lines() -> None:
    register(lambda history, view: {}["nothing"])
    policy = policies.get("asked")(PhasePlan("p", 3, policy="asked"), 0)
    with pytest.raises(RunError) as caught:
        decisions_of(policy, PhasePlan("p", 3, policy="asked"), [], PhaseView((), {}))
    first, second = str(caught.value).splitlines()
    assert first == "phase 'p', after 0 epochs: policy asked raised KeyError: 'nothing'"
    assert "test_asking.py:" in second and "mend its `decide`" in second


def test_a_stop_ends_one_that_goes_on_and_on(tmp_path: Path) -> None:
    asked, signals = 0, Signals()

    def decide(history: Any, view: PhaseView) -> Any:
        nonlocal asked
        asked += 1
        if asked == 10:
            signals.exit_code = 75  # as the handler of a signal does
        return (FreezeSite("grow.rules.0", "s1", f"number {asked}"),)

    register(decide)
    with pytest.raises(Preempted):
        run(tmp_path, signals=signals)
    assert asked <= 12
