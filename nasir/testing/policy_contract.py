"""What every policy owes: it is a pure function of recorded history, so that a resumed run decides alike."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from nasir.options import construct, options_of
from nasir.policy import (
    Decision,
    DropIndividual,
    EndPhase,
    KeepIndividual,
    PhaseView,
    Policy,
    RecallIndividual,
    RewriteSite,
)
from nasir.policy.asking import ROUNDS
from nasir.records import CheckpointRecord, Record, from_json, read_record
from nasir.registry import policies
from nasir.spec.passes import find, policy_options
from nasir.testing.option_laws import as_written, check_options, in_phase

Moment = tuple[int, PhaseView, tuple[Decision, ...]]  # records so far, the network then, what was decided


class PolicyContract:
    """Subclass with `make`, which gives a new policy for a phase called "phase"; all of them must be equal."""

    make: ClassVar[Callable[[], Policy]]
    epochs: ClassVar[int] = 40
    stages: ClassVar[tuple[str, ...]] = ("s1", "s2", "s3")

    options: ClassVar[Mapping[str, Any]] = {}  # of the policy that are right; those without a default are needed

    def metrics(self, epoch: int) -> dict[str, float]:
        """A learning curve that rises, saturates and is noisy; every third epoch it has little to say."""
        noise = float(np.random.default_rng(epoch).normal(0.0, 0.003))
        accuracy = 0.9 * (1.0 - 0.8**epoch) + noise
        both = {"accuracy": accuracy, "loss": 1.0 - accuracy}
        return {f"{part}.{name}": value for part in ("train", "val") for name, value in both.items()}

    def play(self, fresh: bool) -> tuple[list[Record], list[Moment]]:
        """A run with toy rewrites (one block more, every fifth declined); `fresh`: a new policy at every moment."""
        policy = type(self).make()
        toy = _Toy(PhaseView(self.stages, dict.fromkeys(self.stages, 1), 1000, 1000))
        moments: list[Moment] = []
        for epoch in range(self.epochs + 1):
            if epoch:
                toy.train(epoch, self.metrics(epoch))
            for _ in range(ROUNDS):
                now = type(self).make() if fresh else policy
                decisions = now.decide(tuple(toy.history), toy.view)
                moments.append((len(toy.history), toy.view, decisions))
                for decision in decisions:
                    toy.carry_out(decision, epoch)
                    if isinstance(decision, EndPhase):
                        return toy.history, moments
                if not decisions:
                    break
            else:
                raise AssertionError(f"after epoch {epoch} the policy still decides after {ROUNDS} rounds")
        return toy.history, moments

    def test_options_refuse_what_their_annotations_do_not_allow(self) -> None:
        """A foreign word, a wrong type, a number that is not finite or out of range: alike in Python and in a spec."""
        policy = type(type(self).make())
        kind = policy_options(policy)
        name = next((name for name in policies.names() if find(policies, name) is policy), None)
        check_options(
            options_of(kind),
            lambda values: construct(kind, values, f"policy {name or policy.__name__}"),
            as_written(kind, "policy") if name is None else in_phase(name),
            self.options,
        )

    def test_decisions_follow_from_history_alone(self) -> None:
        """A policy created again before every call, as after a resume, decides like one that was kept."""
        kept, made_anew = self.play(fresh=False), self.play(fresh=True)
        assert kept == made_anew

    def test_two_runs_decide_alike(self) -> None:
        assert self.play(fresh=False) == self.play(fresh=False)

    def test_later_records_do_not_change_earlier_decisions(self) -> None:
        """Asked again at the end about any prefix of the history, the policy answers as it did then."""
        history, moments = self.play(fresh=False)
        policy = type(self).make()
        for length, view, decisions in reversed(moments):
            assert policy.decide(tuple(history[:length]), view) == decisions, f"after {length} records"

    def test_a_history_read_back_from_the_journal_gives_the_same_decisions(self) -> None:
        history, moments = self.play(fresh=False)
        stored = [read_record(json.dumps(record.to_json())) for record in history]
        policy = type(self).make()
        for length, view, decisions in moments:
            assert policy.decide(stored[:length], view) == decisions, f"after {length} records"

    def test_records_of_other_kinds_change_nothing(self) -> None:
        """Checkpoints lie in the journal of an interrupted run where an uninterrupted one has none."""
        history, moments = self.play(fresh=False)
        other = CheckpointRecord(step=1, epoch=1, path="checkpoints/step_1")
        policy = type(self).make()
        for length, view, decisions in moments:
            noisy = [entry for record in history[:length] for entry in (record, other)]
            assert policy.decide(noisy, view) == decisions, f"after {length} records"

    def test_global_random_state_neither_matters_nor_moves(self) -> None:
        first = self.play(fresh=False)
        random.seed(17)
        np.random.seed(17)
        before = _random_state()
        assert self.play(fresh=False) == first
        assert _random_state() == before

    def test_history_and_view_are_left_alone(self) -> None:
        history, moments = self.play(fresh=False)
        length, view, _ = moments[-1]
        given, before = history[:length], copy.deepcopy(history[:length])
        seen = copy.deepcopy(view)
        type(self).make().decide(given, view)
        assert given == before and view == seen

    def test_decisions_are_journalable_and_name_known_sites(self) -> None:
        for _, view, decisions in self.play(fresh=False)[1]:
            for number, decision in enumerate(decisions):
                record = decision.to_record()
                assert json.loads(json.dumps(record)) == record
                assert decision.reason, f"{record}: say why, with the numbers"
                assert record["site"] is None or record["site"] in view.depths, f"{record}: no such site"
                last = number == len(decisions) - 1
                assert not isinstance(decision, EndPhase) or last, "end_phase must be the last decision"


def _random_state() -> tuple[object, bytes]:
    return random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tobytes()


class _Toy:
    """A run without training: its journal, and the network as its policy sees it."""

    def __init__(self, view: PhaseView) -> None:
        self.view = view
        self.history: list[Record] = []
        self.kept: dict[int, tuple[PhaseView, dict[str, float]]] = {}
        self.stored: set[int] = set()
        self.metrics: dict[str, float] = {}
        self._write("phase", {"epoch": 0})

    def _write(self, kind: str, fields: Mapping[str, Any]) -> None:
        self.history.append(from_json({"phase": "phase", **fields, "kind": kind}))

    def _structure(self) -> dict[str, Any]:
        return {"params": self.view.params, "macs": self.view.macs, "depths": dict(self.view.depths)}

    def train(self, epoch: int, metrics: dict[str, float]) -> None:
        self.metrics = metrics
        facts = {"epoch": epoch, "phase_epoch": epoch, "seconds": 1.0, "metrics": metrics, "lr": 0.1}
        self._write("epoch", facts | self._structure())

    def carry_out(self, decision: Decision, epoch: int) -> None:
        """Journal a decision and its outcome as the engine would."""
        place = {"epoch": epoch}
        self._write("decision", decision.to_record() | place)
        if isinstance(decision, RewriteSite):
            self._rewrite(decision, place, declined=epoch % 5 == 0)
        elif isinstance(decision, KeepIndividual | RecallIndividual | DropIndividual):
            self._individual(decision, place)

    def _rewrite(self, decision: RewriteSite, place: dict[str, Any], declined: bool) -> None:
        outcome = place | {"site": decision.site, "pass": decision.pass_name, "options": dict(decision.options)}
        if declined:
            self._write("declined", outcome | {"reason": "every fifth is refused"})
            return
        self._write("rewrite", outcome | {"seconds": 0.1})
        depths = {**self.view.depths, decision.site: self.view.depths[decision.site] + 1}
        self.view = replace(self.view, depths=depths, params=self.view.params + 100, macs=self.view.macs + 100)

    def _individual(self, decision: KeepIndividual | RecallIndividual | DropIndividual, place: dict[str, Any]) -> None:
        number = decision.individual
        place = place | {"individual": number}
        if isinstance(decision, KeepIndividual):
            assert number not in self.kept, f"individual {number} is kept twice"
            self.kept[number] = (self.view, self.metrics)
            self.stored.add(number)
            self._write("kept", place | {"metrics": self.metrics} | self._structure())
            return
        assert number in self.stored, f"individual {number} is not stored"
        if isinstance(decision, RecallIndividual):
            self.view, self.metrics = self.kept[number]
            self._write("recalled", place)
        else:
            self.stored.discard(number)
            self._write("dropped", place)
