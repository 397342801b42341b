"""Models of `phases:`: how the network trains, which rules rewrite it, and what ends the phase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, WithJsonSchema, model_validator

from nasir.options.ranges import Count, Positive
from nasir.policy import plans
from nasir.spec.fields import EpochLength, Epochs, OneOf, Options, Strict, empty_if_none, fault

METRICS = ("train.loss", "train.accuracy", "val.loss", "val.accuracy", "lr", "seconds")
"""What an epoch record of the journal can be asked for; accuracies are fractions, seconds are of the epoch."""


class Constant(Strict):
    pass


def _rising(at: tuple[float, ...]) -> tuple[float, ...]:
    if list(at) != sorted(set(at)):
        raise fault(f"the steps {list(at)} do not rise", "sort them, each once")
    return at


class Staircase(Strict):
    """The learning rate is multiplied by `factor` at each of these fractions of the phase (or of a restart)."""

    at: Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1, strict=False)]
    factor: Positive = 0.1
    restart: Epochs | None = Field(default=None, description="start over after so many epochs")

    @model_validator(mode="after")
    def _sorted(self) -> Staircase:
        _rising(self.at)
        return self


class Cosine(Strict):
    """The learning rate falls along half a cosine to `floor` times its start over the phase (or a restart)."""

    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    restart: Epochs | None = Field(default=None, description="start over after so many epochs")


class Schedule(OneOf):
    bare = frozenset({"constant", "cosine"})

    constant: Constant | None = None
    staircase: Staircase | None = None
    cosine: Cosine | None = None

    @property
    def needs_length(self) -> bool:
        """True when the schedule cannot be computed without knowing how long the phase is."""
        return self.kind != "constant" and self.chosen.restart is None


class Ema(Strict):
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    warmup: bool = Field(default=True, description="after t steps at most (1 + t) / (10 + t), or the decay throughout")


Metric = Annotated[str, WithJsonSchema({"enum": list(METRICS)})]


class Plateau(Strict):
    """The metric improved by less than `less_than` over the last `window` epochs."""

    metric: Metric = "val.accuracy"
    window: Epochs = 100
    less_than: float = Field(default=0.0005, description="in the unit of the metric: 0.0005 is 0.05 points of accuracy")
    smooth: Literal["running_max", "ema", "none"] = "running_max"
    decay: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.95, description="of the moving average, for `smooth: ema`"
    )

    def plan(self) -> plans.Plateau:
        """The policy's form of it."""
        return plans.Plateau(self.metric, self.window, self.less_than, self.smooth, self.decay)


class Bound(Strict):
    metric: Metric
    value: float


class Instant(Strict):
    """A moment that needs no options."""


def _epoch_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


class Condition(OneOf):
    plateau: Annotated[Plateau, BeforeValidator(empty_if_none)] | None = None
    above: Bound | None = Field(default=None, description="the latest value of the metric is above this")
    below: Bound | None = Field(default=None, description="the latest value of the metric is below this")
    at: Annotated[tuple[Epochs, ...], Field(min_length=1, strict=False), BeforeValidator(_epoch_list)] | None = Field(
        default=None, description="after these epochs of the phase, counted from 1"
    )
    start: Instant | None = Field(default=None, description="before the first epoch of the phase (for `when` only)")
    end: Instant | None = Field(default=None, description="after the last epoch of the phase (for `when` only)")
    bare = frozenset({"plateau", "start", "end"})

    def plan(self) -> plans.Condition:
        """The policy's form of it."""
        if self.plateau is not None:
            return self.plateau.plan()
        if self.at is not None:
            return plans.AtEpochs(self.at)
        if self.is_moment:
            return plans.Moment("start" if self.start is not None else "end")
        bound: Bound = self.chosen
        above, below = (bound.value, None) if self.above is not None else (None, bound.value)
        return plans.Threshold(bound.metric, above, below)

    @property
    def metric(self) -> str | None:
        """The metric it reads, None for a list of epochs and for a moment."""
        return None if self.at is not None or self.is_moment else str(self.chosen.metric)

    @property
    def is_moment(self) -> bool:
        """Whether it is the start or the end of the phase."""
        return self.start is not None or self.end is not None


class Budget(Strict):
    """Upper bounds; at least one."""

    params: Positive | None = None
    macs: Positive | None = Field(default=None, description="multiply-accumulates of one sample, forward")
    seconds: Positive | None = Field(default=None, description="wall-clock time within the phase")
    epochs: Epochs | None = None

    @model_validator(mode="after")
    def _some(self) -> Budget:
        if not self.plain():
            raise fault("a budget needs a bound", "give params, macs, seconds or epochs")
        return self

    def plan(self) -> plans.Budget:
        """The policy's form of it."""
        return plans.Budget(self.params, self.macs, self.seconds, self.epochs)


Stages = Annotated[
    Annotated[Literal["all"], Tag("<text>")]
    | Annotated[Annotated[tuple[str, ...], Field(min_length=1, strict=False)], Tag("<list>")],
    Discriminator(lambda value: "<text>" if isinstance(value, str) else "<list>"),
]


def _stage_list(value: Any) -> Any:
    return [value] if isinstance(value, str) and value != "all" else value


def _name_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], Field(min_length=1, strict=False), BeforeValidator(_name_list)]
"""One name or several."""


class Where(Strict):
    stages: Annotated[Stages, BeforeValidator(_stage_list)] = "all"
    sites: Names | None = Field(default=None, description="exact names of sites of the pass, in place of stages")
    order: Literal["round_robin", "random", "all"] = "round_robin"
    count: Count = Field(default=1, description="blocks per action and stage")

    def plan(self) -> plans.Where:
        """The policy's form of it."""
        stages = () if self.stages == "all" else tuple(self.stages)
        return plans.Where(stages, self.order, self.count, self.sites or ())

    @model_validator(mode="after")
    def _one_list(self) -> Where:
        if self.sites is not None and self.stages != "all":
            raise fault("stages and sites are both given", "keep one of the two", "stages", "sites")
        return self


class Trial(Strict):
    """Each open site is tried, trained from the same state, and the best one is adopted if it is good enough."""

    epochs: Epochs = 1
    metric: Metric = "val.accuracy"
    min_gain: float = Field(default=0.0, description="by more than this the best one must exceed the baseline")
    baseline: Literal["trained", "now"] = Field(
        default="trained", description="the network as it is, trained for as many epochs; or its latest value"
    )

    def plan(self) -> plans.Trial:
        """The policy's form of it."""
        return plans.Trial(self.epochs, self.metric, self.min_gain, self.baseline)


def _action(value: Any) -> Any:
    """`do: name` as `do: {name: {}}`."""
    return _named(value, "pass", "do: insert-block", "do: {insert-block: {...}}", ", one rule for each pass")


def _policy(value: Any) -> Any:
    """`policy: name` as `policy: {name: {}}`."""
    return _named(value, "policy", "policy: evolve", "policy: {evolve: {...}}")


def _named(value: Any, kind: str, bare: str, full: str, several: str = "") -> Any:
    if isinstance(value, str):
        return {value: {}}
    if isinstance(value, Mapping):
        if len(value) != 1:
            found = " and ".join(map(repr, value)) or "none"
            raise fault(f"expected one {kind}, found {found}", f"write `{full}`{several}")
        return {name: {} if options is None else options for name, options in value.items()}
    raise fault(f"expected a {kind}", f"write `{bare}` or `{full}`")


PolicyChoice = Annotated[dict[str, Options], BeforeValidator(_policy)]
"""A policy and its options."""


class Rule(Strict):
    """When (`every` and `when` must both hold), what and where to rewrite."""

    every: Epochs | None = None
    when: Condition | None = None
    do: Annotated[dict[str, Options], BeforeValidator(_action)] = Field(description="a pass and its options")
    where: Where = Where()
    freeze: Condition | None = Field(default=None, description="no more growth for the stage that grew last")
    at_most: Count | None = Field(default=None, description="largest number of blocks of a stage")
    budget: Budget | None = None
    trial: Annotated[Trial, BeforeValidator(empty_if_none)] | None = Field(
        default=None, description="try all open sites and adopt the best"
    )
    weight: Positive | None = Field(
        default=None, description="how likely a policy that draws among the rules takes this one; 1 by default"
    )

    @model_validator(mode="after")
    def _acts(self) -> Rule:
        if self.every is not None and self.when is not None and self.when.is_moment:
            raise fault(f"{self.when.kind} comes once in a phase", "remove `every`", "every")
        if self.trial is not None and self.where.order != "round_robin":
            raise fault("a trial tries every site, in no order", "remove `order`", "where")
        return self

    @property
    def pass_name(self) -> str:
        """The name of the pass."""
        return next(iter(self.do))

    @property
    def options(self) -> Options:
        """The options of the pass, as written."""
        return self.do[self.pass_name]

    @property
    def can_freeze(self) -> bool:
        """Whether the rule can ever stop acting on a stage."""
        bounds = (self.freeze, self.at_most, self.budget, self.trial)
        return any(bound is not None for bound in bounds)

    def plan(self, name: str) -> plans.RulePlan:
        """The policy's form of it; `name` is that of the phase and the rule's index, such as "grow.rules.0"."""
        return plans.RulePlan(
            name=name,
            pass_name=self.pass_name,
            options=self.options,
            every=self.every,
            when=self.when.plan() if self.when else None,
            where=self.where.plan(),
            freeze=self.freeze.plan() if self.freeze else None,
            at_most=self.at_most,
            budget=self.budget.plan() if self.budget else None,
            trial=self.trial.plan() if self.trial else None,
            weight=self.weight,
        )


Until = Annotated[
    Annotated[Literal["all_frozen"], Tag("<text>")] | Annotated[Condition, Tag("<map>")],
    Discriminator(lambda value: "<text>" if isinstance(value, str) and value not in Condition.bare else "<map>"),
]


class Warmup(Strict):
    """The learning rate rises linearly from `start` times its value over the first epochs of the phase."""

    epochs: EpochLength
    start: Annotated[float, Field(ge=0, le=1)] = 0.0


def as_warmup(value: Any) -> Any:
    """`warmup: 5 epochs` as `warmup: {epochs: 5}`."""
    return {"epochs": value} if isinstance(value, int | float | str) else value
