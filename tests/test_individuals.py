"""Keep, recall and drop for any policy: across phases, and what is said to one that asks for the impossible."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from small_runs import SPEC, write_spec

import nasir
from nasir.errors import CheckpointError, RunError
from nasir.journal.directory import RunDirectory
from nasir.journal.log import lineage
from nasir.policy import (
    Decision,
    DropIndividual,
    History,
    KeepIndividual,
    PhasePlan,
    PhaseView,
    RecallIndividual,
    RewriteSite,
)
from nasir.records import DecisionRecord, EpochRecord, PhaseRecord, Record, RewriteRecord
from nasir.registry import policies
from nasir.running.replay import compare, replay_graphs
from nasir.running.verify import verify

PHASES = """\
phases:
  - name: first
    epochs: 2
    optimizer: {sgd: {lr: 0.05, momentum: 0.9}}
    policy: {script: {steps: [[], [keep 1, grow]]}}
  - name: second
    epochs: 2
    optimizer: {adam: {lr: 0.01}}
    ema: {decay: 0.9}
    policy: {script: {steps: [[], [recall 1, grow]]}}
    rules: [{do: {insert-block: {init: gaussian}}}]
"""
TEXT = SPEC[: SPEC.index("phases:")] + PHASES


@pytest.fixture(autouse=True)
def script() -> Iterator[None]:
    known = dict(policies._objects)

    @policies.register("script")
    class Script:
        """Does what its option says, one list of steps for the end of each epoch of the phase."""

        @dataclass(frozen=True)
        class Options:
            steps: tuple[tuple[str, ...], ...]

        def __init__(self, plan: PhasePlan, seed: int, options: Options) -> None:
            self.options = options

        def decide(self, history: History, view: PhaseView) -> tuple[Decision, ...]:
            last = [record for record in history if isinstance(record, PhaseRecord | EpochRecord | DecisionRecord)][-1]
            if not isinstance(last, EpochRecord):
                return ()
            return tuple(map(decision, self.options.steps[last["phase_epoch"] - 1]))

    yield
    policies._objects.clear()
    policies._objects.update(known)


def decision(step: str) -> Decision:
    action, _, number = step.partition(" ")
    if action == "grow":
        return RewriteSite("grow", "insert-block", {"init": "gaussian"}, "s1", "as written")
    kind = {"keep": KeepIndividual, "recall": RecallIndividual, "drop": DropIndividual}[action]
    return kind(int(number), "as written")


def test_an_individual_of_another_phase_comes_back_under_the_present_one(tmp_path: Path) -> None:
    """Its optimizer was another and it has no averages: both start anew."""
    spec = write_spec(tmp_path, TEXT)
    run = nasir.run(spec, out=tmp_path / "run")
    assert run.graph.depths() == {"s1": 2, "s2": 1}
    own = [record.phase for record in lineage(run.journal) if isinstance(record, EpochRecord)]
    assert own == ["first", "first"]
    assert replay_graphs(RunDirectory.open(tmp_path / "run"))[-1] == run.graph

    class Killed(BaseException):
        pass

    for kind in ("kept", "recalled"):

        def listener(record: dict[str, Any], kind: str = kind) -> None:
            if record.kind == kind:
                raise Killed

        with pytest.raises(Killed):
            nasir.run(spec, out=tmp_path / kind, listener=listener)
        assert compare(run.journal, nasir.resume(tmp_path / kind).journal) == []


def test_random_fills_of_siblings_differ(tmp_path: Path) -> None:
    """The same mutation of the same individual, twice: a recall counts as a step of the run."""
    steps = "steps: [[keep 1, grow, recall 1, grow], []]"
    text = TEXT.replace("steps: [[], [keep 1, grow]]", steps).replace(
        "steps: [[], [recall 1, grow]]", "steps: [[], []]"
    )
    run = nasir.run(write_spec(tmp_path, text), out=tmp_path / "run")
    first, second = (record for record in run.journal if isinstance(record, RewriteRecord))
    assert (first["ordinal"], second["ordinal"]) == (1, 3)
    assert first["after"] == second["after"] and first["delta_logits"] != second["delta_logits"]


@pytest.mark.parametrize(
    "steps, text",
    [
        ("[[recall 7], []]", "recalls individual 7, which is not stored; stored are none"),
        ("[[keep 1, drop 1], [recall 1]]", "recalls individual 1, which is not stored"),
        ("[[keep 1], [keep 1]]", "keeps individual 1 twice"),
    ],
)
def test_what_cannot_be_done_stops_the_run_with_the_reason(steps: str, text: str, tmp_path: Path) -> None:
    changed = TEXT.replace("[[], [keep 1, grow]]", steps)
    with pytest.raises(RunError, match=text):
        nasir.run(write_spec(tmp_path, changed), out=tmp_path / "run")


def test_an_individual_of_another_run_is_refused_by_name(tmp_path: Path) -> None:
    """It is whole in itself, but not the one that the journal says was kept."""

    class Killed(BaseException):
        pass

    def listener(record: Record) -> None:
        if isinstance(record, EpochRecord) and record.epoch == 3:
            raise Killed

    runs = []
    for seed in (3, 4):
        folder = tmp_path / str(seed)
        folder.mkdir()
        with pytest.raises(Killed):
            nasir.run(write_spec(folder, TEXT.replace("seed: 3", f"seed: {seed}")), folder / "run", listener=listener)
        runs.append(folder / "run")
    assert verify(runs[0]).sound
    shutil.rmtree(runs[0] / "individuals")
    shutil.copytree(runs[1] / "individuals", runs[0] / "individuals")
    text = r"individuals/1.*: not the individual that the journal says was kept"
    assert re.search(text, verify(runs[0]).faults[0])
    with pytest.raises(CheckpointError, match=text):
        nasir.resume(runs[0])
