"""Ops that send each sample through one of several ways: `gate` decides, `route` goes."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from annotated_types import doc

from nasir.ir.infer import At
from nasir.ir.op import op
from nasir.ir.space import pin, size_of
from nasir.ir.types import ValueType
from nasir.ops.merging import merged
from nasir.options.ranges import Positive

Choice: TypeAlias = Literal["soft", "straight-through"]
Decision: TypeAlias = Literal["hard", "soft"]
Noise: TypeAlias = Literal["none", "gumbel"]


@op("gate", family="activation", nonnegative="always", random=True)
def gate(
    at: At,
    x: ValueType,
    train: Annotated[Choice, doc("what training goes on with; both have the gradient of softmax")] = "straight-through",
    evaluate: Annotated[Decision, doc("what evaluation goes on with")] = "hard",
    temperature: Annotated[Positive, doc("scores are divided by it first")] = 1.0,
    noise: Annotated[Noise, doc("added to the scores in training")] = "none",
) -> ValueType:
    """The share of each way, of scores over the ways: numbers from 0 to 1 whose sum is 1.

    soft: softmax. hard: 1 for the way of the largest score, the first of equal ones, and 0 for the others, without a
    gradient. straight-through: the numbers of hard with the gradient of soft.
    """
    pin(x.channels, f"gate '{at.label}' chooses among so many ways")
    at.mix(x.channels)
    return x


@op("route", family="route", nonnegative="keeps")
def route(at: At, x: ValueType, *ways: ValueType) -> ValueType:
    """The sum of the ways, each times its share: input 0 holds the shares, one for each of the inputs after it.

    The shares are those of a whole sample, (ways,), or of each place along the first axes of the ways: (T, ways) for
    tokens (T, C). In evaluation a way is computed for the samples alone whose share of it is not 0, with all the nodes
    that nothing else needs; in training all ways are computed for all samples. Way 0 is what the network did before it
    had a choice.
    """
    if not x.channels_last:
        at.fail(f"needs shares along the last axis, got {x}")
    if len(ways) < 2:
        at.fail(f"chooses among 2 ways or more, got {len(ways)}")
    places = len(x.axes) - 1
    if size_of(x.axes[places]) != len(ways):
        at.fail(
            f"{len(ways)} ways need so many shares, got {size_of(x.axes[places])} (from {at.source(0, x.channels)})"
        )
    pin(x.axes[places], f"route '{at.label}' has so many ways")
    if places >= len(ways[0].axes):
        at.fail(f"shares of shape {x.shape} are too many for ways of shape {ways[0].shape}")
    for number in range(places):
        at.same(x.axes[number], ways[0].axes[number], f"axis {number + 1}")
    return merged(at, ways, begin=1)
