"""Models of `phases:`: how the network trains, which rules rewrite it, and what ends the phase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from nasir.errors import OptionError
from nasir.options import kind_of, ranges
from nasir.options.declared import NONE
from nasir.options.ranges import Count, Positive, Share
from nasir.policy import plans
from nasir.spec.declared import OptionsOf, Short, declared, refuse
from nasir.spec.fields import EpochLength, Epochs, OneOf, Options, Strict, empty_if_none, fault
from nasir.training.plans import AdaptiveClip, SchedulePlan


class Constant(Strict):
    pass


Shape = Mapping[str, Any]
"""Options of a schedule by name, with their defaults."""
STAIRCASE = OptionsOf(
    SchedulePlan,
    ("at", "factor", "restart"),
    {"kind": "staircase"},
    needed=frozenset({"at"}),
    filled=frozenset({"at"}),
    about="The learning rate is multiplied by `factor` at each of these fractions of the phase (or of a restart).",
)
COSINE = OptionsOf(
    SchedulePlan,
    ("floor", "restart"),
    {"kind": "cosine"},
    about="The learning rate falls along half a cosine to `floor` times its start over the phase (or a restart).",
)


class Schedule(OneOf):
    bare = frozenset({"constant", "cosine"})

    constant: Constant | None = None
    staircase: Annotated[Shape, STAIRCASE] | None = None
    cosine: Annotated[Shape, COSINE] | None = None

    @property
    def needs_length(self) -> bool:
        """True when the schedule cannot be computed without knowing how long the phase is."""
        return self.kind != "constant" and self.chosen["restart"] is None


class Ema(Strict):
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    warmup: bool = Field(default=True, description="after t steps at most (1 + t) / (10 + t), or the decay throughout")


def as_factor(value: Any) -> Any:
    """`adaptive_clip: 0.01` as `adaptive_clip: {factor: 0.01}`."""
    return {"factor": value} if isinstance(value, int | float) and not isinstance(value, bool) else empty_if_none(value)


AdaptiveClipping = Annotated[AdaptiveClip, OptionsOf(AdaptiveClip), BeforeValidator(as_factor)]

Metric = Annotated[plans.Metric, WithJsonSchema(kind_of(plans.Metric).schema())]


class Bound(Strict):
    metric: Metric
    value: float


class Instant(Strict):
    """A moment that needs no options."""


def _epoch_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


class Condition(OneOf):
    plateau: Annotated[plans.Plateau, OptionsOf(plans.Plateau), BeforeValidator(empty_if_none)] | None = None
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
            return self.plateau
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


Budget = Annotated[plans.Budget, OptionsOf(plans.Budget)]


def _name_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], Field(min_length=1, strict=False), BeforeValidator(_name_list)]
"""One name or several."""


NAME_LIST = {"type": "array", "items": {"type": "string"}, "minItems": 1}
WHERE = OptionsOf(
    plans.Where,
    filled=frozenset({"stages", "sites"}),
    short={
        "stages": Short(
            lambda value: NONE if value == "all" else _name_list(value),
            lambda stages: stages or "all",
            {"anyOf": [{"enum": ["all"]}, NAME_LIST], "default": "all"},
        ),
        "sites": Short(
            lambda value: NONE if value is None else _name_list(value),
            lambda sites: sites or None,
            {"anyOf": [NAME_LIST, {"type": "null"}], "default": None},
        ),
    },
)
Where = Annotated[plans.Where, WHERE]
Trial = Annotated[plans.Trial, OptionsOf(plans.Trial)]


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
            names = " and ".join(map(repr, value)) or "none"
            raise fault(f"expected one {kind}, found {names}", f"write `{full}`{several}")
        return {name: {} if options is None else options for name, options in value.items()}
    raise fault(f"expected a {kind}", f"write `{bare}` or `{full}`")


PolicyChoice = Annotated[dict[str, Options], BeforeValidator(_policy)]
"""A policy and its options."""


class Rule(Strict):
    """When (`every` and `when` must both hold), what and where to rewrite."""

    every: Epochs | None = declared(plans.RulePlan, "every")
    when: Condition | None = declared(plans.RulePlan, "when")
    do: Annotated[dict[str, Options], BeforeValidator(_action)] = Field(description="a pass and its options")
    where: Where = Field(default=plans.Where(), json_schema_extra={"default": WHERE.show(plans.Where())})
    freeze: Condition | None = declared(plans.RulePlan, "freeze")
    at_most: Count | None = declared(plans.RulePlan, "at_most")
    budget: Budget | None = declared(plans.RulePlan, "budget")
    trial: Annotated[Trial, BeforeValidator(empty_if_none)] | None = declared(plans.RulePlan, "trial")
    decline: Literal["again", "stop"] = declared(plans.RulePlan, "decline")
    weight: Positive | None = declared(plans.RulePlan, "weight")

    @model_validator(mode="after")
    def _agrees(self) -> Rule:
        try:
            self.plan("rule")
        except OptionError as error:
            refuse(error.faults, self.model_fields_set, own=True)
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

    @property
    def goes_on_for_ever(self) -> bool:
        """Whether nothing stops it for good: a bound that it has reached counts as long as it is reached."""
        budget = self.budget
        ends = budget is not None and (budget.epochs, budget.seconds) != (None, None)
        timed = self.when is not None and (self.when.is_moment or self.when.at is not None)
        return self.freeze is None and self.decline == "again" and not ends and not timed

    def plan(self, name: str) -> plans.RulePlan:
        """The policy's form of it; `name` is that of the phase and the rule's index, such as "grow.rules.0"."""
        return plans.RulePlan(
            name=name,
            pass_name=self.pass_name,
            options=self.options,
            every=self.every,
            when=self.when.plan() if self.when else None,
            where=self.where,
            freeze=self.freeze.plan() if self.freeze else None,
            at_most=self.at_most,
            budget=self.budget,
            trial=self.trial,
            decline=self.decline,
            weight=self.weight,
        )


Until = Annotated[
    Annotated[Literal["all_frozen"], Tag("<text>")] | Annotated[Condition, Tag("<map>")],
    Discriminator(lambda value: "<text>" if isinstance(value, str) and value not in Condition.bare else "<map>"),
]


class Warmup(Strict):
    """The learning rate rises linearly from `start` times its value over the first epochs of the phase."""

    epochs: EpochLength
    start: Share = 0.0

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [kind_of(ranges.EpochLength).schema(), handler(schema)]}


def as_warmup(value: Any) -> Any:
    """`warmup: 5 epochs` as `warmup: {epochs: 5}`."""
    return {"epochs": value} if isinstance(value, int | float | str) else value
