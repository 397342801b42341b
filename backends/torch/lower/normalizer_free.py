"""How ops of networks without norms become torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasir.backends.torch.lower.ops import Lowered, lowering
from nasir.backends.torch.lower.windows import widths
from nasir.ir import JSON, ValueType, per_axis


class Affine(nn.Module):
    """x * weight + bias; the channels are axis `channel_dim` of x."""

    def __init__(self, channels: int, channel_dim: int, dims: int) -> None:
        super().__init__()
        self.beside = tuple([-1 if axis == channel_dim else 1 for axis in range(dims)])
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias.view(self.beside), x, self.weight.view(self.beside))


@lowering("affine", spares=True)
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Affine(x[0].shape[x[0].channel_axis], x[0].channel_dim, x[0].dim(len(x[0].axes)))


class ScalarBias(nn.Module):
    """Sum with one learnable number."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.empty(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


@lowering("scalar_bias", spares=True)
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return ScalarBias()


class StandardizedConv2d(nn.Conv2d):
    """A convolution by gain * gamma * (W - mean) / sqrt(fan in * (variance + eps)), for each output channel.

    `gain`: [out, 1, 1, 1], or None. `widths`, `mode`: how the input is padded first, as F.pad takes it; none where the
    convolution does it.
    """

    gain: nn.Parameter | None
    widths: tuple[int, ...] = ()
    mode: str = "constant"

    def __init__(self, *sizes: Any, gamma: float, eps: float, gain: bool, **window: Any) -> None:
        super().__init__(*sizes, **window)
        self.gamma, self.eps = gamma, eps
        self.register_parameter("gain", nn.Parameter(torch.ones(self.out_channels, 1, 1, 1)) if gain else None)

    def standardized(self) -> Tensor:
        """The kernel that it convolves by."""
        rows = self.weight.reshape(1, self.out_channels, -1)
        scale = self.gamma * rows.shape[2] ** -0.5
        gain = None if self.gain is None else (self.gain * scale).view(-1)
        # as a batch norm of one sample whose channels are the outputs: one kernel, forward and backward
        kernel = torch.batch_norm(rows, gain, None, None, None, True, 0.0, self.eps, False)
        return (kernel if gain is not None else kernel * scale).reshape(self.weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of the input by the standardized kernel."""
        if self.widths:
            x = F.pad(x, self.widths, self.mode)
        convolved: Tensor = self._conv_forward(x, self.standardized(), self.bias)
        return convolved


@lowering("ws_conv2d", spares=True)
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    before, more = (per_axis(a[name], 2) for name in ("padding", "end_padding"))
    plain = a["padding_mode"] == "zeros"
    window: dict[str, Any] = {name: per_axis(a[name], 2) for name in ("stride", "dilation")}
    window |= {"padding": before if plain else 0, "groups": a["groups"], "bias": a["bias"]}
    given = {name: a[name] for name in ("gamma", "eps", "gain")}
    module = StandardizedConv2d(x[0].shape[0], a["out"], per_axis(a["kernel"], 2), **given, **window)
    outside = (0, 0) if plain else before
    if any(outside) or any(more):
        module.widths = widths(outside, tuple(map(sum, zip(outside, more, strict=True))))
        module.mode = "constant" if plain else a["padding_mode"]
    return module
