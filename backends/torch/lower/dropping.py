"""How ops that leave something out while training become torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nasir.backends.torch.lower.ops import Lowered, lowering
from nasir.ir import JSON, ValueType


@lowering("dropout")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return nn.Dropout(a["p"])


@lowering("identity")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return nn.Identity()


@lowering("channel_dropout")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return {2: nn.Dropout1d, 3: nn.Dropout2d, 4: nn.Dropout3d}[len(x[0].shape)](a["p"])


class StochasticDepth(nn.Module):
    """While training, all of a sample (`row`), or of the batch, is dropped, or divided by 1 - p.

    Not divided without `rescale`. `rounds`: the noise is a uniform number rounded down, as in transformers.
    """

    def __init__(self, p: float, mode: str, rescale: bool = True, rounds: bool = False) -> None:
        super().__init__()
        self.p, self.mode, self.rescale, self.rounds = p, mode, rescale, rounds

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        kept = 1.0 - self.p
        size = [x.shape[0] if self.mode == "row" else 1] + [1] * (x.dim() - 1)
        if self.rounds:
            return x.div(kept) * (kept + torch.rand(size, dtype=x.dtype, device=x.device)).floor_()
        noise = torch.empty(size, dtype=x.dtype, device=x.device).bernoulli_(kept)
        return x * (noise.div_(kept) if self.rescale and kept > 0.0 else noise)


@lowering("stochastic_depth")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return StochasticDepth(a["p"], a["mode"], a["rescale"], a["noise"] == "uniform")
