"""Which attempts of a study count: a pure reading of its trials, the same for every worker that makes it.

A *point* is to end COMPLETE or PRUNED once. An *attempt* is one trial of it. The rules, in terms of what is stored:

- Of several trials of one (point, attempt) the one of the lowest number is *real*, the others are surplus. Numbers are
  given under a lock of the storage, so a real trial is visible before any surplus one exists, and nobody has to guess.
- A FAIL attempt is lost (its worker died), preempted (its worker was asked to stop) or, with `error`, final.
- A point is *done* with a COMPLETE or PRUNED real attempt, *failed* with an `error` or more than `retries` lost ones,
  else *open*. An open point whose real attempts all FAILed lacks a clone, of the next attempt number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

__all__ = ["Ledger", "attempt_of", "point_of"]


def point_of(trial: FrozenTrial) -> int | None:
    """The point of a trial; None of one that was not made by nasir."""
    point = trial.user_attrs.get("point")
    return point if isinstance(point, int) else None


def attempt_of(trial: FrozenTrial) -> int:
    return int(trial.user_attrs.get("attempt", 0))


@dataclass(frozen=True, slots=True)
class Point:
    """One point and its real attempts, ascending."""

    number: int
    attempts: tuple[FrozenTrial, ...]
    surplus: tuple[FrozenTrial, ...]
    retries: int

    @property
    def done(self) -> FrozenTrial | None:
        """The attempt that ended it."""
        ends = (TrialState.COMPLETE, TrialState.PRUNED)
        return next((trial for trial in self.attempts if trial.state in ends), None)

    @property
    def lost(self) -> int:
        """Attempts whose worker died."""
        return sum(
            trial.state == TrialState.FAIL and not {"error", "preempted", "duplicate"} & trial.user_attrs.keys()
            for trial in self.attempts
        )

    @property
    def failed(self) -> bool:
        """It failed for good."""
        errors = any(trial.state == TrialState.FAIL and "error" in trial.user_attrs for trial in self.attempts)
        return self.done is None and (errors or self.lost > self.retries)

    @property
    def open(self) -> bool:
        return self.done is None and not self.failed


class Ledger:
    """The points of a study as its `trials`, by number, say."""

    def __init__(self, trials: Iterable[FrozenTrial], retries: int) -> None:
        groups: dict[int, dict[int, list[FrozenTrial]]] = defaultdict(lambda: defaultdict(list))
        self.trials = sorted(trials, key=lambda trial: trial.number)
        for trial in self.trials:
            point = point_of(trial)
            if point is not None:
                groups[point][attempt_of(trial)].append(trial)
        self.points: dict[int, Point] = {
            point: Point(
                point,
                tuple(group[0] for _, group in sorted(attempts.items())),
                tuple(trial for group in attempts.values() for trial in group[1:]),
                retries,
            )
            for point, attempts in sorted(groups.items())
        }

    @property
    def finished(self) -> bool:
        """No point is open."""
        return not any(point.open for point in self.points.values())

    def queue(self) -> list[FrozenTrial]:
        """Attempts to claim: retries first, then by point."""
        waiting = [
            trial
            for point in self.points.values()
            if point.open
            for trial in point.attempts
            if trial.state == TrialState.WAITING
        ]
        return sorted(waiting, key=lambda trial: (attempt_of(trial) == 0, trial.user_attrs["point"], trial.number))

    def surplus(self) -> list[FrozenTrial]:
        """Waiting attempts that must never run."""
        return [
            trial
            for point in self.points.values()
            for trial in (*point.surplus, *(() if point.open else point.attempts))
            if trial.state == TrialState.WAITING
        ]

    def orphans(self) -> list[FrozenTrial]:
        """The last attempts of open points that lack a clone."""
        return [
            point.attempts[-1]
            for point in self.points.values()
            if point.open and all(trial.state == TrialState.FAIL for trial in point.attempts)
        ]

    def last_chance(self, trial: FrozenTrial) -> bool:
        """Whether its point fails for good if this attempt is lost."""
        point = self.points.get(trial.user_attrs.get("point", -1))
        return point is not None and point.open and point.lost >= point.retries

    def earlier(self, trial: FrozenTrial) -> Sequence[FrozenTrial]:
        """Real attempts of its point before this one, newest first."""
        attempt = attempt_of(trial)
        point = self.points[trial.user_attrs["point"]]
        return [other for other in reversed(point.attempts) if attempt_of(other) < attempt]
