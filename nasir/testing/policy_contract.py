"""What every policy owes: it is a pure function of recorded history, so that a resumed run decides alike."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from nasir.policy.base import Decision, PhaseView, Policy

Moment = tuple[int, PhaseView, tuple[Decision, ...]]  # records so far, the network then, what was decided


class PolicyContract:
    """Subclass with `make`, which gives a new policy for a phase called "phase"; all of them must be equal."""

    make: ClassVar[Callable[[], Policy]]
    epochs: ClassVar[int] = 40
    stages: ClassVar[tuple[str, ...]] = ("s1", "s2", "s3")

    def metrics(self, epoch: int) -> dict[str, float]:
        """A learning curve that rises, saturates and is noisy; every third epoch it has little to say."""
        noise = float(np.random.default_rng(epoch).normal(0.0, 0.003))
        accuracy = 0.9 * (1.0 - 0.8**epoch) + noise
        both = {"accuracy": accuracy, "loss": 1.0 - accuracy}
        return {f"{part}.{name}": value for part in ("train", "val") for name, value in both.items()}

    def play(self, fresh: bool) -> tuple[list[dict[str, Any]], list[Moment]]:
        """A run with toy rewrites (one block more, every fifth declined); `fresh`: a new policy at every moment."""
        policy = type(self).make()
        view = PhaseView(self.stages, dict.fromkeys(self.stages, 1), 1000, 1000)
        history: list[dict[str, Any]] = [{"kind": "phase", "phase": "phase", "epoch": 0}]
        moments: list[Moment] = []
        for epoch in range(1, self.epochs + 1):
            record = {"kind": "epoch", "phase": "phase", "epoch": epoch, "phase_epoch": epoch, "seconds": 1.0}
            cost = {"params": view.params, "macs": view.macs, "depths": dict(view.depths)}
            history.append(record | cost | {"metrics": self.metrics(epoch), "lr": 0.1})
            decisions = (type(self).make() if fresh else policy).decide(tuple(history), view)
            moments.append((len(history), view, decisions))
            for decision in decisions:
                view = _carry_out(decision, history, view, epoch)
                if decision.action == "end_phase":
                    return history, moments
        return history, moments

    def test_decisions_follow_from_history_alone(self) -> None:
        """A policy made anew before every call, as after a resume, decides like one that lived all along."""
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
                assert decision.site is None or decision.site in view.depths, f"{record}: no such site"
                last = number == len(decisions) - 1
                assert decision.action != "end_phase" or last, "end_phase must be the last decision"


def _carry_out(decision: Decision, history: list[dict[str, Any]], view: PhaseView, epoch: int) -> PhaseView:
    """Journal a decision and its outcome as the engine would."""
    place = {"epoch": epoch, "phase": "phase", "site": decision.site, "pass": decision.pass_name}
    history.append(decision.to_record() | {"epoch": epoch, "phase": "phase"})
    if decision.action != "rewrite":
        return view
    outcome = place | {"options": dict(decision.options)}
    if epoch % 5 == 0:
        history.append(outcome | {"kind": "declined", "reason": "every fifth is refused"})
        return view
    history.append(outcome | {"kind": "rewrite", "seconds": 0.1})
    depths = {**view.depths, str(decision.site): view.depths[str(decision.site)] + 1}
    return replace(view, depths=depths, params=view.params + 100, macs=view.macs + 100)
