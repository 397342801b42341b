"""Fixup's blocks (Zhang, Dauphin & Ma, arXiv:1901.09321): no norms, a number before each layer and activation.

Their weights begin as Fixup has them whatever the initializer of the network is (`nasir.blocks.starts`).
"""

from __future__ import annotations

from typing import Literal

from nasir.blocks.build import shortcut_of
from nasir.blocks.init import FIXUP
from nasir.blocks.make import Maker
from nasir.blocks.stochastic_depth import StochasticDepth, stochastic
from nasir.errors import TypeRuleError
from nasir.ir import Port
from nasir.options.ranges import Count, Whole
from nasir.registry import blocks

FixupShortcut = Literal["pad", "projection"]


@blocks.register("fixup_basic")
def fixup_basic(
    make: Maker,
    x: Port,
    stride: int,
    out: Whole = 0,
    shortcut: FixupShortcut = "pad",
    stochastic_depth: StochasticDepth = 0.0,
) -> Port:
    """Post-activation block of two 3x3 convolutions, without norms, as in the paper's CIFAR networks.

    x + b - conv - + b - ReLU - + b - conv - times a number - + b, sum, ReLU; each b is one learned number.
    out       channels; 0: those of the input
    shortcut  where shapes differ: pad (every stride-th place of x + b, and zero channels) or projection (a bare 1x1
              convolution of x + b)
    stochastic_depth   as in `basic`
    """
    make.begin_by(FIXUP)
    out = out or make.channels(x)
    first = y = make.node("scalar_bias", x, "bias1a")
    y = make.conv(y, out, "conv1", stride=stride)
    y = make.relu(make.node("scalar_bias", y, "bias1b"), "relu")
    y = make.conv(make.node("scalar_bias", y, "bias2a"), out, "conv2")
    y = _ended(make, y, "bias2b", stochastic_depth)
    return _closed(make, x, first, y, shortcut, stride)


@blocks.register("fixup_bottleneck")
def fixup_bottleneck(
    make: Maker,
    x: Port,
    stride: int,
    out: Whole = 0,
    expansion: Count = 4,
    shortcut: FixupShortcut = "projection",
    stochastic_depth: StochasticDepth = 0.0,
) -> Port:
    """Post-activation block of 1x1, 3x3 (with the stride) and 1x1 convolutions, without norms.

    Numbers as in `fixup_basic`.
    out        width ("planes"): the block puts out `expansion` times as many channels; 0: as many as come in
    shortcut, stochastic_depth   as in `fixup_basic`
    """
    make.begin_by(FIXUP)
    channels = make.channels(x)
    if not out and channels % expansion:
        raise TypeRuleError(f"block '{make.path}': {channels} channels are no multiple of {expansion}; give `out`")
    out = out or channels // expansion
    first = y = make.node("scalar_bias", x, "bias1a")
    y = make.conv(y, out, "conv1", kernel=1)
    y = make.relu(make.node("scalar_bias", y, "bias1b"), "relu1")
    y = make.conv(make.node("scalar_bias", y, "bias2a"), out, "conv2", stride=stride)
    y = make.relu(make.node("scalar_bias", y, "bias2b"), "relu2")
    y = make.conv(make.node("scalar_bias", y, "bias3a"), out * expansion, "conv3", kernel=1)
    y = _ended(make, y, "bias3b", stochastic_depth)
    return _closed(make, x, first, y, shortcut, stride)


def _ended(make: Maker, y: Port, bias: str, stochastic_depth: StochasticDepth) -> Port:
    """The branch times its number, plus one."""
    return stochastic(make, make.node("scalar_bias", make.node("scale", y, "scale"), bias), stochastic_depth)


def _closed(make: Maker, x: Port, biased: Port, y: Port, shortcut: FixupShortcut, stride: int) -> Port:
    """The branch added to the input, or to what is made of `biased` in its shape; ReLU."""
    wanted = make.shape(y)
    if make.shape(x) != wanted and shortcut == "projection":
        x = make.conv(biased, wanted[0], "downsample.0", kernel=1, stride=stride, padding=0)
    elif make.shape(x) != wanted:
        x = shortcut_of(make, biased, wanted, "pad", stride)
    return make.relu(make.node("add", (y, x), "add"), "relu_out")
