"""Model of `search:`: how many trials, chosen how, for which objectives, within which bounds."""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from nasir.options.ranges import Count
from nasir.spec.amounts import MEASURED, OBJECTIVES, Amount, Bytes, ConstraintText, Seconds, checked_metric
from nasir.spec.amounts import Constraint as Constraint
from nasir.spec.fields import DEVICE, Epochs, OneOf, Strict, empty_if_none, fault
from nasir.spec.model_sampler import Pruner, Sampler

TRIALS = 20

_Metric = Annotated[str, BeforeValidator(checked_metric), WithJsonSchema({"enum": list(OBJECTIVES)})]


class Objective(OneOf):
    """`{maximize: METRIC}` or `{minimize: METRIC}`."""

    examples = MappingProxyType({"maximize": "{maximize: val.accuracy}", "minimize": "{minimize: macs}"})

    maximize: _Metric | None = None
    minimize: _Metric | None = None

    @classmethod
    def _checked(cls, kind: str) -> str:
        if kind in OBJECTIVES:
            direction = "maximize" if kind.endswith("accuracy") else "minimize"
            raise fault(f"it is not said whether {kind} is to be large or small", f"write {{{direction}: {kind}}}")
        return super()._checked(kind)

    @property
    def metric(self) -> str:
        """The name of what is to be best."""
        return str(self.chosen)

    @property
    def direction(self) -> str:
        """`maximize` or `minimize`."""
        return self.kind

    def __str__(self) -> str:
        return f"{self.direction} {self.metric}"


class ByEpoch(Strict):
    """One step an epoch."""


class Axis(OneOf):
    """On which axis learning curves are compared: by epoch, or by what training has cost so far."""

    bare = frozenset({"epoch"})
    examples = MappingProxyType({"cpu_seconds": "{cpu_seconds: 10}", "macs": "{macs: 1T}"})

    epoch: ByEpoch | None = None
    cpu_seconds: Amount | None = Field(default=None, description="width of a step in CPU-seconds of training")
    macs: Amount | None = Field(default=None, description="width of a step in multiply-accumulates of training")

    @property
    def width(self) -> float:
        """Width of a step in the unit of the axis; 1 for epochs."""
        return 1.0 if self.epoch is not None else float(self.chosen)


class Latency(Strict):
    """How `latency_ms` is measured: the median time of a forward pass."""

    batch: Count = Field(default=1, description="samples of a pass")
    device: str = Field(default="cpu", pattern=DEVICE)
    threads: Count = 1


class Reuse(Strict):
    """What a trial takes over from earlier ones instead of training it again."""

    prefixes: bool = Field(default=True, description="start from the longest stored stretch of equal training")
    architectures: Literal["auto", True, False] = Field(
        default="auto", description="equal network and training: take the result; auto: unless it is measured"
    )
    disk: Bytes = Field(default=4_000_000_000, description="most bytes of stored stretches")
    every: Epochs | None = Field(
        default=None, description="also store after each so many epochs; default: where rewrites are decided only"
    )


class Heartbeat(Strict):
    """How a dead worker is told from a slow one, in seconds."""

    interval: Count = Field(default=60, description="between two signs of life")
    grace: Count = Field(default=300, description="without one, after which a worker counts as dead")

    @model_validator(mode="after")
    def _patient(self) -> Heartbeat:
        if self.grace <= self.interval:
            text = f"a worker counts as dead after {self.grace} s, and gives a sign of life every {self.interval} s"
            raise fault(text, "make `grace` some five times `interval`", "grace")
        return self


class Search(Strict):
    """`search:` of a spec with choices."""

    elsewhere = "what to choose is written where it is used, as `{choose: ...}`"

    trials: Count | None = Field(default=None, description="default: 20; of a grid: all its points")
    timeout: Seconds | None = Field(default=None, description="no trial begins after this time")
    seed: Annotated[int, Field(ge=0)] | None = Field(default=None, description="of the sampler; default: seed")
    sampler: Sampler = Sampler.model_validate("tpe")
    pruner: Pruner = Pruner.model_validate("none")
    objective: Objective | None = Field(default=None, exclude=True, description="one, in place of `objectives`")
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1, strict=False)] = (
        Objective(maximize="val.accuracy"),
    )
    constraints: Annotated[tuple[ConstraintText, ...], Field(strict=False)] = ()
    axis: Axis = Axis.model_validate("epoch")
    latency: Annotated[Latency, BeforeValidator(empty_if_none)] = Latency()
    reuse: Annotated[Reuse, BeforeValidator(empty_if_none)] = Reuse()
    retries: Annotated[int, Field(ge=0)] = Field(default=3, description="of a point whose worker died")
    heartbeat: Annotated[Heartbeat, BeforeValidator(empty_if_none)] = Heartbeat()

    @model_validator(mode="after")
    def _objectives(self) -> Search:
        if self.objective is not None:
            if "objectives" in self.model_fields_set:
                raise fault("objective and objectives are both given", "keep one of the two", "objective", "objectives")
            object.__setattr__(self, "objectives", (self.objective,))  # frozen for everybody else
        metrics = [objective.metric for objective in self.objectives]
        for metric in metrics:
            if metrics.count(metric) > 1:
                raise fault(f"{metric} is an objective twice", "name each metric once", "objectives")
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric of an objective or a constraint, once."""
        metrics = [objective.metric for objective in self.objectives]
        metrics += [constraint.metric for constraint in self.constraints]
        return tuple(dict.fromkeys(metrics))

    @property
    def caches_architectures(self) -> bool:
        """Whether results of equal networks are taken over; `auto` leaves it out where a metric is measured."""
        if self.reuse.architectures == "auto":
            return not set(self.metrics) & set(MEASURED)
        return self.reuse.architectures
