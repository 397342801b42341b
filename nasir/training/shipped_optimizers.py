"""The optimizers that ship: those of torch, found by entry points as a third party's are, without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nasir.options.ranges import Positive, Rate
from nasir.registry import optimizers
from nasir.training.optimizers import Betas, Optimizer
from nasir.training.states import StateKind


@optimizers.register("sgd")
@dataclass(frozen=True, kw_only=True)
class Sgd(Optimizer):
    """Stochastic gradient descent, with momentum."""

    factory = "torch.optim:SGD"
    state = {"momentum_buffer": "first"}  # noqa: RUF012

    momentum: Rate = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: it needs a momentum above 0; set `momentum: 0.9` or `nesterov: false`")

    def held(self) -> Mapping[str, StateKind]:
        return self.state if self.momentum else {}


@optimizers.register("adam")
@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Steps by averages of gradients over the root of averages of their squares (Kingma and Ba 2015)."""

    factory = "torch.optim:Adam"
    state = {"exp_avg": "first", "exp_avg_sq": "second", "step": "scalar"}  # noqa: RUF012

    betas: Betas = (0.9, 0.999)
    eps: Positive = 1e-8


@optimizers.register("adamw")
@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam whose weight decay does not go through its averages (Loshchilov and Hutter 2019)."""

    factory = "torch.optim:AdamW"
