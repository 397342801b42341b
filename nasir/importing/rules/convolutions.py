"""Convolutions and linear layers."""

from __future__ import annotations

from nasir.importing.rules.place import Place, Typed, rule
from nasir.ir import ValueType


@rule("torch.nn.modules.conv.Conv2d")
def _conv2d(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    if not value.is_image or a["padding_mode"] != "zeros":
        return None
    padding = a["padding"]
    if padding == "valid":
        padding = (0, 0)
    elif padding == "same":
        spans = [step * (size - 1) for step, size in zip(a["dilation"], a["kernel_size"], strict=True)]
        if any(span % 2 for span in spans):
            return None
        padding = tuple([span // 2 for span in spans])
    attrs = {
        "out": a["out_channels"],
        "kernel": a["kernel_size"],
        "stride": a["stride"],
        "padding": padding,
        "dilation": a["dilation"],
        "groups": a["groups"],
        "bias": "bias" in place.weights,
    }
    return Typed("conv2d", (x,), attrs)


@rule("torch.nn.modules.linear.Linear")
def _linear(place: Place, x: int, value: ValueType) -> Typed | None:
    if not value.channels_last:
        return None
    return Typed("linear", (x,), {"out": place.call.attributes["out_features"], "bias": "bias" in place.weights})
