"""Ops that own weights: linear, norms, scale. Slot names and default values are torch's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import prod, sqrt
from typing import Annotated, TypeAlias

from annotated_types import doc

from nasir.ir.infer import At
from nasir.ir.op import op
from nasir.ir.space import Axis, Prod, pin
from nasir.ir.types import JSON, Fill, Kind, Role, Slot, ValueType
from nasir.ops import constants as known
from nasir.options.ranges import Count, NotNegative, Share

Along: TypeAlias = tuple[str, Fill, Kind, frozenset[str]]

DECAY = frozenset({"decay"})
BIAS = frozenset({"bias"})
NORM = frozenset({"norm"})
NORM_BIAS = frozenset({"norm", "bias"})
KAIMING = Fill("kaiming_uniform", {"a": sqrt(5.0)})  # torch's default for conv and linear
ZEROS = Fill("zeros")
ONES = Fill("ones")
AFFINE: tuple[Along, ...] = (("weight", ONES, "param", NORM), ("bias", ZEROS, "param", NORM_BIAS))
STATISTICS: tuple[Along, ...] = (
    ("running_mean", ZEROS, "buffer", frozenset()),
    ("running_var", ONES, "buffer", frozenset()),
)
COUNTED = Slot((), ZEROS, "buffer", dtype="int64")
"""Batches that a norm has seen."""


@lru_cache(4096)
def bias_fill(fan_in: int) -> Fill:
    """Torch's default for the bias of a layer with such a kernel."""
    bound = 1.0 / sqrt(fan_in)
    return Fill("uniform", {"low": -bound, "high": bound})


def _linear_macs(attrs: Mapping[str, JSON], inputs: tuple[ValueType, ...], out: ValueType) -> int:
    return inputs[0].shape[-1] * prod(out.shape)


@op("linear", family="weighted", macs=_linear_macs)
def linear(at: At, x: ValueType, out: Count, bias: bool = True) -> ValueType:
    """Affine map of a vector, or of each token, to `out` features."""
    if not x.channels_last:
        at.fail(f"needs a vector or tokens, got {at.shape(x)}; put flatten, global_avg_pool or tokens before it")
    written = at.fresh(out, "out")
    at.slot("weight", ((written, "write"), (x.axes[-1], "read")), KAIMING, tags=DECAY)
    if bias:
        at.slot("bias", ((written, "write"),), bias_fill(x.shape[-1]), tags=BIAS)
    return x.with_channels(written)


Affine: TypeAlias = Annotated[bool, doc("it multiplies by a weight and adds a bias, per channel")]
Biased: TypeAlias = Annotated[bool, doc("it adds a bias, if it multiplies by a weight")]


def _channels_first(at: At, x: ValueType) -> None:
    if x.channel_axis != 0:
        at.fail(f"needs an image or a vector, got {at.shape(x)}; use layer_norm for tokens")


@op("batch_norm", family="norm", channels="alone", constant=known.normed, later=("counts", "affine", "statistics"))
def batch_norm(
    at: At,
    x: ValueType,
    eps: NotNegative = 1e-5,
    momentum: Share | None = 0.1,
    counts: Annotated[bool, doc("it counts the batches; without a `momentum` it must")] = True,
    affine: Affine = True,
    statistics: Annotated[bool, doc("it keeps running ones; else it always uses the batch's")] = True,
) -> ValueType:
    """Batch normalization per channel; `momentum` is the weight of the new batch in the running statistics.

    None: they are the plain average over all batches.
    """
    if momentum is None and statistics and not counts:
        at.fail("an average over all batches needs their number; give a momentum, or let it count")
    _channels_first(at, x)
    if len(x.axes) > 4:
        at.fail(f"needs at most three axes beside the channels, got shape {x.shape}")
    at.slots_along(x.axes[0], (AFFINE if affine else ()) + (STATISTICS if statistics else ()))
    if counts and statistics:
        at.slots["num_batches_tracked"] = COUNTED
    return x


@op("group_norm", family="norm", channels="groups", mixes=True, later=("affine",))
def group_norm(at: At, x: ValueType, groups: Count, eps: NotNegative = 1e-5, affine: Affine = True) -> ValueType:
    """Normalization over groups of consecutive channels and all positions (Wu & He 2018)."""
    _channels_first(at, x)
    channels, size = x.axes[0], x.shape[0]
    if size % groups:
        at.fail(f"groups {groups} must divide the {size} channels")
    if 1 < groups < size:
        at.same(channels, Prod((at.fresh(groups, "groups"), at.fresh(size // groups))), "channels", (0, 0))
    elif groups == size > 1:
        at.mirror("groups", channels)
    at.slots_along(channels, AFFINE if affine else ())
    return x


@op("layer_norm", family="norm", mixes=True, later=("affine", "bias", "axes"))
def layer_norm(
    at: At,
    x: ValueType,
    eps: NotNegative = 1e-5,
    affine: Affine = True,
    bias: Biased = True,
    axes: Annotated[Count, doc("how many of the last axes it normalizes together")] = 1,
) -> ValueType:
    """Normalization of a vector, or of each token, over its features (Ba et al. 2016)."""
    weights = AFFINE[: 1 + bias] if affine else ()
    if axes == 1:
        if not x.channels_last:
            at.fail(f"needs a vector or tokens, got {at.shape(x)}; use group_norm with groups: 1 for images")
        at.slots_along(x.axes[-1], weights)
        return x
    if axes > len(x.axes):
        at.fail(f"normalizes over {axes} axes, and its input has {len(x.axes)}")
    for axis in x.axes[-axes:]:
        pin(axis, f"{at.node.op} '{at.label}' normalizes over {axes} axes together")
        at.mix(axis)
    for name, fill, kind, tags in weights:
        roles: list[tuple[Axis, Role]] = [(a, "fixed" if isinstance(a, int) else "along") for a in x.axes[-axes:]]
        at.slot(name, tuple(roles), fill, kind, tags)
    return x


@op("scale", family="scale", channels="alone", unchanged="zero", constant=known.scaled, takes=("unbatched",))
def scale(at: At, x: ValueType, value: float = 1.0, learnable: bool = True) -> ValueType:
    """Product with one scalar: SkipInit when learnable from 0 (De & Smith 2020), residual scaling when fixed."""
    if learnable:
        at.slot("weight", (), Fill("constant", {"value": value}), tags=frozenset({"scalar"}))
    return x


@op("prelu", family="activation", channels="alone", unchanged="zero", constant=known.bent)
def prelu(at: At, x: ValueType, per_channel: bool = False) -> ValueType:
    """x where it is positive, else a learnable slope times x: one slope, or one for each channel (He et al. 2015)."""
    slope: Axis = 1
    if per_channel:
        _channels_first(at, x)
        slope = x.axes[0]
    at.slot("weight", ((slope, "along" if per_channel else "fixed"),), Fill("constant", {"value": 0.25}))
    return x
