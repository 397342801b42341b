"""What is left out at random while training."""

from __future__ import annotations

from nasir.importing.recording import Switch
from nasir.importing.rules.place import Place, Typed, rule
from nasir.ir import ValueType


@rule("torch.nn.modules.dropout.Dropout")
def _dropout(place: Place, x: int, value: ValueType) -> Typed | None:
    p = place.call.attributes["p"]
    return Typed("dropout", (x,), {"p": p}) if p < 1 else None


@rule("torch.nn.functional.dropout")
def _functional_dropout(place: Place, x: int, value: ValueType) -> Typed | None:
    p, training = place.given(1, "p", 0.5), place.given(2, "training", True)
    if training != Switch(False, True) or not isinstance(p, float | int) or p >= 1:
        return None
    return Typed("dropout", (x,), {"p": p})


@rule("torchvision.ops.stochastic_depth.StochasticDepth")
def _stochastic_depth(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    return Typed("stochastic_depth", (x,), {"p": a["p"], "mode": a["mode"]})
