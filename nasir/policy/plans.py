"""Conditions, rules and phases: what a spec asks of a policy, as plain values.

Their options, with types, ranges and defaults, are declared here once: making one checks them (OptionError, which is a
ValueError, names option, value and remedy), and specs are checked and described by them. Units: durations are whole
epochs, accuracies are fractions 0..1, costs are those of `Graph.cost()` (one MAC is one multiply-accumulate), seconds
are wall-clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Gt, Lt, MinLen, doc

from nasir.options import Checked, Suggested, raise_faults
from nasir.options.ranges import Cost, Count, Epochs, Positive

Options: TypeAlias = Mapping[str, Any]
"""Options of a pass: JSON values by field name."""

METRICS = ("train.loss", "train.accuracy", "val.loss", "val.accuracy", "lr", "seconds")
"""What an epoch record of the journal can be asked for; accuracies are fractions, seconds are of the epoch."""
Metric: TypeAlias = Annotated[str, MinLen(1), Suggested(METRICS)]

Smoothing = Literal["running_max", "ema", "none"]
Order = Literal["round_robin", "random", "all"]

ALL_FROZEN: Literal["all_frozen"] = "all_frozen"
RULES = "rules"  # the policy of a phase that names none


@dataclass(frozen=True, slots=True)
class Plateau(Checked):
    """The metric improved by less than `less_than` over the last `window` epochs of the phase.

    With S the smoothed metric of the phase, one entry per epoch, delta = S[-1] - S[-1 - window]. While there are
    fewer than window + 1 entries it does not hold. `early: code` is the exception: delta is then S[-1] itself, so that
    an accuracy under `less_than` counts as a plateau from the first epoch on, as in the released code of AutoGrow.
    For a metric whose last part is `loss` an improvement is a decrease and `running_max` means the best value so far.

    With `since` (for `freeze` only) delta is S[-1] - S[r], where r is the epoch after which the rule (`rule`) or the
    site that is tested (`site`) was rewritten last: what was there before the rewrite does not count. It does not hold
    until `window` epochs are done since, in which the rule, or the rule at that site, rests; nor after a rewrite before
    the first epoch of the phase.
    """

    metric: Metric = "val.accuracy"
    window: Epochs = 100
    less_than: Annotated[float, doc("in the unit of the metric: 0.0005 is 0.05 points of accuracy")] = 0.0005
    smooth: Smoothing = "running_max"
    decay: Annotated[float, Gt(0), Lt(1), doc("of the moving average, for `smooth: ema`")] = 0.95
    since: Annotated[
        Literal["rule", "site"] | None,
        doc("for `freeze`: improvement since the rule, or the site, was rewritten last; default: in the last `window`"),
    ] = None
    early: Annotated[
        Literal["paper", "code"],
        doc("before `window` + 1 epochs: `paper`: it never holds; `code`: an accuracy under `less_than` is a plateau"),
    ] = "paper"

    def __post_init__(self) -> None:
        if self.since is not None and self.early == "code":
            raise ValueError("early: code has no meaning with `since`; remove one of the two")

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        return "plateau"

    def follows_from(self, other: Plateau) -> bool:
        """Whether it holds wherever the other does, because both look at the same epochs."""
        measured = (self.metric, self.smooth, self.decay) == (other.metric, other.smooth, other.decay)
        # the best value so far gains no more in fewer epochs
        inside = self.window == other.window or (self.smooth == "running_max" and self.window < other.window)
        return self.since is None and measured and inside and self.less_than >= other.less_than


@dataclass(frozen=True, slots=True)
class Threshold(Checked):
    """The latest value of a metric is strictly above `above` and strictly below `below`, if given."""

    metric: Metric
    above: float | None = None
    below: float | None = None

    def __post_init__(self) -> None:
        if self.above is None and self.below is None:
            raise ValueError(f"nothing bounds {self.metric}; give `above`, `below` or both")
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise ValueError(
                f"{self.metric} above {self.above} and below {self.below} never holds; give `above` the smaller number"
            )

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        return "threshold"


@dataclass(frozen=True, slots=True)
class AtEpochs(Checked):
    """The number of epochs done in the phase is one of `epochs`, counted from 1."""

    epochs: Annotated[tuple[Epochs, ...], MinLen(1)]

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        return "at"


@dataclass(frozen=True, slots=True)
class Moment(Checked):
    """True once: before the first epoch of the phase (`start`), or after its last one, however it ends (`end`)."""

    at: Literal["start", "end"]

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        return "moment"


Condition: TypeAlias = Plateau | Threshold | AtEpochs | Moment


@dataclass(frozen=True, slots=True)
class Where(Checked):
    """Which sites a rule acts on, in which order, and how many rewrites one action makes at each of them.

    `stages`: region paths, each for itself or for the sites that lie in it; `sites`: exact names of sites. At most one
    of the two. Neither: the network as a whole for a pass that can act on it, else every stage (or every other site).
    """

    stages: tuple[str, ...] = ()
    order: Order = "round_robin"
    count: Annotated[Count, doc("blocks per action and stage")] = 1
    sites: Annotated[tuple[str, ...], doc("exact names of sites of the pass, in place of stages")] = ()

    def __post_init__(self) -> None:
        if self.stages and self.sites:
            raise ValueError("stages and sites are both given; keep one of the two")
        for what, names in (("stage", self.stages), ("site", self.sites)):
            twice = [index for index, name in enumerate(names) if name in names[:index]]
            faults = [((f"{what}s", i), f"the {what} {names[i]!r} is named already", "name each once") for i in twice]
            if faults:
                raise_faults("where", faults)

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        return "where"


@dataclass(frozen=True, slots=True)
class Trial(Checked):
    """Each open site is tried, trained from the same state, and the best one is adopted if it is good enough.

    The best one must exceed the `baseline` by more than `min_gain` (for a loss, lie below it): `trained` is the network
    as it is, trained for as many `epochs`; `now` is its latest value.
    """

    epochs: Epochs = 1
    metric: Metric = "val.accuracy"
    min_gain: Annotated[float, doc("by more than this the best one must exceed the baseline")] = 0.0
    baseline: Annotated[
        Literal["trained", "now"],
        doc("the network as it is, trained for as many epochs; or its latest value"),
    ] = "trained"

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        return "trial"

    def gain(self, value: float, baseline: float) -> float:
        """By how much a value is better than the baseline; NaN where either is."""
        return baseline - value if self.metric.rsplit(".", 1)[-1] == "loss" else value - baseline


@dataclass(frozen=True, slots=True)
class Budget(Checked):
    """Upper bounds; at least one. None is unbounded. `seconds` and `epochs` count within the phase."""

    params: Cost | None = None
    macs: Annotated[Cost | None, doc("multiply-accumulates of one sample, forward")] = None
    seconds: Annotated[Positive | None, doc("wall-clock time within the phase")] = None
    epochs: Epochs | None = None

    def __post_init__(self) -> None:
        if (self.params, self.macs, self.seconds, self.epochs) == (None, None, None, None):
            raise ValueError("a budget needs a bound; give params, macs, seconds or epochs")

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        return "budget"

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
class RulePlan(Checked):
    """One rule of a phase: when (`every` and `when` must both hold), what (`pass_name`), and where.

    The policy `rules` needs `every` or `when`; others may draw among rules that have neither, by their `weight`.

    freeze     tested at every moment the rule is due, on the site it rewrote last; a frozen site stays frozen
    at_most    largest depth (blocks) of a stage; a stage is frozen as long as it has that many
    budget     a rewrite that would lead past its params or macs is declined by the engine; every site is frozen as long
               as they are reached, and for good once its seconds or epochs are
    trial      its sites are tried and the best one is adopted; where none is good enough all of them are declined
    decline    `again`: a site that was declined is asked again once the network is another than then, and, where the
               pass measures something, after an epoch; `stop`: it is never asked again, nor is one whose `at_most` or
               budget was reached once
    """

    name: Annotated[str, MinLen(1)]
    pass_name: Annotated[str, MinLen(1)]
    options: Options = field(default_factory=dict)
    every: Epochs | None = None
    when: Condition | None = None
    where: Where = field(default_factory=Where)
    freeze: Annotated[Condition | None, doc("no more growth for the stage that grew last")] = None
    at_most: Annotated[Count | None, doc("largest number of blocks of a stage")] = None
    budget: Budget | None = None
    trial: Annotated[Trial | None, doc("try all open sites and adopt the best")] = None
    decline: Annotated[
        Literal["again", "stop"],
        doc("a site that was declined: `again` once the network has changed, or `stop` for the rest of the phase"),
    ] = "again"
    weight: Annotated[
        Positive | None, doc("how likely a policy that draws among the rules takes this one; 1 by default")
    ] = None

    def __post_init__(self) -> None:
        if isinstance(self.when, Moment) and self.every is not None:
            raise ValueError(f"{self.when.at} comes once in a phase; remove `every`")
        if isinstance(self.freeze, Moment):
            raise ValueError(
                f"freeze: {self.freeze.at} is a moment, not a condition; only `when` can name it; give a plateau, a "
                "bound or epochs"
            )
        if self.trial is not None and self.where.order != "round_robin":
            raise ValueError("a trial tries every site, in no order, and where gives one; remove `order`")
        _measures_the_phase("when", self.when)
        self._check_freeze()

    def _check_freeze(self) -> None:
        freeze = self.freeze
        if not isinstance(freeze, Plateau):
            return
        if isinstance(self.when, Plateau) and freeze.follows_from(self.when):
            raise ValueError(
                "freeze: it looks at the epochs that show that the rule is due, and holds then: a site is frozen after "
                "its first rewrite, however much that helped; add `since: rule` to its plateau"
            )
        if freeze.since == "rule" and self.when is None and self.every is not None and self.every < freeze.window:
            raise ValueError(
                f"freeze: a window of {freeze.window} epochs since the last rewrite is longer than the {self.every} "
                f"after which the rule is to act again; make `window` at most {self.every}, or measure `since: site`"
            )

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        """By its name."""
        return f"rule {given.get('name', '')}".rstrip()


@dataclass(frozen=True, slots=True)
class PhasePlan(Checked):
    """One phase of training: its length, its rules and what ends it early.

    A phase is over after `epochs` epochs, when `until` holds, or when `budget` is reached, whichever comes
    first. `all_frozen` holds when no rule of the phase can act on any site any more. The budget is tested
    after an epoch, so a single growth step may land past it; a bound that must hold belongs on the rule.
    After the last epoch of a phase no rule acts, because nothing would train the change, but for rules with
    `when: {at: ...}`, which name that epoch on purpose, and those with `when: end`. An epoch with a rewrite does not
    end an open phase. This is how the policy `rules` reads a phase; `policy` names another, with its options as JSON.
    """

    name: Annotated[str, MinLen(1)]
    epochs: Epochs | None = None
    rules: tuple[RulePlan, ...] = ()
    until: Condition | Literal["all_frozen"] | None = None
    budget: Budget | None = None
    policy: Annotated[str, MinLen(1)] = RULES
    policy_options: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.policy == RULES:
            self._check_rules()
        _measures_the_phase("until", self.until)
        if isinstance(self.until, Moment):
            raise ValueError(
                f"until: {self.until.at} is a moment, not a condition; only `when` can name it; give a plateau, a "
                "bound or epochs"
            )
        names = [rule.name for rule in self.rules]
        if len(set(names)) != len(names):
            raise ValueError(f"rules: two share a name among {', '.join(names)}; give each its own")

    def _check_rules(self) -> None:
        for rule in self.rules:
            if rule.every is None and rule.when is None:
                raise ValueError(f"rules: {rule.name} never acts; add `every: 3 epochs` or `when: {{at: [10]}}`")
        if self.epochs is None and self.until is None and self.budget is None:
            raise ValueError(f"the phase {self.name!r} never ends; add `epochs`, `until` or `budget`")
        if self.until == ALL_FROZEN and not self.rules:
            raise ValueError("until: all_frozen needs at least one rule; add one, or give `epochs`")

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        """By its name."""
        return f"phase {given.get('name', '')}".rstrip()

    def rule(self, name: str) -> RulePlan:
        """The rule of that name; raises KeyError with the known names."""
        for rule in self.rules:
            if rule.name == name:
                return rule
        raise KeyError(f"phase {self.name} has no rule {name!r}; it has {', '.join(r.name for r in self.rules)}")


def _measures_the_phase(key: str, condition: Condition | str | None) -> None:
    if isinstance(condition, Plateau) and condition.since is not None:
        raise ValueError(f"{key}: `since` is for `freeze` only, which has a rewrite to judge; remove it")


def _figure(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.6g}"
