"""Ops on tokens: values (T, C), so that a vision transformer (Dosovitskiy et al. 2021) is an ordinary typed graph."""

from __future__ import annotations

from collections.abc import Mapping

from nasir.ir.infer import At
from nasir.ir.op import op
from nasir.ir.space import Cat, Prod
from nasir.ir.types import JSON, Fill, ValueType
from nasir.ops import constants as known
from nasir.ops.weighted import DECAY, ZEROS
from nasir.options.ranges import Count, Rate, Whole


@op("tokens", family="shape", channels="moves", nonnegative="keeps", view=True, constant=known.sequenced)
def tokens(at: At, x: ValueType) -> ValueType:
    """The places of an image as tokens, row by row: (C, H, W) -> (H * W, C)."""
    channels, height, width = at.image(x)
    return x.over((height * width, channels), 1)


@op("class_token", family="embedding", channels="moves", constant=known.preceded)
def class_token(at: At, x: ValueType) -> ValueType:
    """One learnable token before the others: (T, C) -> (T + 1, C)."""
    count, channels = at.tokens(x)
    at.slot("weight", ((1, "fixed"), (1, "fixed"), (channels, "write")), ZEROS, tags=DECAY)
    return x.over((count + 1, channels))


@op("position_embedding", family="embedding", channels="moves", constant=known.moved)
def position_embedding(at: At, x: ValueType) -> ValueType:
    """Sum with a learnable vector for each place in the sequence."""
    count, channels = at.tokens(x)
    at.slot("weight", ((1, "fixed"), (count, "fixed"), (channels, "write")), Fill("normal", {"std": 0.02}), tags=DECAY)
    return x


def _attention_macs(attrs: Mapping[str, JSON], inputs: tuple[ValueType, ...], out: ValueType) -> int:
    count, channels = out.shape
    scores: int = attrs["heads"] * attrs["head_dim"]
    return count * count * (scores + channels)


@op("self_attention", family="attention", channels="moves", constant=known.attended, macs=_attention_macs)
def self_attention(at: At, x: ValueType, heads: Count, head_dim: Count, scale: float, dropout: Rate = 0.0) -> ValueType:
    """softmax(`scale` * q k^T) v for each head (Vaswani et al. 2017, section 3.2), without weights of its own.

    The channels of x are q, k and v one after another, each head by head: q and k have `head_dim` channels a head,
    v what is left. `scale` is a number of its own, normally head_dim ** -0.5 of the network as it was first built, so
    that removing silent channels of q and k changes nothing. `dropout` acts on the softmax while training. Projections
    are linear ops before and after; selecting from the space of `heads` removes whole heads in both.
    """
    _, channels = at.tokens(x)
    size = x.shape[1]
    rest = size - 2 * heads * head_dim
    if rest < 1 or rest % heads:
        at.fail(
            f"{heads} heads of {head_dim} channels for each of q and k leave {rest} of {size} channels for v: "
            f"there must be at least one for each head and equally many; let linear put out 3 * heads * head_dim"
        )
    head, matched = at.fresh(heads, "heads"), at.fresh(head_dim, "head_dim")
    # a copy or a fresh unit here enters the product of q and k, and no reader's weight can undo that
    matched.mixed = at.label
    queries, values = Prod((head, matched)), Prod((head, at.fresh(rest // heads)))
    at.same(channels, Cat((queries, queries, values)), "channels", (0, 0))
    return x.with_channels(values)


@op("select_token", family="shape", channels="moves", nonnegative="keeps", view=True, constant=known.one_place)
def select_token(at: At, x: ValueType, index: Whole = 0) -> ValueType:
    """One token as a vector: (T, C) -> (C,)."""
    count, channels = at.tokens(x)
    if index >= count:
        at.fail(f"index must be from 0 to {count - 1}, not {index}")
    return x.over((channels,))


@op(
    "mean_tokens",
    family="shape",
    averages=lambda attrs: True,
    channels="moves",
    nonnegative="keeps",
    constant=known.mean_of_places,
)
def mean_tokens(at: At, x: ValueType) -> ValueType:
    """Mean over the tokens: (T, C) -> (C,)."""
    return x.over((at.tokens(x)[1],))
