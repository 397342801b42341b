"""A study as plain values: what its report and its tables show. Filled by `nasir.search.summary`; knows no Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Importance", "ObjectiveFacts", "Outcome", "ParameterFacts", "StudyFacts", "Totals", "TrialFacts", "Value"]

Value = str | int | float | bool | None
"""The value of a choice: a number, or the id of an alternative."""

Outcome = Literal[
    "complete", "infeasible", "cached", "pruned", "failed", "lost", "preempted", "duplicate", "running", "waiting"
]
"""What became of an attempt. infeasible: complete, a constraint broken; cached: complete, the stored result of an equal
trial; failed: for good; lost: its worker died, a later attempt takes over; preempted: the same after a polite stop;
duplicate: made twice by two workers that mended the queue at once, and closed unused."""

ENDED = ("complete", "infeasible", "cached", "pruned")


@dataclass(frozen=True, slots=True)
class ObjectiveFacts:
    """One objective: a metric as in `val.accuracy`, `macs`, `latency_ms`."""

    metric: str
    direction: Literal["maximize", "minimize"]

    @property
    def sign(self) -> float:
        """Times a value: less is better."""
        return 1.0 if self.direction == "minimize" else -1.0


@dataclass(frozen=True, slots=True)
class ParameterFacts:
    """One choice of the space. Numbers have `low` and `high`, alternatives `options`."""

    name: str
    kind: Literal["float", "int", "categorical"]
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    options: tuple[Value, ...] = ()
    domain: str = ""  # in words
    when: str = ""  # in words, "" where it is always active


@dataclass(frozen=True, slots=True)
class TrialFacts:
    """One attempt at a point of the study. Times are Unix seconds, durations seconds; None: not known (yet)."""

    number: int
    point: int
    attempt: int
    outcome: Outcome
    values: tuple[float, ...] = ()  # one for each objective; of a pruned trial the last intermediate value
    params: Mapping[str, Value] = field(default_factory=dict)  # the active choices
    constraints: Mapping[str, float] = field(default_factory=dict)  # "macs <= 40M" -> how far past it; <= 0 is kept
    metrics: Mapping[str, float] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)  # params, macs
    depths: Mapping[str, int] = field(default_factory=dict)
    epochs: int | None = None  # of the trial as if alone, shared ones included
    cpu_seconds: float | None = None  # of the trial as if alone, shared prefix included
    spent_cpu_seconds: float | None = None  # by this attempt
    seconds: float | None = None  # wall time of this attempt
    start: float | None = None
    end: float | None = None
    worker: str = ""
    machine: str = ""
    run: str = ""  # run directory, relative to the study folder
    intermediate: Mapping[int, float] = field(default_factory=dict)  # step of the cost axis -> first objective
    prefix_epochs: int = 0  # epochs not trained because a stored prefix was adopted
    prefix_run: str = ""
    cached_from: int | None = None  # number of the trial whose result was taken
    resumed: int | None = None  # epochs found in the attempt before
    retried_as: int | None = None  # number of the next attempt
    error: str = ""
    defaults: bool = False  # tries the defaults of the spec

    @property
    def ended(self) -> bool:
        """Whether it settled its point."""
        return self.outcome in ENDED

    @property
    def counts(self) -> bool:
        """Whether it may be the best: complete and within all constraints."""
        return self.outcome in ("complete", "cached")


@dataclass(frozen=True, slots=True)
class Importance:
    """Shares of the parameters, most important first; they add up to 1. `of` is a metric, or "the front"."""

    of: str
    shares: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over a study. Durations are seconds."""

    points: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict)  # attempts by outcome
    epochs: int = 0  # trained, by all attempts
    epochs_saved: int = 0  # by shared prefixes and by the architecture cache
    prefix_hits: int = 0
    cache_hits: int = 0
    cpu_seconds: float = 0.0
    wall: float = 0.0  # from the first start to the last end

    @property
    def done(self) -> int:
        """Points that ended complete or pruned."""
        return sum(self.outcomes.get(outcome, 0) for outcome in ENDED)


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """All that the report of a study shows, but for the journals of its runs."""

    name: str
    objectives: tuple[ObjectiveFacts, ...]
    constraints: tuple[str, ...] = ()
    parameters: tuple[ParameterFacts, ...] = ()
    sampler: str = ""
    pruner: str = ""
    axis: str = "epoch"
    axis_width: float = 1.0  # units of the axis that one step of an intermediate value stands for
    trials: tuple[TrialFacts, ...] = ()  # by number
    front: tuple[int, ...] = ()  # numbers of the trials that no other dominates; of one objective, the best
    importance: tuple[Importance, ...] = ()
    hypervolume: tuple[
        float, ...
    ] = ()  # after each of `finished`, a share of the box of all values; several objectives
    totals: Totals = Totals()
    spec: str = ""
    version: str = ""

    @property
    def finished(self) -> tuple[TrialFacts, ...]:
        """Trials that settled their point, in the order in which they ended."""
        ended = (trial for trial in self.trials if trial.ended)
        return tuple(sorted(ended, key=lambda trial: (trial.end is None, trial.end or 0.0, trial.number)))

    @property
    def best(self) -> TrialFacts | None:
        """The best trial of a study with one objective; None before there is one, and with several objectives."""
        return self.trial(self.front[0]) if len(self.objectives) == 1 and self.front else None

    def trial(self, number: int) -> TrialFacts:
        """A trial by number; KeyError for one that is not there."""
        for trial in self.trials:
            if trial.number == number:
                return trial
        raise KeyError(number)
