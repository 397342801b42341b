"""Conditions, rules and phases: what a spec asks of a policy, as plain values.

Everything here is a frozen value, checked on construction (ValueError naming field, value and remedy). Units:
durations are whole epochs, accuracies are fractions 0..1, costs are those of `Graph.cost()` (one MAC is one
multiply-accumulate), seconds are wall-clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

Options: TypeAlias = Mapping[str, Any]
"""Options of a pass: JSON values by field name."""

Smoothing = Literal["running_max", "ema", "none"]
Order = Literal["round_robin", "random", "all"]

ALL_FROZEN: Literal["all_frozen"] = "all_frozen"
RULES = "rules"  # the policy of a phase that names none


@dataclass(frozen=True, slots=True)
class Plateau:
    """True when a metric improved by less than `less_than` over the last `window` epochs of the phase.

    With S the smoothed metric of the phase, one entry per epoch, delta = S[-1] - S[-1 - window]. While there
    are fewer than window + 1 entries delta is S[-1] itself (the AutoGrow code), so that the rule cannot fire
    early on an accuracy. For a metric whose last part is `loss` an improvement is a decrease, `running_max`
    means the best value so far, and delta is infinite until there are window + 1 entries.
    """

    metric: str = "val.accuracy"
    window: int = 100  # epochs, >= 1
    less_than: float = 0.0005  # unit of the metric: 0.0005 is 0.05 percentage points of an accuracy
    smooth: Smoothing = "running_max"
    decay: float = 0.95  # of the exponential moving average, 0 < decay < 1

    def __post_init__(self) -> None:
        _metric("plateau", self.metric)
        _positive_int("plateau.window", self.window, "epochs")
        _finite("plateau.less_than", self.less_than)
        _one_of("plateau.smooth", self.smooth, get_args(Smoothing))
        if not 0.0 < self.decay < 1.0:
            raise ValueError(f"plateau.decay is {self.decay}; it must lie strictly between 0 and 1 (default 0.95)")


@dataclass(frozen=True, slots=True)
class Threshold:
    """True when the latest value of a metric is strictly above `above` and strictly below `below`, if given."""

    metric: str
    above: float | None = None
    below: float | None = None

    def __post_init__(self) -> None:
        _metric("threshold", self.metric)
        if self.above is None and self.below is None:
            raise ValueError(f"a threshold on {self.metric} needs `above`, `below` or both")
        for name, bound in (("above", self.above), ("below", self.below)):
            if bound is not None:
                _finite(f"threshold.{name}", bound)
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise ValueError(f"a threshold on {self.metric} above {self.above} and below {self.below} never holds")


@dataclass(frozen=True, slots=True)
class AtEpochs:
    """True when the number of epochs done in the phase is one of `epochs` (each >= 1)."""

    epochs: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.epochs:
            raise ValueError("`at` needs at least one epoch, such as at: [10, 20]")
        for epoch in self.epochs:
            _positive_int("at", epoch, "phase epochs, counted from 1")


@dataclass(frozen=True, slots=True)
class Moment:
    """True once: before the first epoch of the phase (`start`), or after its last one, however it ends (`end`)."""

    at: Literal["start", "end"]

    def __post_init__(self) -> None:
        _one_of("moment", self.at, ("start", "end"))


Condition: TypeAlias = Plateau | Threshold | AtEpochs | Moment


@dataclass(frozen=True, slots=True)
class Where:
    """Which sites a rule acts on, in which order, and how many rewrites one action makes at each of them.

    `stages`: region paths, each for itself or for the sites that lie in it; `sites`: exact names of sites. At most one
    of the two. Neither: the network as a whole for a pass that can act on it, else every stage (or every other site).
    """

    stages: tuple[str, ...] = ()
    order: Order = "round_robin"
    count: int = 1  # blocks per action and site, >= 1
    sites: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _one_of("where.order", self.order, get_args(Order))
        _positive_int("where.count", self.count, "blocks per action")
        for what, names in (("stage", self.stages), ("site", self.sites)):
            if len(set(names)) != len(names):
                raise ValueError(f"where.{what}s names a {what} twice: {', '.join(names)}")
        if self.stages and self.sites:
            raise ValueError("where names stages and sites; give one of the two")


@dataclass(frozen=True, slots=True)
class Trial:
    """Try every open site of a rule, each for `epochs` epochs from the same state, and adopt the best or none.

    The best one must exceed the `baseline` by `min_gain` (in the unit of the metric; for a loss, lie below it by that):
    `trained` is the network as it is, trained for as many epochs; `now` is its latest value.
    """

    epochs: int = 1
    metric: str = "val.accuracy"
    min_gain: float = 0.0
    baseline: Literal["trained", "now"] = "trained"

    def __post_init__(self) -> None:
        _positive_int("trial.epochs", self.epochs, "epochs")
        _metric("trial", self.metric)
        _finite("trial.min_gain", self.min_gain)
        _one_of("trial.baseline", self.baseline, ("trained", "now"))

    def gain(self, value: float, baseline: float) -> float:
        """By how much a value is better than the baseline; NaN where either is."""
        return baseline - value if self.metric.rsplit(".", 1)[-1] == "loss" else value - baseline


@dataclass(frozen=True, slots=True)
class Budget:
    """Upper bounds; None is unbounded. `seconds` and `epochs` count within the phase."""

    params: float | None = None
    macs: float | None = None  # per sample, forward
    seconds: float | None = None
    epochs: float | None = None

    def __post_init__(self) -> None:
        bounds = [(name, getattr(self, name)) for name in ("params", "macs", "seconds", "epochs")]
        if all(bound is None for _, bound in bounds):
            raise ValueError("a budget needs at least one of params, macs, seconds, epochs")
        for name, bound in bounds:
            if bound is not None and not (_is_number(bound) and 0 < bound < math.inf):
                raise ValueError(f"budget.{name} is {bound!r}; it must be a finite number above 0")

    def excess(
        self, params: float = 0, macs: float = 0, seconds: float = 0, epochs: float = 0, *, reached: bool = False
    ) -> str | None:
        """Which bound the values lie past (or have reached, if `reached`), as a sentence; None if within all.

        The engine asks this about the rewritten graph before it adopts it and declines with the sentence.
        """
        values = {"params": params, "macs": macs, "seconds": seconds, "epochs": epochs}
        for name, value in values.items():
            bound = getattr(self, name)
            if bound is not None and (value > bound or (reached and value >= bound)):
                relation = "past" if value > bound else "at"
                return f"{name} {_figure(value)} is {relation} the budget of {_figure(bound)}"
        return None


@dataclass(frozen=True, slots=True)
class RulePlan:
    """One rule of a phase: when (`every` and `when` must both hold), what (`pass_name`), and where.

    The policy `rules` needs `every` or `when`; others may draw among rules that have neither, by their `weight`.

    freeze     tested at every moment the rule is due, on the site it rewrote last; a frozen site stays frozen
    at_most    largest depth (blocks) of a stage; a stage that has reached it is frozen
    budget     a rewrite that would lead past its params or macs is declined by the engine, which freezes the
               site for this rule; once its seconds or epochs are reached every site of the rule is frozen
    trial      its sites are tried and the best one is adopted; where none is good enough all of them are frozen
    """

    name: str
    pass_name: str
    options: Options = field(default_factory=dict)
    every: int | None = None
    when: Condition | None = None
    where: Where = field(default_factory=Where)
    freeze: Condition | None = None
    at_most: int | None = None
    budget: Budget | None = None
    trial: Trial | None = None
    weight: float | None = None  # of a policy that draws among the rules; None is 1

    def __post_init__(self) -> None:
        if not self.name or not self.pass_name:
            raise ValueError(f"a rule needs a name and a pass, got {self.name!r} and {self.pass_name!r}")
        if self.weight is not None and not (_is_number(self.weight) and 0 < self.weight < math.inf):
            raise ValueError(f"rule {self.name}: weight is {self.weight!r}; it must be a finite number above 0")
        if self.every is not None:
            _positive_int(f"rule {self.name}: every", self.every, "epochs")
        if isinstance(self.when, Moment) and self.every is not None:
            raise ValueError(f"rule {self.name}: `when: {self.when.at}` holds once; remove `every`")
        if isinstance(self.freeze, Moment):
            raise ValueError(f"rule {self.name}: `{self.freeze.at}` says when to act; give `freeze` another condition")
        if self.at_most is not None:
            _positive_int(f"rule {self.name}: at_most", self.at_most, "blocks")


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """One phase of training: its length, its rules and what ends it early.

    A phase is over after `epochs` epochs, when `until` holds, or when `budget` is reached, whichever comes
    first. `all_frozen` holds when no rule of the phase can act on any site any more. The budget is tested
    after an epoch, so a single growth step may land past it; a bound that must hold belongs on the rule.
    After the last epoch of a phase no rule acts, because nothing would train the change, but for rules with
    `when: {at: ...}`, which name that epoch on purpose, and those with `when: end`. An epoch with a rewrite does not
    end an open phase. This is how the policy `rules` reads a phase; `policy` names another, with its options as JSON.
    """

    name: str
    epochs: int | None = None
    rules: tuple[RulePlan, ...] = ()
    until: Condition | Literal["all_frozen"] | None = None
    budget: Budget | None = None
    policy: str = RULES
    policy_options: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name or not self.policy:
            raise ValueError(f"a phase needs a name and a policy, got {self.name!r} and {self.policy!r}")
        if self.epochs is not None:
            _positive_int(f"phase {self.name}: epochs", self.epochs, "epochs")
        if self.policy == RULES:
            self._check_rules()
        if isinstance(self.until, Moment):
            raise ValueError(f"phase {self.name}: `until: {self.until.at}` says nothing; give another condition")
        names = [rule.name for rule in self.rules]
        if len(set(names)) != len(names):
            raise ValueError(f"phase {self.name}: two rules share a name: {', '.join(names)}")

    def _check_rules(self) -> None:
        for rule in self.rules:
            if rule.every is None and rule.when is None:
                raise ValueError(f"rule {rule.name}: say when it acts, with `every: 3 epochs`, `when: ...` or both")
        if self.epochs is None and self.until is None and self.budget is None:
            raise ValueError(f"phase {self.name} would never end: give `epochs`, `until` or `budget`")
        if self.until == ALL_FROZEN and not self.rules:
            raise ValueError(f"phase {self.name}: `until: all_frozen` needs at least one rule")

    def rule(self, name: str) -> RulePlan:
        """The rule of that name; raises KeyError with the known names."""
        for rule in self.rules:
            if rule.name == name:
                return rule
        raise KeyError(f"phase {self.name} has no rule {name!r}; it has {', '.join(r.name for r in self.rules)}")


def _figure(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.6g}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _positive_int(place: str, value: object, unit: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{place} is {value!r}; it must be a whole number of at least 1 ({unit})")


def _finite(place: str, value: object) -> None:
    if not (isinstance(value, int | float) and _is_number(value) and math.isfinite(value)):
        raise ValueError(f"{place} is {value!r}; it must be a finite number")


def _metric(place: str, name: object) -> None:
    if not isinstance(name, str) or not name:
        raise ValueError(f"{place}.metric is {name!r}; it must name a metric, such as val.accuracy")


def _one_of(place: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{place} is {value!r}; it must be one of {', '.join(known)}")
