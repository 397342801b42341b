"""Ops of networks without norms: what stays of a norm, single numbers that are learned, and standardized kernels."""

from __future__ import annotations

from math import pi, sqrt
from typing import Annotated

from annotated_types import doc

from nasir.ir.infer import At
from nasir.ir.op import Pads, Sizes, op
from nasir.ir.types import ValueType
from nasir.ops import constants as known
from nasir.ops.convolutions import PaddingMode, conv2d, macs, reflected
from nasir.ops.weighted import AFFINE, ONES, ZEROS
from nasir.options.ranges import Count, NotNegative, Positive

RELU_GAIN = sqrt(2.0 / (1.0 - 1.0 / pi))
"""1 / the standard deviation of max(x, 0) of standard normal x (Brock et al. 2021)."""


@op("affine", family="norm", channels="alone", constant=known.affine)
def affine(at: At, x: ValueType) -> ValueType:
    """x * weight + bias per channel: a norm without what it measures."""
    at.slots_along(x.channels, AFFINE)
    return x


@op("scalar_bias", family="shift", channels="alone", constant=known.biased, takes=("unbatched",))
def scalar_bias(at: At, x: ValueType) -> ValueType:
    """x + one learnable number, from 0 (Fixup; Zhang, Dauphin & Ma 2019)."""
    at.slot("bias", (), ZEROS, tags=frozenset({"scalar", "bias"}))
    return x


@op("ws_conv2d", family="standardized", macs=macs, unordered=reflected)
def ws_conv2d(
    at: At,
    x: ValueType,
    out: Count,
    kernel: Sizes,
    stride: Sizes = 1,
    padding: Pads = 0,
    dilation: Sizes = 1,
    groups: Count = 1,
    bias: bool = True,
    end_padding: Pads = 0,
    padding_mode: PaddingMode = "zeros",
    gamma: Annotated[Positive, doc("gain of the nonlinearity before it; of a ReLU 1.7139")] = RELU_GAIN,
    eps: Annotated[NotNegative, doc("added to the variance of the kernel")] = 1e-6,
    gain: Annotated[bool, doc("it multiplies each output channel by a learned number")] = True,
) -> ValueType:
    """2-D convolution whose kernel is standardized for each output channel (scaled weight standardization).

    With n numbers of the kernel W for one output, of mean m and variance v, it convolves by
    gain * gamma * (W - m) / sqrt(n * (v + eps)); `gain` is learned, one number an output channel (Brock et al. 2021).
    Each output channel depends on all that is read, so that removing or adding input channels changes all of them.
    """
    value = conv2d(at, x, out, kernel, stride, padding, dilation, groups, bias, end_padding, padding_mode)
    assert isinstance(value, ValueType)
    if gain:
        at.slot("gain", ((value.channels, "along"), (1, "fixed"), (1, "fixed"), (1, "fixed")), ONES)
    if groups < x.shape[0]:
        at.mix(x.channels)
    return value
