"""Convolutions, transposed ones, and linear layers."""

from __future__ import annotations

from functools import partial
from math import prod, sqrt

from nasir.importing.rules.place import Place, Typed, rule, whole
from nasir.ir import JSON, ValueType, per_axis
from nasir.ops.windows import has_places

SHARED = {
    "out": "out_channels",
    "kernel": "kernel_size",
    "stride": "stride",
    "padding": "padding",
    "dilation": "dilation",
    "groups": "groups",
}
"""Attributes of the ops by those of torch's modules."""
WINDOW = ("kernel", "stride", "dilation")


def _attributes(place: Place) -> dict[str, JSON] | None:
    """Those that all convolutions have; None where they are no plain numbers."""
    attrs = {name: place.call.attributes[theirs] for name, theirs in SHARED.items()}
    numbers = [value for value in attrs.values() if not isinstance(value, str)]
    return attrs | {"bias": "bias" in place.weights} if whole(*numbers) else None


def _convolution(rank: int, place: Place, x: int, value: ValueType) -> Typed | None:
    attrs = _attributes(place)
    if attrs is None or not has_places(value, rank):
        return None
    if attrs["padding"] == "valid":
        attrs["padding"] = 0
    elif attrs["padding"] == "same":
        added = [step * (size - 1) for step, size in zip(attrs["dilation"], attrs["kernel"], strict=True)]
        attrs |= {"padding": [both // 2 for both in added], "end_padding": [both % 2 for both in added]}
    return Typed(f"conv{rank}d", (x,), attrs | {"padding_mode": place.call.attributes["padding_mode"]})


STANDARDIZED = [
    f"timm.layers.std_conv.{kind}{same}" for kind in ("StdConv2d", "ScaledStdConv2d") for same in ("", "Same")
]


@rule(*STANDARDIZED)
def _standardized(place: Place, x: int, value: ValueType) -> Typed | None:
    """Kernels of which each output is standardized, then scaled; without `scale` by the root of its size, which makes
    up for the op's."""
    a, attrs = place.call.attributes, _attributes(place)
    if attrs is None or not has_places(value, 2) or a["padding_mode"] != "zeros":
        return None
    if a.get("same_pad"):  # as TensorFlow pads for images of this size
        given = zip(value.shape[1:], *[per_axis(attrs[name], 2) for name in WINDOW], strict=True)
        more = [max((-(-size // hop) - 1) * hop + (k - 1) * step + 1 - size, 0) for size, k, hop, step in given]
        attrs |= {"padding": [both // 2 for both in more], "end_padding": [both % 2 for both in more]}
    if isinstance(attrs["padding"], str):
        return None
    fan_in = a["in_channels"] // a["groups"] * prod(per_axis(attrs["kernel"], 2))
    gamma = a.get("scale", 1.0) * sqrt(fan_in)
    return Typed("ws_conv2d", (x,), attrs | {"gamma": gamma, "eps": a["eps"], "gain": "gain" in place.weights})


def _transposed(rank: int, place: Place, x: int, value: ValueType) -> Typed | None:
    attrs, wanted = _attributes(place), place.given(1, "output_size", None)
    if attrs is None or not has_places(value, rank) or not (wanted is None or whole(wanted)):
        return None
    more = place.call.attributes["output_padding"]
    if wanted is not None:  # the places that it is to give, perhaps behind the batch and the channels
        windows = zip(
            value.shape[1:], *[attrs[name] for name in ("stride", "padding", "dilation", "kernel")], strict=True
        )
        least = [(size - 1) * hop - 2 * pad + step * (window - 1) + 1 for size, hop, pad, step, window in windows]
        more = [size - fewest for size, fewest in zip(wanted[-rank:], least, strict=True)]
    return Typed(f"conv_transpose{rank}d", (x,), attrs | {"output_padding": more}) if whole(more) else None


for _rank in (1, 2, 3):
    rule(f"torch.nn.modules.conv.Conv{_rank}d")(partial(_convolution, _rank))
    rule(f"torch.nn.modules.conv.ConvTranspose{_rank}d")(partial(_transposed, _rank))


@rule("torch.nn.modules.linear.Linear")
def _linear(place: Place, x: int, value: ValueType) -> Typed | None:
    if not value.channels_last:
        return None
    return Typed("linear", (x,), {"out": place.call.attributes["out_features"], "bias": "bias" in place.weights})
