"""Policies of others that fail or do not end: told at once, with policy, phase and epoch; a stop is heeded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_runs import weights

import nasir
from nasir.errors import Preempted, RunError
from nasir.journal.directory import RunDirectory
from nasir.policy import FreezeSite, PhasePlan, PhaseView, RewriteSite, Rounds, RulePlan, decisions_of, simulate
from nasir.records import (
    CheckpointRecord,
    DecisionRecord,
    DeclinedRecord,
    EpochRecord,
    PhaseRecord,
    Record,
    RewriteRecord,
)
from nasir.registry import policies
from nasir.running.engine import Signals
from nasir.running.replay import compare

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


def test_one_that_grows_the_network_for_ever_at_one_moment_is_stopped_with_what_grew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nasir.policy.asking.GROWTH_ROUNDS", 5)
    register(lambda history, view: (RewriteSite("grow.rules.0", "insert-block", {"init": "zero"}, "s1"),))
    told = (
        r"phase 'grow', after epoch 0: policy asked has grown the network in 6 rounds without training it in between, "
        r"from [\d,]+ to [\d,]+ parameters; the latest was insert-block at s1, and would never end"
    )
    with pytest.raises(RunError, match=told):
        run(tmp_path)


def test_one_that_grows_the_network_too_large_at_one_moment_is_stopped() -> None:
    rounds, grow = Rounds(PhasePlan("p", 3, policy="asked"), 2), RewriteSite("r", "widen", {}, "s1")
    with pytest.raises(RunError, match=r"after epoch 2: .* in 10 rounds .* from 100 to 102,400 parameters"):
        for number in range(12):
            rounds.check((grow,), PhaseView(("s1",), {"s1": 1}, params=100 << number), str(number))


def test_one_that_always_has_something_new_to_say_is_stopped_and_little_is_kept_of_it(tmp_path: Path) -> None:
    rounds, view = Rounds(PhasePlan("p", 3, policy="asked"), 2), PhaseView(("s1",), {"s1": 1})
    with pytest.raises(RunError, match="phase 'p', after epoch 2: policy asked has decided in 1000 rounds"):
        for number in range(2000):
            rounds.check((FreezeSite("r", "s1", "so " * 100 + str(number)),), view, "one network")
    assert max(map(len, rounds.seen)) == 32 and len(rounds.seen) == 1000
    endless = iter(range(10**6))
    register(lambda history, view: (FreezeSite("grow.rules.0", "s1", f"number {next(endless)}"),))
    plan = PhasePlan("p", 3, policy="asked")
    with pytest.raises(RunError, match="policy asked has decided in 1000 rounds"):
        simulate((plan,), 0, [{"val.accuracy": 0.5}], view, make=policies.get("asked"))


def test_rules_that_are_refused_at_many_places_have_a_round_for_each() -> None:
    sites = tuple(f"space{number}" for number in range(1100))
    plan = PhasePlan("p", 2, (RulePlan("r", "widen", every=1),))
    view = PhaseView((), {}, sites={"r": sites})
    records = simulate((plan,), 0, [{"val.accuracy": 0.5}], view, lambda decision: None)
    assert sum(isinstance(record, DeclinedRecord) for record in records) == 1100
    assert records[-1]["status"] == "done"


@pytest.mark.parametrize("when", ["at the start", "after an epoch"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_stop_is_heeded_between_any_two_decisions_and_nothing_is_lost_between_rounds(
    tmp_path: Path, when: str, number: int
) -> None:
    """The policy asks for a rewrite and a freeze at a time, twice at each moment; a listener stops in between."""

    def decide(history: Any, view: PhaseView) -> Any:
        since = list(history)[max(n for n, r in enumerate(history) if isinstance(r, EpochRecord | PhaseRecord)) :]
        done = sum(isinstance(record, RewriteRecord) for record in since)
        grow = RewriteSite("grow.rules.0", "insert-block", {"init": "zero"}, "s1")
        return (grow, FreezeSite("grow.rules.0", "s1", f"number {done}")) if done < 2 else ()

    register(decide)
    whole, signals, told = run(tmp_path), Signals(), 0

    def listener(record: Record) -> None:
        nonlocal told
        if isinstance(record, DecisionRecord) and record.action == "freeze":
            told += record.epoch == (0 if when == "at the start" else 1)
            if told == number:
                signals.exit_code = 75  # as the handler of a signal does

    with pytest.raises(Preempted):
        nasir.run(tmp_path / "s.yaml", out=tmp_path / "stopped", signals=signals, listener=listener)
    records = RunDirectory.open(tmp_path / "stopped").records()
    if when == "after an epoch":
        assert isinstance(records[-1], CheckpointRecord)
    else:
        assert not any(isinstance(record, EpochRecord) for record in records)
    assert sum(isinstance(record, RewriteRecord) for record in records) == number + 2 * (when != "at the start")
    resumed = nasir.resume(tmp_path / "stopped")
    assert compare(whole.journal, resumed.journal) == [] and weights(whole.path) == weights(resumed.path)


def test_a_stop_within_decisions_that_were_made_together_goes_back_to_the_checkpoint(tmp_path: Path) -> None:
    grow = RewriteSite("grow.rules.0", "insert-block", {"init": "zero"}, "s1")
    register(lambda history, view: (grow, grow, grow) if isinstance(history[-1], EpochRecord) else ())
    whole, signals, rewrites = run(tmp_path), Signals(), 0

    def listener(record: Record) -> None:
        nonlocal rewrites
        rewrites += isinstance(record, RewriteRecord)
        if rewrites == 4:  # the first after the second epoch
            signals.exit_code = 75

    with pytest.raises(Preempted, match=r"stopped while decisions were carried out; .* from the last checkpoint"):
        nasir.run(tmp_path / "s.yaml", out=tmp_path / "stopped", signals=signals, listener=listener)
    assert rewrites == 4
    resumed = nasir.resume(tmp_path / "stopped")
    assert compare(whole.journal, resumed.journal) == [] and weights(whole.path) == weights(resumed.path)
