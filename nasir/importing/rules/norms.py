"""Normalization: modules, and functions with the parameters that they take."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from nasir.importing.recording import Ref, Structure, Switch, Tree
from nasir.importing.rules.place import Operand, Place, Typed, is_number, rule, typed
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
    """A batch norm, then modules that it holds: a dropout, and an activation."""
    found = _batch_norm(place, x, value)
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


@rule("torch.nn.functional.batch_norm")
def _functional_batch_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    mean, variance = place.given(1, "running_mean", None), place.given(2, "running_var", None)
    training, momentum = place.given(5, "training", False), place.given(6, "momentum", 0.1)
    weights = _weights(place, (3, 4), running_mean=mean, running_var=variance)
    if value.channel_axis != 0 or weights is None or not is_number(momentum):
        return None
    statistics = "running_mean" in weights
    if training != (Switch(False, True) if statistics else True) or not _whole(frozenset(weights), AFFINE, STATISTICS):
        return None
    attrs = {"momentum": momentum, "counts": not statistics, "affine": "weight" in weights, "statistics": statistics}
    return Typed("batch_norm", (x,), {"eps": place.given(7, "eps", 1e-5), **attrs}, weights)


@rule("torchvision.ops.misc.FrozenBatchNorm2d")
def _frozen_batch_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    if not value.is_image or place.weights != AFFINE | STATISTICS:
        return None
    return Typed("frozen_batch_norm", (x,), {"eps": place.call.attributes["eps"]})


@rule(*[f"torch.nn.modules.instancenorm.InstanceNorm{n}d" for n in (1, 2, 3)])
def _instance_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    a, names = place.call.attributes, place.weights
    axes = int(place.call.operation[-2]) + 1
    if value.channel_axis != 0 or len(value.shape) != axes or not _whole(names, AFFINE, STATISTICS | {COUNTER}):
        return None
    attrs = {"eps": a["eps"], "affine": "weight" in names, "statistics": "running_mean" in names}
    return Typed("instance_norm", (x,), attrs | ({} if a["momentum"] is None else {"momentum": a["momentum"]}))


@rule("torch.nn.functional.instance_norm")
def _functional_instance_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    """Without running statistics, which a function would need a counter for."""
    weights = _weights(place, (3, 4))
    kept = [place.given(1, "running_mean", None), place.given(2, "running_var", None)]
    if value.channel_axis != 0 or not 2 <= len(value.shape) <= 4 or kept != [None, None]:
        return None
    if weights is None or not _whole(frozenset(weights), AFFINE) or place.given(5, "use_input_stats", True) is not True:
        return None
    return Typed("instance_norm", (x,), {"eps": place.given(7, "eps", 1e-5), "affine": bool(weights)}, weights)


@rule("torch.nn.modules.normalization.GroupNorm")
def _group_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    if value.channel_axis != 0 or not _whole(place.weights, AFFINE):
        return None
    return Typed("group_norm", (x,), {"groups": a["num_groups"], "eps": a["eps"], "affine": bool(place.weights)})


@rule("torch.nn.functional.group_norm")
def _functional_group_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    weights = _weights(place, (2, 3))
    if value.channel_axis != 0 or weights is None or not _whole(frozenset(weights), AFFINE):
        return None
    attrs = {"groups": place.given(1, "num_groups", 1), "eps": place.given(4, "eps", 1e-5), "affine": bool(weights)}
    return Typed("group_norm", (x,), attrs, weights)


@rule("torch.nn.modules.normalization.LayerNorm")
def _layer_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    found = _of_layer(x, value, a["normalized_shape"], a["eps"], dict.fromkeys(place.weights, x))
    return None if found is None else replace(found, weights={})  # it has its own


@rule("torch.nn.functional.layer_norm", "torch.layer_norm")
def _functional_layer_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    weights, shape = _weights(place, (2, 3)), place.given(1, "normalized_shape", None)
    return _of_layer(x, value, shape, place.given(4, "eps", 1e-5), weights)


def _of_layer(x: int, value: ValueType, shape: Tree, eps: Tree, weights: Mapping[str, int] | None) -> Typed | None:
    axes = _normalized(value, shape)
    if not axes or weights is None or not _scales_first(weights):
        return None
    attrs = {"eps": eps, "affine": bool(weights), "bias": set(weights) != {"weight"}, "axes": axes}
    return Typed("layer_norm", (x,), attrs, weights)


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


@rule("torch.nn.functional.rms_norm", "torch.rms_norm")
def _functional_rms_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    weights = _weights(place, (2,))
    if weights is None or _normalized(value, place.given(1, "normalized_shape", None)) != 1:
        return None
    return Typed("rms_norm", (x,), {"eps": place.given(3, "eps", None), "affine": bool(weights)}, weights)


def _normalized(value: ValueType, shape: Tree) -> int:
    """How many of the last axes `shape` is; 0 where it is none, or one that does not hold the channels."""
    axes = len(shape) if isinstance(shape, tuple | list) else 0
    if not axes or tuple(shape) != value.shape[-axes:] or (axes == 1 and not value.channels_last):
        return 0
    return axes


def _weights(place: Place, positions: tuple[int, ...], **others: Tree) -> dict[str, int] | None:
    """Numbers of the weight and bias that a function is given at `positions`, and of `others`; None for odd ones."""
    operands = dict(others)
    operands |= {name: place.given(at, name, None) for at, name in zip(positions, ("weight", "bias"), strict=False)}
    found = {name: operand for name, operand in operands.items() if operand is not None}
    refs = {name: operand.number for name, operand in found.items() if isinstance(operand, Ref)}
    return refs if len(refs) == len(found) else None


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
