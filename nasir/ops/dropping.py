"""Ops that leave something out at random while training, and let through what comes in otherwise."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import doc

from nasir.ir.infer import At
from nasir.ir.op import op
from nasir.ir.types import ValueType
from nasir.ops import constants as known
from nasir.ops.pointwise import same
from nasir.options.ranges import Rate, Share


@op(
    "dropout",
    family="passive",
    pointwise=same,
    unchanged="all",
    nonnegative="keeps",
    drops="elements",
    view=True,
    takes=("unbatched",),
)
def dropout(at: At, x: ValueType, p: Rate = 0.5) -> ValueType:
    """Zero each element with probability `p` while training, 0 <= p < 1; the others are divided by 1 - p."""
    return x


@op(
    "channel_dropout",
    family="passive",
    pointwise=same,
    unchanged="all",
    nonnegative="keeps",
    drops="channels",
    view=True,
)
def channel_dropout(at: At, x: ValueType, p: Rate = 0.5) -> ValueType:
    """Zero whole channels of a sample with probability `p` while training; the others are divided by 1 - p.

    Tompson et al. 2015. The channels are the first of two to four axes.
    """
    if x.channel_axis != 0 or not 2 <= len(x.axes) <= 4:
        at.fail(f"needs channels with one to three axes behind them, got {at.shape(x)}; use dropout for features")
    return x


@op(
    "stochastic_depth",
    family="passive",
    channels="alone",
    unchanged="all",
    nonnegative="keeps",
    drops="samples",
    view=True,
    constant=known.window,
    later=("rescale", "noise"),
)
def stochastic_depth(
    at: At,
    x: ValueType,
    p: Share = 0.5,
    mode: Literal["row", "batch"] = "row",
    rescale: Annotated[bool, doc("what is kept is divided by 1 - p")] = True,
    noise: Annotated[
        Literal["bernoulli", "uniform"],
        doc("how it is drawn: as in torchvision and timm, or by rounding as in transformers"),
    ] = "bernoulli",
) -> ValueType:
    """While training, all of a sample (`row`), or of the batch, is dropped with probability `p`, or divided by 1 - p.

    Huang et al. 2016. `noise` changes nothing but which random numbers are drawn.
    """
    if noise == "uniform" and (p == 1.0 or not rescale or mode != "row"):
        at.fail("noise: uniform drops rows, divides by 1 - p and needs p < 1; use noise: bernoulli")
    return x
