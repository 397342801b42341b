"""The blocks nasir ships. Labels inside are torchvision's, so that its state_dicts load without a key map.

A builder is called as `builder(make, x, stride, **options)`: it adds nodes through `make` and returns the output.
"""

from __future__ import annotations

from typing import Literal

from nasir.blocks.build import Shortcut, close_residual
from nasir.blocks.make import Maker
from nasir.blocks.scales import BranchScale, scaled
from nasir.blocks.stochastic_depth import StochasticDepth, stochastic
from nasir.errors import TypeRuleError
from nasir.ir import Port
from nasir.options.ranges import Count, Rate, Share, Whole
from nasir.registry import blocks

Norm = Literal["batch", "none"]


def _conv_norm(
    make: Maker, x: Port, out: int, number: int, norm: Norm, kernel: int = 3, stride: int = 1, groups: int = 1
) -> Port:
    bare = norm == "none"
    x = make.conv(x, out, f"conv{number}", kernel=kernel, stride=stride, groups=groups, bias=bare)
    return x if bare else make.norm(x, f"bn{number}")


@blocks.register("basic")
def basic(
    make: Maker,
    x: Port,
    stride: int,
    out: Whole = 0,
    shortcut: Shortcut = "projection",
    norm: Norm = "batch",
    branch_scale: BranchScale | None = None,
    stochastic_depth: StochasticDepth = 0.0,
) -> Port:
    """Post-activation residual block: 3x3 - norm - ReLU - 3x3 - norm, sum, ReLU (He et al. 2015).

    out           channels; 0: those of the input
    shortcut      where shapes differ: projection (1x1 convolution and norm, option B) or pad (option A)
    norm          batch, or none: convolutions then have biases
    branch_scale  what the branch is multiplied by: 1/n, 1/sqrt(n) or fischer by the residual sums n of the network, a
                  number, or a learned one, skipinit or {skipinit: first value}
    stochastic_depth  with which probability the branch of a sample is dropped in training; {linear: p}: in the l-th of
                  L blocks l / L * p (Huang et al. 2016)
    """
    out = out or make.channels(x)
    y = make.relu(_conv_norm(make, x, out, 1, norm, stride=stride), "relu")
    y = scaled(make, _conv_norm(make, y, out, 2, norm), branch_scale)
    y = stochastic(make, y, stochastic_depth)
    return make.relu(close_residual(make, x, y, shortcut, stride), "relu_out")


@blocks.register("bottleneck")
def bottleneck(
    make: Maker,
    x: Port,
    stride: int,
    out: Whole = 0,
    expansion: Count = 4,
    groups: Count = 1,
    base_width: Count = 64,
    shortcut: Shortcut = "projection",
    branch_scale: BranchScale | None = None,
    stochastic_depth: StochasticDepth = 0.0,
) -> Port:
    """1x1 - norm - ReLU - 3x3 - norm - ReLU - 1x1 - norm, sum, ReLU; the stride is on the 3x3 (torchvision's v1.5).

    out           width ("planes"): the block puts out `expansion` times as many channels; 0: as many as come in
    groups        groups of the 3x3 (ResNeXt)
    base_width    channels of the 3x3 per group at out = 64 (wide ResNets have 128)
    shortcut, branch_scale, stochastic_depth   as in `basic`
    """
    channels = make.channels(x)
    if not out and channels % expansion:
        raise TypeRuleError(f"block '{make.path}': {channels} channels are no multiple of {expansion}; give `out`")
    out = out or channels // expansion
    inner = int(out * (base_width / 64.0)) * groups
    y = make.relu(_conv_norm(make, x, inner, 1, "batch", kernel=1), "relu1")
    y = make.relu(_conv_norm(make, y, inner, 2, "batch", stride=stride, groups=groups), "relu2")
    y = scaled(make, _conv_norm(make, y, out * expansion, 3, "batch", kernel=1), branch_scale)
    y = stochastic(make, y, stochastic_depth)
    return make.relu(close_residual(make, x, y, shortcut, stride), "relu_out")


@blocks.register("plain")
def plain(make: Maker, x: Port, stride: int, out: Whole = 0, norm: Norm = "batch") -> Port:
    """3x3 - norm - ReLU without a shortcut (AutoGrow's plain nets).

    out           channels; 0: those of the input
    norm          batch, or none: the convolution then has a bias
    """
    return make.relu(_conv_norm(make, x, out or make.channels(x), 1, norm, stride=stride), "relu")


@blocks.register("preact_basic")
def preact_basic(
    make: Maker,
    x: Port,
    stride: int,
    out: Whole = 0,
    shortcut: Shortcut = "projection",
    norm: Norm = "batch",
    dropout: Rate = 0.0,
    branch_scale: BranchScale | None = None,
    stochastic_depth: StochasticDepth = 0.0,
) -> Port:
    """Pre-activation residual block: norm - ReLU - 3x3, twice, and a sum without ReLU (He et al. 2016).

    out           channels; 0: those of the input
    shortcut      where shapes differ: projection (a bare 1x1 convolution of the activated input) or pad
    norm          batch, or none: convolutions then have biases
    dropout       between the last ReLU and the last convolution, where no norm follows (Kim et al., UAI 2023)
    branch_scale  as in `basic`
    stochastic_depth  as in `basic`
    """
    out = out or make.channels(x)
    bare = norm == "none"
    active = make.relu(x if bare else make.norm(x, "bn1"), "relu1")
    y = make.conv(active, out, "conv1", stride=stride, bias=bare)
    y = make.relu(y if bare else make.norm(y, "bn2"), "relu2")
    if dropout:
        y = make.node("dropout", y, "dropout", p=float(dropout))
    y = scaled(make, make.conv(y, out, "conv2", bias=bare), branch_scale)
    y = stochastic(make, y, stochastic_depth)
    if shortcut == "projection" and make.shape(x) != make.shape(y):
        x = make.conv(active, out, "downsample.0", kernel=1, stride=stride, padding=0, bias=bare)
    return close_residual(make, x, y, shortcut, stride)


@blocks.register("resbuilder")
def resbuilder(
    make: Maker,
    x: Port,
    stride: int,
    out: Whole = 0,
    convs: Count = 2,
    momentum: Share = 0.01,
    branch_scale: BranchScale | None = None,
    stochastic_depth: StochasticDepth = 0.0,
) -> Port:
    """ResBuilder's unit: y = x + ReLU(conv(norm(...))), `convs` times, no ReLU after the sum (released code).

    Where channels differ the narrower side is padded with zero channels; where sizes differ the shortcut is a 1x1
    convolution with bias. Norms have Keras' eps 1e-3.
    out           channels; 0: those of the input
    convs         convolutions of the branch
    momentum      weight of a new batch in the running statistics; Keras has 0.99 for the rest
    branch_scale  as in `basic`
    stochastic_depth  as in `basic`
    """
    out = out or make.channels(x)
    y = x
    for number in range(1, convs + 1):
        y = make.node("batch_norm", y, f"bn{number}", eps=1e-3, momentum=float(momentum))
        y = make.conv(y, out, f"conv{number}", stride=stride if number == 1 else 1, bias=True)
        y = make.relu(y, f"relu{number}")
    y = stochastic(make, scaled(make, y, branch_scale), stochastic_depth)
    channels = max(out, make.channels(x))
    x, y = _padded(make, x, channels, "pad_in"), _padded(make, y, channels, "pad_out")
    if make.shape(x) != make.shape(y):
        x = make.conv(x, channels, "downsample", kernel=1, stride=stride, padding=0, bias=True)
    return make.node("add", (x, y), "add")


def _padded(make: Maker, x: Port, channels: int, name: str) -> Port:
    missing = channels - make.channels(x)
    return make.node("pad_channels", x, name, after=missing) if missing else x
