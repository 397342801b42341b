"""The step vocabulary: composites such as conv_bn_relu, and every registered op, applied one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from nasir.blocks.make import Maker
from nasir.blocks.options import checked
from nasir.errors import TypeRuleError, UnknownName
from nasir.ir import JSON, Port, op_named
from nasir.ir.regions import closest
from nasir.options.ranges import Count, Rate, Whole
from nasir.registry import ops

Step = Callable[..., Port]


def add_step(make: Maker, x: Port, kind: str, options: Mapping[str, JSON], label: str | None = None) -> Port:
    """Apply one step to `x` and return its output.

    `label` names the node of a one-node step; of a composite it is the path its nodes lie below. Raises UnknownName
    for an unknown step and TypeRuleError for wrong options or an input that the step refuses.
    """
    place = f"{kind} '{make.label(label)}'" if label else f"{kind} in '{make.path}'" if make.path else kind
    if kind in STEPS:
        return STEPS[kind](make, x, label, **checked(STEPS[kind], options, place, skip=3))
    if kind not in ops.names():
        raise UnknownName(f"unknown step {kind!r}; {closest(kind, (*STEPS, *ops.names()))}")
    if op_named(kind).arity != (1, 1) or op_named(kind).several:
        raise TypeRuleError(f"{place}: has not one input and one output; a step must, use it in a block of your own")
    return make.node(kind, x, label, **options)


def _named(label: str | None, part: str) -> str | None:
    return f"{label}.{part}" if label else None


def conv(
    make: Maker,
    x: Port,
    label: str | None,
    out: Count,
    kernel: Count = 3,
    stride: Count = 1,
    padding: Whole | None = None,
    groups: Count = 1,
    bias: bool = True,
) -> Port:
    """A convolution; padding defaults to kernel // 2."""
    return make.conv(x, out, label, kernel, stride, padding, groups, bias)


def conv_bn(
    make: Maker,
    x: Port,
    label: str | None,
    out: Count,
    kernel: Count = 3,
    stride: Count = 1,
    padding: Whole | None = None,
    groups: Count = 1,
) -> Port:
    """Convolution without bias, batch norm."""
    x = make.conv(x, out, _named(label, "conv"), kernel, stride, padding, groups)
    return make.norm(x, _named(label, "bn"))


def conv_bn_relu(
    make: Maker,
    x: Port,
    label: str | None,
    out: Count,
    kernel: Count = 3,
    stride: Count = 1,
    padding: Whole | None = None,
    groups: Count = 1,
) -> Port:
    """Convolution without bias, batch norm, ReLU."""
    x = conv_bn(make, x, label, out, kernel, stride, padding, groups)
    return make.relu(x, _named(label, "relu"))


def bn_relu_conv(
    make: Maker,
    x: Port,
    label: str | None,
    out: Count,
    kernel: Count = 3,
    stride: Count = 1,
    padding: Whole | None = None,
    groups: Count = 1,
) -> Port:
    """Batch norm, ReLU, convolution without bias."""
    x = make.relu(make.norm(x, _named(label, "bn")), _named(label, "relu"))
    return make.conv(x, out, _named(label, "conv"), kernel, stride, padding, groups)


def max_pool(
    make: Maker, x: Port, label: str | None, kernel: Count = 2, stride: Count | None = None, padding: Whole = 0
) -> Port:
    """Maximum over windows; stride defaults to the kernel."""
    return make.node("max_pool", x, label, kernel=kernel, stride=stride or 0, padding=padding)


def avg_pool(
    make: Maker, x: Port, label: str | None, kernel: Count = 2, stride: Count | None = None, padding: Whole = 0
) -> Port:
    """Mean over windows; stride defaults to the kernel."""
    return make.node("avg_pool", x, label, kernel=kernel, stride=stride or 0, padding=padding)


def patchify(make: Maker, x: Port, label: str | None, out: Count, patch: Count = 16) -> Port:
    """Patches of an image as tokens: a convolution with kernel and stride `patch`, its places one after another."""
    x = make.conv(x, out, _named(label, "conv"), kernel=patch, stride=patch, padding=0, bias=True)
    return make.node("tokens", x, _named(label, "tokens"))


def classifier(make: Maker, x: Port, label: str | None, classes: Count, dropout: Rate = 0.0) -> Port:
    """Dropout if any, global average pooling of an image or of tokens, a linear layer to the classes ("fc").

    Dropout lies before the pooling, which then averages its noise over all positions (Kim et al., UAI 2023).
    """
    if dropout:
        x = make.node("dropout", x, p=dropout)
    if len(make.shape(x)) > 1:
        pool = "global_avg_pool" if len(make.shape(x)) == 3 else "mean_tokens"
        x = make.node(pool, x, None if "avgpool" in make.used else "avgpool")
    return make.node("linear", x, label or "fc", out=classes)


STEPS: Mapping[str, Step] = {
    "conv": conv,
    "conv_bn": conv_bn,
    "conv_bn_relu": conv_bn_relu,
    "bn_relu_conv": bn_relu_conv,
    "max_pool": max_pool,
    "avg_pool": avg_pool,
    "patchify": patchify,
    "classifier": classifier,
}
"""Steps beside the registered ops, by name."""
