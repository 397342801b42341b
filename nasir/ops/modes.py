"""Parts of a network that run in one mode alone, and buffers that it computes anew at each call."""

from __future__ import annotations

from nasir.ir.infer import At
from nasir.ir.op import Taken, op
from nasir.ir.types import Mode, ValueType

ANYTHING: tuple[Taken, ...] = ("integers", "unbatched")


@op("only", family="mode", reads=lambda attrs: (attrs["mode"],), takes=ANYTHING)
def only(at: At, x: ValueType, mode: Mode) -> ValueType:
    """An output that the network has in one mode alone: what nothing else needs runs in that mode alone."""
    return x


@op("either", family="mode", reads=lambda attrs: ("eval", "train"), takes=ANYTHING)
def either(at: At, evaluated: ValueType, trained: ValueType) -> ValueType:
    """The first input in evaluation, the second in training; what only one of them needs runs in its mode alone."""
    _alike(at, evaluated, trained)
    return evaluated


@op("assign", family="assign", takes=ANYTHING)
def assign(at: At, held: ValueType, x: ValueType) -> ValueType:
    """The next value `x` of the buffer that the node `held` puts out: stored when the network has run, as a number
    without gradient. All that reads the buffer reads its value before."""
    _alike(at, held, x)
    if at.nodes[at.node.inputs[0].node].facts.family != "weight":
        at.fail("only what a node of family 'weight' holds can be assigned to")
    return x


def _alike(at: At, one: ValueType, other: ValueType) -> None:
    """Both have the same axes, which run over the same units."""
    if (len(one.axes), one.dtype, one.batch) != (len(other.axes), other.dtype, other.batch):
        at.fail(f"its inputs are {one} and {other}; give it two of one type")
    for number, (left, right) in enumerate(zip(one.axes, other.axes, strict=True)):
        at.same(left, right, f"axis {number + 1}")
