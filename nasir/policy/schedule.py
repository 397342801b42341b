"""Where a run stands in its list of phases, read off its history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from nasir.errors import RunError
from nasir.growing import fold
from nasir.policy.base import History
from nasir.policy.plans import PhasePlan
from nasir.records import DecisionRecord, EpochRecord, PhaseRecord, Record, typed


@dataclass(frozen=True, slots=True)
class PhaseProgress:
    """The phase that is to train next. Engine and simulation share it, so both walk the phases alike.

    A phase is over once its `epochs` are done or an `end_phase` decision was made in it; `until` and the budget
    end a phase by way of such a decision.
    """

    phase_index: int | None  # of the phase that trains next; None when the last one is over
    phase_epoch: int  # epochs done in it
    total_epochs: int  # epochs done in all phases
    begun: bool  # its `phase` record is written

    @classmethod
    def of(cls, history: History, phases: Sequence[PhasePlan]) -> Self:
        """Raises RunError if the history holds other phases than the plan (a spec changed under its run)."""
        done = fold(typed(history), _Done())
        for index, name in enumerate(done.phases):
            _check(index, name, phases)
        if done.phases:
            limit = phases[len(done.phases) - 1].epochs
            if not done.ended and (limit is None or done.phase_epochs < limit):
                return cls(len(done.phases) - 1, done.phase_epochs, done.epochs, True)
        if len(done.phases) < len(phases):
            return cls(len(done.phases), 0, done.epochs, False)
        return cls(None, 0, done.epochs, False)


@dataclass(frozen=True, slots=True)
class _Done:
    """What a history says about phases, whatever the plan."""

    phases: tuple[str, ...] = ()  # names of those that have begun
    phase_epochs: int = 0  # done in the last of them
    epochs: int = 0
    ended: bool = False  # the last of them, by a decision

    def after(self, record: Record) -> Self:
        match record:
            case EpochRecord():
                return replace(self, phase_epochs=self.phase_epochs + 1, epochs=self.epochs + 1)
            case PhaseRecord():
                return replace(self, phases=(*self.phases, record.phase), phase_epochs=0, ended=False)
            case DecisionRecord(action="end_phase"):
                return replace(self, ended=True)
        return self


def _check(index: int, name: str, phases: Sequence[PhasePlan]) -> None:
    if index >= len(phases) or phases[index].name != name:
        expected = f"{phases[index].name!r}" if index < len(phases) else "no further phase"
        raise RunError(
            f"phase {index + 1} of the history is {name!r}, the plan has {expected} there; "
            "go on with the spec that the run was started with, or start a new run"
        )
