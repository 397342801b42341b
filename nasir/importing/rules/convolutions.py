"""Convolutions, transposed ones, and linear layers."""

from __future__ import annotations

from functools import partial

from nasir.importing.recording import Tree
from nasir.importing.rules.place import Place, Typed, rule, whole
from nasir.ir import JSON, ValueType, per_axis
from nasir.ops.windows import has_places


def convolution(
    rank: int,
    out: int,
    kernel: Tree,
    bias: bool,
    *,
    stride: Tree = 1,
    padding: Tree = 0,
    dilation: Tree = 1,
    groups: Tree = 1,
    padding_mode: str = "zeros",
) -> dict[str, JSON] | None:
    """Attributes of the op that a convolution is with these options of torch; None where they are no plain numbers."""
    if not whole(kernel, stride, dilation, groups):
        return None
    end_padding: tuple[int, ...] = (0,) * rank
    if padding == "valid":
        padding = 0
    elif padding == "same":
        spans = [step * (size - 1) for step, size in zip(_each(dilation, rank), _each(kernel, rank), strict=True)]
        padding, end_padding = [span // 2 for span in spans], tuple([span % 2 for span in spans])
    if not whole(padding):
        return None
    return {
        "out": out,
        "kernel": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "bias": bias,
        "end_padding": end_padding,
        "padding_mode": padding_mode,
    }


def _each(value: Tree, rank: int) -> tuple[int, ...]:
    """Torch takes one number in a list for all axes too."""
    return per_axis(value if whole(value) and not isinstance(value, int) and len(value) > 1 else _one(value), rank)


def _one(value: Tree) -> int:
    number: int = value[0] if isinstance(value, tuple | list) else value
    return number


OPTIONS = ("stride", "padding", "dilation", "groups", "padding_mode")


def _convolved(rank: int, place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    if not has_places(value, rank):
        return None
    bias = "bias" in place.weights
    attrs = convolution(rank, a["out_channels"], a["kernel_size"], bias, **{name: a[name] for name in OPTIONS})
    return None if attrs is None else Typed(f"conv{rank}d", (x,), attrs)


def _transposed(rank: int, place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    wanted = place.given(1, "output_size", None)
    if not has_places(value, rank) or not (wanted is None or whole(wanted)):
        return None
    more = a["output_padding"]
    if wanted is not None:  # the numbers of places that it is to give, perhaps behind those of the batch and channels
        least = [
            (size - 1) * hop - 2 * pad + step * (window - 1) + 1
            for size, hop, pad, step, window in zip(
                value.shape[1:], a["stride"], a["padding"], a["dilation"], a["kernel_size"], strict=True
            )
        ]
        more = [size - fewest for size, fewest in zip(list(wanted)[-rank:], least, strict=True)]
    attrs = {
        "out": a["out_channels"],
        "kernel": a["kernel_size"],
        "stride": a["stride"],
        "padding": a["padding"],
        "dilation": a["dilation"],
        "groups": a["groups"],
        "bias": "bias" in place.weights,
        "output_padding": more,
    }
    return Typed(f"conv_transpose{rank}d", (x,), attrs)


for _rank in (1, 2, 3):
    rule(f"torch.nn.modules.conv.Conv{_rank}d")(partial(_convolved, _rank))
    rule(f"torch.nn.modules.conv.ConvTranspose{_rank}d")(partial(_transposed, _rank))


@rule("torch.nn.modules.linear.Linear")
def _linear(place: Place, x: int, value: ValueType) -> Typed | None:
    if not value.channels_last:
        return None
    return Typed("linear", (x,), {"out": place.call.attributes["out_features"], "bias": "bias" in place.weights})
