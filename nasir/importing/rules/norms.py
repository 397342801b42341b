"""Normalization."""

from __future__ import annotations

from nasir.importing.rules.place import Place, Typed, rule
from nasir.ir import ValueType

BATCH_NORMS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@rule(*[f"torch.nn.modules.batchnorm.BatchNorm{n}d" for n in (1, 2, 3)])
def _batch_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    counts = "num_batches_tracked" in place.weights
    if value.channel_axis != 0 or not set(BATCH_NORMS) - {"num_batches_tracked"} <= place.weights:
        return None
    a = place.call.attributes
    return Typed("batch_norm", (x,), {"eps": a["eps"], "momentum": a["momentum"], "counts": counts})


@rule("torch.nn.modules.normalization.LayerNorm")
def _layer_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    if not value.channels_last or len(a["normalized_shape"]) != 1 or place.weights != {"weight", "bias"}:
        return None
    return Typed("layer_norm", (x,), {"eps": a["eps"]})


@rule("torch.nn.modules.normalization.GroupNorm")
def _group_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    if value.channel_axis != 0 or place.weights != {"weight", "bias"}:
        return None
    return Typed("group_norm", (x,), {"groups": a["num_groups"], "eps": a["eps"]})
