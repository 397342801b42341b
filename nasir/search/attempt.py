"""One attempt in the hands of a worker: sampled, run with a heartbeat, pruned or told, whatever goes wrong."""

from __future__ import annotations

import functools
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from nasir.counted import counted
from nasir.errors import (
    CheckpointError,
    DataError,
    JournalError,
    NasirError,
    Preempted,
    RunError,
    StudyError,
    UnknownName,
)
from nasir.records import EpochRecord, Record, of_kind
from nasir.report.progress import line
from nasir.running.engine import Signals
from nasir.search import architectures
from nasir.search.axis import AxisError, Curve, cost_of
from nasir.search.objectives import constraint_values, intermediate, objective_values
from nasir.search.points import Ledger, attempt_of
from nasir.search.pulse import Fenced, Pulse
from nasir.search.samplers import suggest
from nasir.search.study import Study
from nasir.search.trial import (
    Executor,
    Outcome,
    Pruned,
    TrialJob,
    data_fingerprint,
    has_checkpoint,
    history,
    start_network,
    summed_up,
    tidy,
)
from nasir.spec import Spec

__all__ = ["Attempt"]

MACHINE = (OSError, MemoryError, JournalError, CheckpointError, DataError, UnknownName)  # another one may do better
HANDED_BACK = (DataError, UnknownName)  # of these, those that do not count as a try of the point: nothing was there
RUNGS = ("successive_halving", "hyperband")
REREAD = 500.0  # pruning reads other trials again after so many times what reading them took


class Attempt:
    """A claimed trial; `ledger` is what the worker knew when it claimed it."""

    def __init__(
        self,
        study: Study,
        frozen: FrozenTrial,
        ledger: Ledger,
        executor: Executor,
        signals: Signals,
        say: Callable[[str], None],
    ) -> None:
        self.study = study
        self.frozen = frozen
        self.earlier = [study.directory(earlier) for earlier in ledger.earlier(frozen)]  # the newest first
        self.executor = executor
        self.signals = signals
        self.say = say
        self.search = study.spec.search
        self.directory = study.directory(frozen)
        self.previous = next((path for path in self.earlier if has_checkpoint(path)), None)
        self.curve = Curve(self.search.axis.kind, self.search.axis.width)
        self.values: dict[int, float] = {}  # intermediate, by step
        self.epochs: list[EpochRecord] = []
        self.last: tuple[str, int | None] = ("", None)  # phase and epoch of it with which training ends
        self.resumed = 0  # epochs that were there before the first of this attempt
        self.notes: dict[str, Any] = {}  # further attributes
        self.doubtful = False  # it failed in a way that may be this machine's fault
        self.stopped: int | None = None  # exit code that a signal asks for
        self._others = ledger.trials
        self._others_until = 0.0  # pruning reads them again then

    def run(self) -> None:
        """Run it to an end that the storage knows, unless it was given to others meanwhile.

        Raises StudyError when the storage fails for good, AxisError when the axis of the search suits no trial.
        """
        self.started, self.cpu_started = time.monotonic(), time.process_time()
        point, attempt = self.frozen.user_attrs["point"], attempt_of(self.frozen)
        self.say(f"trial {self.frozen.number}: point {point}" + (f", attempt {attempt}" if attempt else ""))
        interval = self.search.heartbeat.interval
        try:
            with Pulse(self.study.storage, self.frozen._trial_id, interval) as self.pulse:
                self._run()
        except (Fenced, UpdateFinishedTrialError):
            self.say(f"trial {self.frozen.number}: taken for dead and given to another worker; left alone")

    def _run(self) -> None:
        try:
            # what the sampler knows of other trials is kept for the length of a trial
            self.study.optuna._thread_local.cached_all_trials = None
            self.trial = Trial(self.study.optuna, self.frozen._trial_id)
            with self.study.storage.remembering(self._others):  # a large study takes long to read
                _, spec = self.study.spec.sample(functools.partial(suggest, self.trial))
            self.last = (spec.phases[-1].name, spec.phases[-1].epochs)
            self.say("  " + ", ".join(f"{name} = {value}" for name, value in self.trial.params.items()))
            if self._taken_over(spec):
                return
            self._make_room()
            job = TrialJob(
                spec=spec,
                number=self.frozen.number,
                point=self.frozen.user_attrs["point"],
                attempt=attempt_of(self.frozen),
                directory=self.directory,
                previous=self.previous,
                study=self.study.folder,
                search=self.search,
                say=self._log,
            )
            outcome = self.executor(job, self._hear, self.signals)
            self._catch_up()
            values = objective_values(self.search, outcome.found)
            constraints = constraint_values(self.search, outcome.found)
        except (Fenced, UpdateFinishedTrialError, StudyError):
            raise
        except AxisError:
            self._give_up({"preempted": True})  # no fault of this point
            raise
        except Preempted as stop:
            self.stopped = stop.exit_code
            self._give_up({"preempted": True})
            self.say(f"trial {self.frozen.number}: handed back; {stop}")
        except Pruned:
            self._end(TrialState.PRUNED, self._partial())
            self.say(f"trial {self.frozen.number}: pruned after {counted(len(self.epochs), 'epoch')}")
        except Exception as error:
            self._failed(error)
        else:
            self._end(TrialState.COMPLETE, outcome, values, constraints)
            names = [objective.metric for objective in self.search.objectives]
            told = ", ".join(f"{name} = {value:g}" for name, value in zip(names, values, strict=True))
            self.say(f"trial {self.frozen.number}: {told}")

    def _taken_over(self, spec: Spec) -> bool:
        """End as an earlier trial of an equal network and training did; False where there is none."""
        if not self.search.caches_architectures:
            return False
        self.notes[architectures.ATTRIBUTE] = wanted = architectures.key(spec, start_network(spec))
        known = architectures.lookup(self._others, wanted, functools.partial(data_fingerprint, spec))
        if known is None:
            return False
        same = ("metrics", "cost", "depths", "epochs", "cpu_seconds", "run", architectures.DATA)
        copied = {key: known.user_attrs[key] for key in same if key in known.user_attrs}
        fresh = {"cached_from": known.number, "seconds": self._seconds(), "spent_cpu_seconds": self._cpu_seconds()}
        self._store(sorted(known.intermediate_values.items()))
        self._tell(TrialState.COMPLETE, {**copied, **fresh, **self.notes}, known.values, known.constraints)
        self.say(f"trial {self.frozen.number}: equals trial {known.number}, whose result it takes over")
        return True

    def _make_room(self) -> None:
        """A directory of this name can only be left over from another study."""
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        if self.directory.exists():
            aside = self.directory.with_name(f"{self.directory.name}.before-{self.frozen._trial_id}")
            self.directory.rename(aside)
            self._log(f"{self.directory} was there already, of another study; it is now {aside.name}")

    # -- while it runs

    def _log(self, text: str) -> None:
        if text:
            self.say(f"  {text}")

    def _hear(self, record: Record) -> None:
        self._log(line(record))
        self.pulse.check()
        if not isinstance(record, EpochRecord):
            return
        new = [record]
        if not self.epochs:  # an earlier attempt or a stored prefix may have trained the epochs before
            new = of_kind(history(self.directory), EpochRecord) or new
            self.resumed = len(new) - 1
        self.epochs += new
        if len(self.search.objectives) == 1 and self._report(new) and not self._is_last(record) and self._hopeless():
            raise Pruned

    def _catch_up(self) -> None:
        """Of a run that had trained all its epochs when its worker died, nothing is heard but its end."""
        if not self.epochs:
            self.epochs = of_kind(history(self.directory), EpochRecord)
            self.resumed = len(self.epochs)
            if len(self.search.objectives) == 1:
                self._report(self.epochs)

    def _report(self, epochs: Sequence[EpochRecord]) -> bool:
        """Store the steps that these epochs make known; whether there are any."""
        steps = []
        for record in epochs:
            value = intermediate(self.search.objectives[0].metric, record)
            if value is not None:
                steps += self.curve.add(cost_of(self.search.axis.kind, record), value)
        self._store(steps)
        return bool(steps)

    def _store(self, steps: Sequence[tuple[int, float]]) -> None:
        for step, value in steps:
            self.values[step] = value
            self.pulse.report(step, value)

    def _is_last(self, epoch: EpochRecord) -> bool:
        """Whether nothing is left to save by pruning. A phase that ends by itself tells only afterwards."""
        return (epoch.phase, epoch.phase_epoch) == self.last

    def _hopeless(self) -> bool:
        """What the pruner says, of this trial as it is and of others as they were a moment ago."""
        if self.search.pruner.kind == "none":
            return False
        storage, optuna_study = self.study.storage, self.study.optuna
        if self.search.pruner.innermost.kind in RUNGS:  # these keep notes of their own in the storage
            self.frozen = storage.get_trial(self.frozen._trial_id)
        self.frozen.intermediate_values = dict(self.values)
        now = time.monotonic()
        if now >= self._others_until:
            self._others = self.study.trials()
            after = time.monotonic()
            self._others_until = after + REREAD * (after - now)
        with storage.remembering(self._others):
            return optuna_study.pruner.prune(optuna_study, self.frozen)

    # -- the end

    def _partial(self) -> Outcome:
        """As far as it came."""
        return summed_up(history(self.directory) or self.epochs, 0.0)

    def _seconds(self) -> float:
        return round(time.monotonic() - self.started, 3)

    def _cpu_seconds(self) -> float:
        return round(time.process_time() - self.cpu_started, 3)

    def _facts(self, outcome: Outcome) -> dict[str, Any]:
        measured = {} if outcome.latency_ms is None else {"latency_ms": outcome.latency_ms}
        metrics = {**outcome.metrics, **measured}
        facts = {
            "metrics": {name: value for name, value in metrics.items() if math.isfinite(value)},
            "cost": dict(outcome.cost),
            "depths": dict(outcome.depths),
            "epochs": outcome.epochs,
            "cpu_seconds": outcome.cpu_seconds,
            "seconds": self._seconds(),
            "spent_cpu_seconds": self._cpu_seconds(),
            **outcome.notes,
            **self.notes,
        }
        return {**facts, "resumed": self.resumed} if self.previous is not None and self.resumed else facts

    def _end(
        self,
        state: TrialState,
        outcome: Outcome,
        values: Sequence[float] | None = None,
        constraints: Mapping[str, float] | None = None,
    ) -> None:
        """Tell COMPLETE with its values, or PRUNED, with all that is known."""
        if constraints is None:
            constraints = constraint_values(self.search, outcome.cost, partial=True)
        if state == TrialState.COMPLETE and len(self.search.objectives) == 1:
            self._store(self.curve.end())
        self._tell(state, self._facts(outcome), values, constraints)
        tidy(self.directory, 1 if state == TrialState.COMPLETE else 0)
        for directory in self.earlier:
            tidy(directory, 0)

    def _tell(
        self,
        state: TrialState,
        attrs: Mapping[str, Any],
        values: Sequence[float] | None,
        constraints: Mapping[str, float],
    ) -> None:
        """Everything else first: nothing can be added to a trial that has ended."""
        self.study.storage.set_trial_user_attrs(self.frozen._trial_id, attrs)
        for text, value in constraints.items():
            self.trial.set_constraint(text, value)
        self.pulse.flush()
        try:
            self.study.optuna.tell(self.trial, None if values is None else list(values), state)
        except (UpdateFinishedTrialError, ValueError, AssertionError):
            if not self._told(state):
                raise Fenced from None

    def _told(self, state: TrialState) -> bool:
        """Whether the storage has it as told: an answer may get lost after the fact. Raises on what is no fence."""
        stored = self.study.storage.get_trial(self.frozen._trial_id)
        if not stored.state.is_finished():
            raise StudyError(f"{self.study.storage.place}: trial {stored.number} could not be told as {state.name}")
        return stored.state == state

    def _failed(self, error: Exception) -> None:
        """Retry what another machine may do better; anything else would fail again."""
        text = str(error) if isinstance(error, NasirError) else f"{type(error).__name__}: {error}"
        # a run makes its directory once data, device and network are there
        early = isinstance(error, RunError) and not self.epochs and not self.directory.exists()
        elsewhere = early or isinstance(error, MACHINE)
        attrs: dict[str, Any] = {"lost" if elsewhere else "error": text}
        if isinstance(error, HANDED_BACK) and not self.epochs:
            attrs["preempted"] = True
        elif elsewhere and self.study.points().last_chance(self.frozen):
            attrs["error"] = text
        self.doubtful = elsewhere or not isinstance(error, NasirError)
        if not self._give_up(attrs):
            raise Fenced
        self.say(f"trial {self.frozen.number}: failed{'' if 'error' in attrs else ', to be tried again'}: {text}")
        if not isinstance(error, NasirError):
            self.say("".join(traceback.format_exception(error)).rstrip())

    def _give_up(self, attrs: Mapping[str, Any]) -> bool:
        facts = self._facts(self._partial()) if self.epochs else {}
        return self.study.fail(self.frozen._trial_id, {**facts, **attrs})
