"""How ops on tokens become torch; tensors are [N, T, C]."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasir.backends.torch.lower.ops import Call, Lowered, lowering
from nasir.ir import JSON, ValueType


def image_tokens(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, H * W, C]."""
    return x.flatten(2).transpose(1, 2)


@lowering("tokens")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(image_tokens)


@lowering("embedding")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return nn.Embedding(a["count"], a["out"], padding_idx=a["padding"])


class ClassToken(nn.Module):
    """One learnable token, put before the others."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.weight.to(x.dtype).expand(x.shape[0], -1, -1), x), dim=1)


@lowering("class_token")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return ClassToken(out.shape[1])


class PositionEmbedding(nn.Module):
    """Sum with one learnable vector a place."""

    def __init__(self, count: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, count, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


@lowering("position_embedding")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return PositionEmbedding(*out.shape)


def attend(x: Tensor, heads: int, head_dim: int, scale: float, dropout: float = 0.0) -> Tensor:
    """Attention within each of `heads` heads of x = [q, k, v] along the channels; [N, T, heads * channels of v]."""
    count, tokens, channels = x.shape
    matched = heads * head_dim
    parts = torch.split(x, [matched, matched, channels - 2 * matched], dim=2)
    q, k, v = (part.reshape(count, tokens, heads, -1).transpose(1, 2) for part in parts)
    y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scale)
    return y.transpose(1, 2).reshape(count, tokens, -1)


class DropoutAttention(nn.Module):
    """`attend` with dropout of the softmax while training."""

    def __init__(self, heads: int, head_dim: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.heads, self.head_dim, self.scale, self.dropout = heads, head_dim, scale, dropout

    def forward(self, x: Tensor) -> Tensor:
        return attend(x, self.heads, self.head_dim, self.scale, self.dropout if self.training else 0.0)


@lowering("self_attention")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    plain = (a["heads"], a["head_dim"], a["scale"])
    return DropoutAttention(*plain, a["dropout"]) if a["dropout"] else Call(attend, plain)


def one_token(x: Tensor, index: int) -> Tensor:
    """[N, T, C] -> [N, C]."""
    return x[:, index]


@lowering("select_token")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(one_token, (a["index"],))


@lowering("mean_tokens")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Call(torch.mean, (1,))
