"""The loop of one worker process: take an attempt, run it, tell what came of it, until every point has ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from nasir.running.engine import Signals
from nasir.search import pruners, samplers
from nasir.search.attempt import Attempt
from nasir.search.exits import UNFIT
from nasir.search.points import Ledger
from nasir.search.study import Study
from nasir.search.trial import Executor, train

__all__ = ["Identity", "work"]

IDLE = (0.2, 5.0)  # seconds between looks for something to do, at first and at most
DOUBTFUL = 3  # attempts in a row that fail in a way that may be this machine's fault, before the worker stops


@dataclass(frozen=True, slots=True)
class Identity:
    """A worker process: `name` is never given twice in a study; `slot` names its seed (None: a random one)."""

    name: str
    slot: str | None = None


def work(
    study: Study,
    identity: Identity,
    executor: Executor = train,
    signals: Signals | None = None,
    *,
    until: float | None = None,
    say: Callable[[str], None] = lambda text: print(text, flush=True),
) -> int:
    """Work on a study until every point has ended or no trial may begin any more; an exit code.

    0: nothing left to do. UNFIT: trial after trial failed, perhaps for a fault of this machine. 75 or 130: asked
    to stop by `signals`; the attempt under way was handed back with a checkpoint. `until`: unix time after which no
    trial begins (default: `search.timeout` from now on). Raises StudyError when the storage fails for good, UsageError
    where the sampler needs a package that is missing or the axis suits no trial.
    """
    return _Worker(study, identity, executor, signals or Signals(), until, say).run()


class _Worker:
    def __init__(
        self,
        study: Study,
        identity: Identity,
        executor: Executor,
        signals: Signals,
        until: float | None,
        say: Callable[[str], None],
    ) -> None:
        search = study.spec.search
        self.study = study
        self.identity = identity
        self.executor = executor
        self.signals = signals
        self.say = say
        self.until = until if until is not None or search.timeout is None else time.time() + search.timeout
        seed = samplers.worker_seed(study.spec.seed, identity.slot)
        study.optuna.sampler = samplers.make(search, study.spec.seed, seed)
        study.optuna.pruner = pruners.make(search.pruner)
        self.doubtful = 0  # attempts in a row

    def run(self) -> int:
        """See `work`."""
        idle, reaped = IDLE[0], 0.0
        while True:
            if self.signals.wanted():
                return self.signals.exit_code
            if self.doubtful >= DOUBTFUL:
                self.say(f"{DOUBTFUL} trials in a row failed in a way that may be this machine's fault: stopped")
                return UNFIT
            if self.until is not None and time.time() >= self.until:
                self.say("the time of the search is over")
                return 0
            if time.monotonic() >= reaped:
                self.study.reap_stale()
                reaped = time.monotonic() + self.study.spec.search.heartbeat.interval
            ledger = self.study.points()
            if self.study.repair(ledger):
                continue
            frozen = self.study.claim(self.identity.name, ledger)
            if frozen is not None:
                idle = IDLE[0]
                stop = self._attempt(frozen, ledger)
                if stop is not None:
                    return stop
                continue
            if ledger.finished:
                return 0
            self._wait(idle)
            idle = min(2 * idle, IDLE[1])

    def _attempt(self, frozen: FrozenTrial, ledger: Ledger) -> int | None:
        """Run it; the exit code of a worker that was asked to stop meanwhile."""
        attempt = Attempt(self.study, frozen, ledger, self.executor, self.signals, self.say)
        attempt.run()
        self.doubtful = self.doubtful + 1 if attempt.doubtful else 0
        if attempt.stopped is not None:
            self.study.repair(self.study.points())  # so that others need not wait for the next look
        return attempt.stopped

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self.signals.wanted() and time.monotonic() < end:
            time.sleep(min(0.1, seconds))
