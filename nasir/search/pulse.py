"""The background of a running trial: signs of life and intermediate values go to the storage from a thread.

So training neither waits for a database nor dies of an outage, and notices when the trial was given to others.
"""

from __future__ import annotations

import threading
import time

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from nasir.errors import StudyError
from nasir.search.storage import StudyStorage

__all__ = ["Fenced", "Pulse"]

PACE = 2.0  # seconds between two visits to the storage, at least: epochs may be short


class Fenced(Exception):
    """The trial is no longer ours: it was given up as dead, and another attempt may be running."""


class Pulse:
    """Use it in a `with` around a trial; `check` raises what happened meanwhile."""

    def __init__(self, storage: StudyStorage, trial_id: int, interval: float) -> None:
        self._storage = storage
        self._trial_id = trial_id
        self._interval = interval
        self._steps: dict[int, float] = {}  # not stored yet
        self._wake = threading.Condition()
        self._busy = False
        self._look = False
        self._hurry = False
        self._ended = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"pulse of trial {trial_id}", daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._wake:
            self._ended = True
            self._wake.notify_all()
        self._thread.join()

    def check(self) -> None:
        """Raise Fenced or StudyError if the thread met it; have it look whether the trial is still ours."""
        with self._wake:
            self._look = True
            self._wake.notify_all()
            if self._failure is not None:
                raise self._failure

    def report(self, step: int, value: float) -> None:
        """Store an intermediate value, soon."""
        with self._wake:
            self._steps[step] = value
            self._wake.notify_all()

    def flush(self) -> None:
        """Wait until all values are stored; raises as `check`."""
        with self._wake:
            self._hurry = True
            self._wake.notify_all()
            self._wake.wait_for(lambda: self._failure is not None or not (self._steps or self._busy))
            self._hurry = False
            if self._failure is not None:
                raise self._failure

    def _run(self) -> None:
        try:
            self._beat_on()
        except UpdateFinishedTrialError:
            self._fail(Fenced())
        except Fenced as error:
            self._fail(error)
        except StudyError as error:
            self._fail(error)
        except Exception as error:  # shown where the trial runs: a thread has nobody to show it to
            self._fail(error)
        finally:
            self._storage.leave_thread()

    def _fail(self, error: Exception) -> None:
        with self._wake:
            self._failure = error
            self._wake.notify_all()

    def _beat_on(self) -> None:
        beat, visit = time.monotonic() + self._interval, 0.0  # the claim was a sign of life
        while True:
            with self._wake:
                while True:
                    now = time.monotonic()
                    due = bool(self._steps) and (now >= visit or self._hurry or self._ended)
                    look = self._look and now >= visit
                    if due or look or now >= beat:
                        break
                    if self._ended:
                        return
                    wanted = self._steps or self._look
                    self._wake.wait(max(0.0, (min(beat, visit) if wanted else beat) - now))
                steps, self._steps = (self._steps, {}) if due else ({}, self._steps)
                self._busy = due
            if now >= beat:
                self._storage.record_heartbeat(self._trial_id)
                beat = time.monotonic() + self._interval
            if steps:  # finds out too whether the trial is still ours
                self._storage.set_trial_intermediate_values(self._trial_id, steps)
            elif look and self._storage.get_trial(self._trial_id).state != TrialState.RUNNING:
                raise Fenced
            if steps or look:
                visit = time.monotonic() + PACE
            with self._wake:
                self._busy = False
                self._look = self._look and not (steps or look)
                self._wake.notify_all()
