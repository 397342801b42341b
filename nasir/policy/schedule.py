"""Where a run stands in its list of phases, read off its history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from nasir.errors import RunError
from nasir.policy.base import History, PhasePlan


@dataclass(frozen=True, slots=True)
class Progress:
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
        index, phase_epoch, total, ended = -1, 0, 0, False
        for record in history:
            kind = record["kind"]
            if kind == "epoch":
                phase_epoch += 1
                total += 1
            elif kind == "phase":
                index, phase_epoch, ended = index + 1, 0, False
                _check(index, record["phase"], phases)
            elif kind == "decision" and record["action"] == "end_phase":
                ended = True
        if index >= 0:
            limit = phases[index].epochs
            if not ended and (limit is None or phase_epoch < limit):
                return cls(index, phase_epoch, total, True)
        if index + 1 < len(phases):
            return cls(index + 1, 0, total, False)
        return cls(None, 0, total, False)


def _check(index: int, name: str, phases: Sequence[PhasePlan]) -> None:
    if index >= len(phases) or phases[index].name != name:
        expected = f"{phases[index].name!r}" if index < len(phases) else "no further phase"
        raise RunError(
            f"phase {index + 1} of the history is {name!r}, the plan has {expected} there; "
            "go on with the spec that the run was started with, or start a new run"
        )
