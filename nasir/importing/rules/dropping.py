"""What is left out at random while training."""

from __future__ import annotations

from nasir.importing.recording import Switch
from nasir.importing.rules.place import Operand, Place, Typed, is_number, rule
from nasir.ir import ValueType

P = Operand(1, "p", 0.5)


@rule("torch.nn.modules.dropout.Dropout", "torch.nn.functional.dropout")
def _dropout(place: Place, x: int, value: ValueType) -> Typed | None:
    return _dropping("dropout", place, x)


@rule(*[f"torch.nn.{home}{n}d" for home in ("modules.dropout.Dropout", "functional.dropout") for n in (1, 2, 3)])
def _channel_dropout(place: Place, x: int, value: ValueType) -> Typed | None:
    """Of an input without a batch axis torch takes the first axis for the batch: none is imported, all have one."""
    axes = int(place.call.operation[-2])
    if len(value.shape) != axes + 1 or value.channel_axis != 0:
        return None
    return _dropping("channel_dropout", place, x)


def _dropping(op: str, place: Place, x: int) -> Typed | None:
    p, trains = P.of(place), place.call.module is not None or place.given(2, "training", True) == Switch(False, True)
    return Typed(op, (x,), {"p": p}) if trains and is_number(p) and p < 1 else None


@rule("torchvision.ops.stochastic_depth.StochasticDepth")
def _stochastic_depth(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    return Typed("stochastic_depth", (x,), {"p": a["p"], "mode": a["mode"]})


@rule("timm.layers.drop.DropPath")
def _drop_path(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    return Typed("stochastic_depth", (x,), {"p": float(a["drop_prob"] or 0.0), "rescale": bool(a["scale_by_keep"])})


@rule("transformers.models.*DropPath")
def _rounding_drop_path(place: Place, x: int, value: ValueType) -> Typed | None:
    p = float(place.call.attributes["drop_prob"] or 0.0)
    return Typed("stochastic_depth", (x,), {"p": p, "noise": "uniform"}) if p < 1 else None
