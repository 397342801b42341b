"""Models of `regularize:`: terms of a phase's loss that act on weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from nasir.analysis.roofline import PROFILES
from nasir.options.ranges import Count, NotNegative, Positive, Share
from nasir.spec.fields import LABEL, OneOf, Strict, fault
from nasir.training.plans import Grouping, PenaltyKind, PenaltyPlan, Resource

Labels = Annotated[
    tuple[Annotated[str, Field(pattern=LABEL)], ...],
    Field(strict=False, description="of nodes or regions; all below them counts"),
]
Kernels = Annotated[
    Annotated[Literal["kernels", "all"], Tag("<text>")]
    | Annotated[Annotated[Labels, Field(min_length=1)], Tag("<list>")],
    Discriminator(lambda value: "<text>" if isinstance(value, str) else "<list>"),
]


class Norm(Strict):
    """Sum of |w| (l1) or w ** 2 (l2, without 1/2), times `strength`."""

    strength: NotNegative
    on: Kernels = Field(
        default="kernels", description="weights of convolutions and linear layers, all parameters, or kernels by label"
    )


class LayerLasso(Strict):
    """Sum of |w| over kernels of convolutions, times `strength` (ResBuilder)."""

    strength: NotNegative
    on: Literal["blocks", "convs"] = Field(default="blocks", description="convolutions inside blocks, or all")


class Peak(Strict):
    """What a device does at best."""

    flops_per_second: Positive = Field(description="a multiply-accumulate is two")
    bytes_per_second: Positive = Field(description="of memory traffic")


def _known_profile(value: Any) -> Any:
    if isinstance(value, str):
        if value not in PROFILES:
            remedy = f"use {', '.join(PROFILES)}, or {{flops_per_second: ..., bytes_per_second: ...}}"
            raise fault(f"unknown device profile {value!r}", remedy)
        profile = PROFILES[value]
        return {"flops_per_second": profile.flops_per_second, "bytes_per_second": profile.bytes_per_second}
    return value


class Gamma(Strict):
    """MorphNet's penalty on a resource; a channel's value is the |scale| of its norms (Gordon et al. 2018)."""

    strength: NotNegative = Field(description="about 1 / the network's cost in the unit of the resource")
    resource: Resource = "flops"
    threshold: NotNegative = Field(default=0.01, description="a channel is alive while its value is above")
    grouping: Grouping = Field(default="max", description="how the values of tied arrays become one")
    exclude: Labels = Field(default=(), description="labels whose output channels are left alone and always alive")
    profile: Annotated[Peak, BeforeValidator(_known_profile)] | None = Field(
        default=None, description=f"for latency: {', '.join(PROFILES)}, or a device's peak figures"
    )
    batch: Count = Field(default=1, description="samples that memory and latency are counted for")

    @model_validator(mode="after")
    def _profiled(self) -> Gamma:
        if self.resource == "latency" and self.profile is None:
            raise fault("latency needs a device profile", "add `profile: V100`, or another of the table in the docs")
        if self.resource != "latency" and self.profile is not None:
            raise fault(f"{self.resource} has no use for a profile", "remove it, or use `resource: latency`", "profile")
        if self.resource not in ("memory", "latency") and self.batch != 1:
            raise fault(f"{self.resource} is counted for one sample", "remove `batch`", "batch")
        return self


class GroupLasso(Gamma):
    """MorphNet's penalty; a channel's value is the root mean square of its weights."""

    l1: Share = Field(default=0.0, description="share of the mean of |w| in the value")


class Penalty(OneOf):
    l1: Norm | None = None
    l2: Norm | None = None
    layer_lasso: LayerLasso | None = Field(default=None, alias="layer-lasso")
    group_lasso: GroupLasso | None = Field(default=None, alias="group-lasso")
    gamma: Gamma | None = None

    def plan(self) -> PenaltyPlan:
        """The backend's form of it."""
        kind = cast(PenaltyKind, self.kind)
        chosen = self.chosen
        if not isinstance(chosen, Gamma):
            on = chosen.on if isinstance(chosen.on, str) else tuple(chosen.on)
            return PenaltyPlan(kind, chosen.strength, on=on)
        peak = chosen.profile
        return PenaltyPlan(
            kind,
            chosen.strength,
            resource=chosen.resource,
            threshold=chosen.threshold,
            l1=chosen.l1 if isinstance(chosen, GroupLasso) else 0.0,
            grouping=chosen.grouping,
            exclude=tuple(chosen.exclude),
            roofline=(peak.flops_per_second, peak.bytes_per_second) if peak is not None else None,
            batch=chosen.batch,
        )
