"""A study as its supervisor sees it."""

from __future__ import annotations

import time

from optuna.trial import FrozenTrial, TrialState

from nasir.search.storage import Unreachable
from nasir.search.study import Study
from nasir.search.watch import Watch

__all__ = ["StudyBoard"]

NAMELESS = 10.0  # seconds a trial may run before it says by whom: that is the next thing its worker writes


class StudyBoard:
    """The supervisor's view of an open study whose storage has no patience: the supervisor has its own."""

    outages: tuple[type[Exception], ...] = (Unreachable,)

    def __init__(self, study: Study, watch: Watch) -> None:
        self._study = study
        self._watch = watch
        self._nameless: dict[int, float] = {}  # ids of running trials without a worker, and since when

    def began(self, worker: str) -> bool:
        return any(trial.user_attrs.get("worker") == worker for trial in self._study.trials())

    def reap(self, workers: list[str]) -> None:
        for worker in workers:
            self._study.reap(worker)
        self._study.repair(self._study.points())

    def watch(self) -> int:
        trials = self._study.trials()
        self._reap_nameless(trials)
        return self._watch.look(trials)

    def _reap_nameless(self, trials: list[FrozenTrial]) -> None:
        """Give up what a worker took with its last breath; nobody knows that it was his."""
        now = time.monotonic()
        nameless = [trial for trial in trials if trial.state == TrialState.RUNNING and "worker" not in trial.user_attrs]
        self._nameless = {trial._trial_id: self._nameless.get(trial._trial_id, now) for trial in nameless}
        lost = [trial for trial in nameless if now - self._nameless[trial._trial_id] > NAMELESS]
        for trial in lost:
            self._study.lose(trial, "its worker died while taking it")
        if lost:
            self._study.repair(self._study.points())
