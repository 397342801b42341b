"""How norms become torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasir.backends.torch.lower.ops import Call, Lowered, lowering, stamped
from nasir.ir import JSON, ValueType


class _Uncounted(nn.Module):
    """A batch norm that does not count the batches, and so looks for no count in the state of an older torch."""

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        super()._load_from_state_dict(state, prefix, {**metadata, "version": 2}, *rest)


class UncountedBatchNorm1d(_Uncounted, nn.BatchNorm1d):
    """Batch norm of vectors and sequences, without a counter."""


class UncountedBatchNorm2d(_Uncounted, nn.BatchNorm2d):
    """Batch norm of images, without a counter."""


class UncountedBatchNorm3d(_Uncounted, nn.BatchNorm3d):
    """Batch norm of volumes, without a counter."""


BATCH_NORMS: Mapping[int, tuple[type[nn.Module], type[nn.Module]]] = {
    1: (nn.BatchNorm1d, UncountedBatchNorm1d),
    2: (nn.BatchNorm1d, UncountedBatchNorm1d),
    3: (nn.BatchNorm2d, UncountedBatchNorm2d),
    4: (nn.BatchNorm3d, UncountedBatchNorm3d),
}
"""By the number of axes: with a counter, without one."""


@lowering("batch_norm", spares=True)
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    proto = _batch_norm(len(x[0].shape), a["eps"], a["momentum"], a["counts"], a["affine"], a["statistics"])
    return stamped(proto, num_features=x[0].shape[0])


@cache
def _batch_norm(
    axes: int, eps: float, momentum: float | None, counts: bool, affine: bool, statistics: bool
) -> nn.Module:
    counting, uncounted = BATCH_NORMS[axes]
    kind = counting if counts else uncounted
    module: nn.Module = kind(1, eps=eps, momentum=momentum, affine=affine, track_running_stats=statistics)
    if not counts:
        module._buffers["num_batches_tracked"] = None
    return module


@lowering("instance_norm", spares=True)
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    kind = {2: nn.InstanceNorm1d, 3: nn.InstanceNorm2d, 4: nn.InstanceNorm3d}[len(x[0].shape)]
    return kind(x[0].shape[0], a["eps"], a["momentum"], a["affine"], a["statistics"])


@lowering("group_norm", spares=True)
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return nn.GroupNorm(a["groups"], x[0].shape[0], a["eps"], a["affine"])


@lowering("layer_norm")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return nn.LayerNorm(x[0].shape[-a["axes"] :], a["eps"], a["affine"], a["bias"])


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of images, which come first."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


@lowering("layer_norm2d")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return LayerNorm2d(x[0].shape[0], a["eps"], a["affine"], a["bias"])


@lowering("rms_norm")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return nn.RMSNorm(x[0].shape[-1], a["eps"], a["affine"])


class ResponseNorm(nn.Module):
    """Global response normalization; the channels are axis `channel_dim` of [N, ...]."""

    def __init__(self, channels: int, eps: float, channel_dim: int) -> None:
        super().__init__()
        self.eps, self.channel_dim = eps, channel_dim
        self.places = tuple([axis for axis in (1, 2, 3) if axis != channel_dim])
        self.beside = tuple([-1 if axis == channel_dim else 1 for axis in range(4)])
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        norms = x.norm(p=2, dim=self.places, keepdim=True)
        shares = norms / (norms.mean(dim=self.channel_dim, keepdim=True) + self.eps)
        return x + torch.addcmul(self.bias.view(self.beside), self.weight.view(self.beside), x * shares)


@lowering("response_norm")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return ResponseNorm(x[0].shape[x[0].channel_axis], a["eps"], x[0].channel_dim)


@lowering("local_response_norm")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(F.local_response_norm, (a["size"], a["alpha"], a["beta"], a["k"]))


class FrozenBatchNorm(nn.Module):
    """Batch normalization of images by four buffers that nothing trains."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        for name, start in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), start))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, mean, variance = (
            part.reshape(1, -1, 1, 1) for part in (self.weight, self.bias, self.running_mean, self.running_var)
        )
        scale = weight * (variance + self.eps).rsqrt()
        return x * scale + (bias - mean * scale)


@lowering("frozen_batch_norm")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return FrozenBatchNorm(x[0].shape[0], a["eps"])
