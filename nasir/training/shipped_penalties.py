"""The penalties that ship, found by entry points as a third party's are; the torch backend has their terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import doc

from nasir.analysis.roofline import PROFILES
from nasir.ir import Graph
from nasir.options import Canonical, Checked
from nasir.options.ranges import Count, NotNegative, Positive, Share
from nasir.registry import penalties
from nasir.training.penalties import Labels, Penalty, WeightPenalty, weights_of
from nasir.transfer import Key

if TYPE_CHECKING:
    ProfileName = str
else:
    ProfileName = Literal[tuple(PROFILES)]

Resource = Literal["flops", "params", "activations", "memory", "latency"]
Grouping = Literal["max", "l2"]


@penalties.register("l1")
@dataclass(frozen=True, kw_only=True)
class L1(WeightPenalty):
    """Sum of |w|."""

    term = "nasir.backends.torch.penalties.norms:NormTerm"
    power: ClassVar[int] = 1


@penalties.register("l2")
@dataclass(frozen=True, kw_only=True)
class L2(WeightPenalty):
    """Sum of w ** 2, without a factor 1/2 (as in Keras)."""

    term = "nasir.backends.torch.penalties.norms:NormTerm"
    power: ClassVar[int] = 2


@penalties.register("layer-lasso")
@dataclass(frozen=True, kw_only=True)
class LayerLasso(Penalty):
    """Sum of |w| over kernels of convolutions (ResBuilder)."""

    term = "nasir.backends.torch.penalties.norms:NormTerm"
    power: ClassVar[int] = 1

    on: Annotated[Literal["blocks", "convs"], doc("convolutions inside blocks, or all")] = "blocks"

    def slots(self, graph: Graph) -> list[Key]:
        return weights_of(graph, self.on)


@dataclass(frozen=True)
class Peak(Checked):
    """What a device does at best."""

    flops_per_second: Annotated[Positive, doc("a multiply-accumulate is two")]
    bytes_per_second: Annotated[Positive, doc("of memory traffic")]

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        """As the option is called."""
        return "profile"


def _peak(value: Peak | str | None) -> Peak | None:
    if isinstance(value, str):
        return Peak(PROFILES[value].flops_per_second, PROFILES[value].bytes_per_second)
    return value


@dataclass(frozen=True, kw_only=True)
class ResourcePenalty(Penalty):
    """Base of MorphNet's penalty on a resource (Gordon et al. 2018), under which units die."""

    term = "nasir.backends.torch.penalties.group:GroupPenalty"
    selects = True
    labels = ("exclude",)
    of_norms: ClassVar[bool] = False  # whether a unit's value is that of the scales of norms, not of what writes it

    strength: Annotated[NotNegative, doc("about 1 / the network's cost in the unit of the resource")]
    resource: Resource = "flops"
    threshold: Annotated[NotNegative, doc("a channel is alive while its value is above")] = 0.01
    grouping: Annotated[Grouping, doc("how the values of tied arrays become one")] = "max"
    exclude: Annotated[Labels, doc("labels whose output channels are left alone and always alive")] = ()
    profile: Annotated[
        Peak | ProfileName | None,
        Canonical(_peak),
        doc(f"for latency: {', '.join(PROFILES)}, or a device's peak figures"),
    ] = None
    batch: Annotated[Count, doc("samples that memory and latency are counted for")] = 1

    def __post_init__(self) -> None:
        if self.resource == "latency" and self.profile is None:
            raise ValueError("latency needs a device profile; add `profile: V100`, or another of the table in the docs")
        if self.resource != "latency" and self.profile is not None:
            text = f"profile: {self.resource} has no use for a profile"
            raise ValueError(f"{text}; remove it, or use `resource: latency`")
        if self.resource not in ("memory", "latency") and self.batch != 1:
            raise ValueError(f"batch: {self.resource} is counted for one sample; remove `batch`")

    @property
    def l1_share(self) -> float:
        """Share of the mean of |w| in the value of a unit; the rest is the root of the mean of w ** 2."""
        return 1.0

    @property
    def roofline(self) -> tuple[float, float] | None:
        """(FLOP/s, bytes/s) of the device."""
        peak = _peak(self.profile)
        return None if peak is None else (peak.flops_per_second, peak.bytes_per_second)

    def identity(self) -> dict[str, Any]:
        own = Penalty.identity(self)
        del own["profile"]
        return {**own, "roofline": self.roofline}


@penalties.register("gamma")
@dataclass(frozen=True, kw_only=True)
class Gamma(ResourcePenalty):
    """MorphNet's penalty; a channel's value is the |scale| of its norms."""

    of_norms = True


@penalties.register("group-lasso")
@dataclass(frozen=True, kw_only=True)
class GroupLasso(ResourcePenalty):
    """MorphNet's penalty; a channel's value is the root mean square of its weights."""

    l1: Annotated[Share, doc("share of the mean of |w| in the value")] = 0.0

    @property
    def l1_share(self) -> float:
        return self.l1
