"""The layer of densely connected networks; labels inside are torchvision's."""

from __future__ import annotations

from nasir.blocks.make import Maker
from nasir.errors import TypeRuleError
from nasir.ir import Port
from nasir.options.ranges import Count, Rate, Whole
from nasir.registry import blocks


@blocks.register("dense")
def dense(
    make: Maker, x: Port, stride: int, out: Whole = 0, growth: Count = 32, bottleneck: Count = 4, dropout: Rate = 0.0
) -> Port:
    """The input and `growth` channels more: norm - ReLU - 1x1 - norm - ReLU - 3x3 (Huang et al. 2017, DenseNet-B).

    growth        channels that the block adds; it cannot choose `out`
    bottleneck    the 1x1 convolution has this many times `growth` channels
    dropout       after the 3x3 convolution
    """
    if stride != 1 or out:
        raise TypeRuleError(
            f"block '{make.path}': a dense block adds growth channels at stride 1, it cannot have out {out} and "
            f"stride {stride}; leave both away"
        )
    y = make.relu(make.norm(x, "norm1"), "relu1")
    y = make.conv(y, bottleneck * growth, "conv1", kernel=1)
    y = make.relu(make.norm(y, "norm2"), "relu2")
    y = make.conv(y, growth, "conv2")
    if dropout:
        y = make.node("dropout", y, "dropout", p=float(dropout))
    return make.node("concat", (x, y), "concat")
