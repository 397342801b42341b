"""Normalization. Functions with the parameters that they take: `functional.py`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from nasir.importing.recording import Structure, Tree
from nasir.importing.rules.place import Operand, Place, Typed, rule, typed
from nasir.ir import ValueType, op_named
from nasir.ir.op import OpDef

AFFINE = {"weight", "bias"}
STATISTICS = {"running_mean", "running_var"}
COUNTER = "num_batches_tracked"


def _whole(names: frozenset[str], *groups: set[str]) -> bool:
    """Whether of each group of weights all are there or none, and nothing else."""
    return names <= set().union(*groups) and all(not group & names or group <= names for group in groups)


def _scales_first(names: Collection[str]) -> bool:
    """Whether these are a weight, a weight and a bias, or nothing."""
    return set(names) in (set(), {"weight"}, AFFINE)


@rule(
    *[f"torch.nn.modules.batchnorm.{kind}" for kind in ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")]
)
def _batch_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    a, names = place.call.attributes, place.weights
    if value.channel_axis != 0 or not _whole(names - {COUNTER}, AFFINE, STATISTICS):
        return None
    attrs = {"affine": "weight" in names, "statistics": "running_mean" in names, "counts": COUNTER in names}
    attrs["counts"] |= not attrs["statistics"]  # nothing to count for
    if a["momentum"] is None and not attrs["counts"]:
        return None
    return Typed("batch_norm", (x,), {"eps": a["eps"], "momentum": a["momentum"], **attrs})


@rule("timm.layers.norm_act.BatchNormAct2d", "timm.layers.norm_act.SyncBatchNormAct")
def _batch_norm_act(place: Place, x: int, value: ValueType) -> Typed | None:
    return _activated(place, _batch_norm(place, x, value))


@rule("timm.layers.norm_act.FrozenBatchNormAct2d")
def _frozen_batch_norm_act(place: Place, x: int, value: ValueType) -> Typed | None:
    return _activated(place, _frozen_batch_norm(place, x, value))


def _activated(place: Place, found: Typed | None) -> Typed | None:
    """A norm, then modules that it holds: a dropout, and an activation."""
    for name in ("drop", "act"):
        inner = place.call.attributes.get(name)
        if found is None or not isinstance(inner, Structure):
            return None
        call = replace(place.call, operation=inner.kind, attributes=dict(inner.parts))
        step = typed(replace(place, call=call, weights=frozenset()))
        if step is None or step.then:
            return None
        if not _does_nothing(op_named(step.op)):
            found = replace(found, then=(*found.then, (step.op, step.attrs)))
    return found


def _does_nothing(facts: OpDef) -> bool:
    """Whether an op lets through what comes in, in training too."""
    return facts.family == "passive" and facts.unchanged == "all" and not facts.random


@rule("torchvision.ops.misc.FrozenBatchNorm2d")
def _frozen_batch_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    if not value.is_image or place.weights != AFFINE | STATISTICS:
        return None
    return Typed("frozen_batch_norm", (x,), {"eps": place.call.attributes["eps"]})


INSTANCE_NORMS = {f"torch.nn.modules.instancenorm.InstanceNorm{n}d": n + 1 for n in (1, 2, 3)}
"""With the number of axes that their inputs have; with one less they would take the batch for the channels."""


@rule(*INSTANCE_NORMS, "torch.nn.modules.instancenorm._InstanceNorm")
def _instance_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    a, names = place.call.attributes, place.weights
    axes = INSTANCE_NORMS.get(place.call.operation, len(value.shape))
    if (
        value.channel_axis != 0
        or not 2 <= len(value.shape) == axes <= 4
        or not _whole(names, AFFINE, STATISTICS | {COUNTER})
    ):
        return None
    attrs = {"eps": a["eps"], "affine": "weight" in names, "statistics": "running_mean" in names}
    return Typed("instance_norm", (x,), attrs | ({} if a["momentum"] is None else {"momentum": a["momentum"]}))


@rule("torch.nn.modules.normalization.GroupNorm")
def _group_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    if value.channel_axis != 0 or not _whole(place.weights, AFFINE):
        return None
    return Typed("group_norm", (x,), {"groups": a["num_groups"], "eps": a["eps"], "affine": bool(place.weights)})


@rule("torch.nn.modules.normalization.LayerNorm")
def _layer_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    axes = _normalized(value, a["normalized_shape"])
    if not axes or not _scales_first(place.weights):
        return None
    attrs = {"eps": a["eps"], "affine": bool(place.weights), "bias": place.weights != {"weight"}, "axes": axes}
    return Typed("layer_norm", (x,), attrs)


@rule("torchvision.models.convnext.LayerNorm2d", "timm.layers.norm.LayerNorm2d")
def _layer_norm2d(place: Place, x: int, value: ValueType) -> Typed | None:
    if not value.is_image or not _scales_first(place.weights):
        return None
    attrs = {"eps": place.call.attributes["eps"], "affine": bool(place.weights), "bias": place.weights != {"weight"}}
    return Typed("layer_norm2d", (x,), attrs)


@rule("torch.nn.modules.normalization.RMSNorm")
def _rms_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    if _normalized(value, a["normalized_shape"]) != 1 or not place.weights <= {"weight"}:
        return None
    return Typed("rms_norm", (x,), {"eps": a["eps"], "affine": bool(place.weights)})


def _normalized(value: ValueType, shape: Tree) -> int:
    """How many of the last axes `shape` is; 0 where it is none, or one that does not hold the channels."""
    axes = len(shape) if isinstance(shape, tuple | list) else 0
    if not axes or tuple(shape) != value.shape[-axes:] or (axes == 1 and not value.channels_last):
        return 0
    return axes


@rule("timm.layers.grn.GlobalResponseNorm")
def _response_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    channels = a["channel_dim"] % 4 - 1
    if len(value.shape) != 3 or channels != value.channel_axis or place.weights != AFFINE:
        return None
    return Typed("response_norm", (x,), {"eps": a["eps"]})


SIZE, ALPHA, BETA, K = Operand(1, "size"), Operand(2, "alpha", 1e-4), Operand(3, "beta", 0.75), Operand(4, "k", 1.0)


@rule("torch.nn.modules.normalization.LocalResponseNorm", "torch.nn.functional.local_response_norm")
def _local_response_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    if value.channel_axis != 0 or len(value.shape) < 2:
        return None
    attrs = {"size": SIZE.of(place), "alpha": ALPHA.of(place), "beta": BETA.of(place), "k": K.of(place)}
    return Typed("local_response_norm", (x,), attrs)
