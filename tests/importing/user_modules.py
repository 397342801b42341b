"""Modules as users write them: functions on own weights, shared parts, writes in place, several inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Functional(nn.Module):
    """Functions on the module's own parameters, dropout by a function, statistics by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3, 3, 3) * 0.2)
        self.bias = nn.Parameter(torch.randn(6))
        self.gamma = nn.Parameter(torch.rand(6) + 0.5)
        self.beta = nn.Parameter(torch.randn(6))
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("var", torch.ones(6))
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.weight, self.bias, padding=1)
        x = F.batch_norm(x, self.mean, self.var, self.gamma, self.beta, self.training, 0.1)
        if self.training:
            self.steps += 1
        x = F.dropout(F.relu(x, inplace=True), 0.3, training=self.training)
        return x.mean((2, 3))


class Shared(nn.Module):
    """One convolution called twice, one activation under two names, two embeddings that are one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.act = nn.ReLU()
        self.same_act = self.act
        self.head = nn.Linear(3, 4)
        self.out = nn.Linear(3, 4)
        self.out.weight = self.head.weight

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.act(self.conv(x))
        x = self.same_act(self.conv(x)).mean((-2, -1))
        return self.head(x), self.out(x)


class Normalized(nn.Module):
    """Weight normalization of both kinds, and spectral normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3, padding=1))
        self.second = nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 1))
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(F.gelu(self.first(x))).flatten(2).mean(-1))


class InPlace(nn.Module):
    """Writes in place: into tensors, through views and indices, into what others have read before."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.LeakyReLU(inplace=True)
        self.scale = nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        kept = y * 2
        y += 1
        y[:, 0] *= 3
        first, second = y.narrow(1, 0, 2), y.narrow(1, 2, 2)
        first.add_(second)
        y[:, 1] = y[:, 2].clone()
        flat = y.view(y.shape[0], -1)
        flat.mul_(0.5)
        y.transpose(1, 2).sub_(0.1)
        mask = torch.zeros_like(y)
        mask[..., 2:] = 1
        z = (self.act(y * self.scale) * 2).masked_fill_(mask > 0, 0.25)
        z = F.dropout(z, 0.2, self.training, inplace=True)
        return z + kept + flat.view_as(y)


@dataclass
class Answer:
    """What Several returns in one of its outputs."""

    logits: Tensor
    hidden: tuple[Tensor, Tensor]
    note: str = "fine"


class Several(nn.Module):
    """Inputs by position and keyword, one unused; a dict of tensors, a dataclass and a plain number as output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.image = nn.Linear(5, 6)
        self.out = nn.Linear(6, 3)

    def forward(
        self, ids: Tensor, unused: Tensor, *, image: Tensor, mask: Tensor | None = None, scale: float = 1.0
    ) -> dict[str, object]:
        tokens = self.embed(ids) * scale
        if mask is not None:
            tokens = tokens.masked_fill(~mask[..., None], 0.0)
        hidden = tokens.sum(1) + self.image(image)
        return {"answer": Answer(self.out(hidden), (hidden, tokens)), "size": 3, "ids": ids}


class UNet(nn.Module):
    """Two levels down and up, with transposed convolutions, instance norms, and a sum over a pyramid."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = self._block(3, 4)
        self.down2 = self._block(4, 8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.join = self._block(8, 4)
        self.out = nn.Conv2d(4, 2, 1)

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.InstanceNorm2d(outputs, affine=True), nn.PReLU(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        up = self.up(two)
        up = F.interpolate(up, size=one.shape[-2:], mode="nearest")
        return self.out(self.join(torch.cat([one, up], dim=1)))


class Gated(nn.Module):
    """A squeeze-and-excitation block around a depthwise convolution, with a class token and attention on top."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(3, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.squeeze = nn.Conv2d(8, 2, 1)
        self.excite = nn.Conv2d(2, 8, 1)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.attend = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm(self.depthwise(self.expand(x))))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        tokens = (x * gate).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.size(0), -1, -1), tokens], dim=1)
        mixed, _ = self.attend(tokens, tokens, tokens, need_weights=False)
        return mixed[:, 0]


class Doubled(torch.autograd.Function):
    """Twice the input forward, three times the gradient backward."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient * 3


class Custom(nn.Module):
    """An autograd function, a branch without gradient, noise, the batch size in a shape, and a part for train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.side = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        n = x.shape[0]
        with torch.no_grad():
            target = self.inner(x)
        y = Doubled.apply(self.inner(x)) - target
        y = y + torch.rand(n, 1) + torch.arange(2 * n + 1)[-1]
        side = self.side(y) if self.training else None
        return y.reshape(n * 2, 2), side

    def features(self, x: Tensor) -> Tensor:
        """What `call=` records."""
        return self.inner(x).relu()
