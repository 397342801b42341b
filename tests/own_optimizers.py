"""Optimizers as a third party writes them, each one file: what the tests and a spec's `plugins:` import."""

from __future__ import annotations

import tempfile
from pathlib import Path

from nasir.spec.plugins import import_file

FILE = "own.py"  # equal files of equal names are one plugin, wherever they lie


def imported(*codes: str) -> None:
    """Import the files, as a run does."""
    with tempfile.TemporaryDirectory() as folder:
        for code in codes:
            (Path(folder) / FILE).write_text(code)
            import_file(str(Path(folder) / FILE))


RADAM = '''\
"""An optimizer: its options, how torch makes it, and what it keeps for each weight."""

from dataclasses import dataclass

from torch.optim import RAdam as TorchRAdam

from nasir.registry import optimizers
from nasir.training import Betas, Optimizer


@optimizers.register("radam")
@dataclass(frozen=True)
class RAdam(Optimizer):
    """Adam whose first steps are rectified (Liu et al. 2020)."""

    factory = TorchRAdam
    state = {"exp_avg": "first", "exp_avg_sq": "second", "step": "scalar"}

    betas: Betas = (0.9, 0.999)
'''

LION = '''\
"""The sign of an interpolated momentum (Chen et al. 2023), with a count of steps as a plain number."""

from dataclasses import dataclass

import torch

from nasir.registry import optimizers
from nasir.training import Betas, Optimizer


class TorchLion(torch.optim.Optimizer):
    def __init__(self, params, lr, betas):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            first, second = group["betas"]
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                if not state:
                    state.update(seen=0, ema=torch.zeros_like(p))
                state["seen"] += 1
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * (state["ema"] * first + p.grad * (1 - first)).sign())
                state["ema"].lerp_(p.grad, 1 - second)


@optimizers.register("lion")
@dataclass(frozen=True)
class Lion(Optimizer):
    """Steps by the sign of the momentum."""

    factory = TorchLion
    state = {"ema": "first", "seen": "number"}

    betas: Betas = (0.9, 0.99)
'''

ADAFACTOR = '''\
"""torch's Adafactor, which keeps the second moments of a matrix as those of its rows and columns."""

from dataclasses import dataclass

from torch.optim import Adafactor as TorchAdafactor

from nasir.registry import optimizers
from nasir.training import Optimizer


@optimizers.register("adafactor")
@dataclass(frozen=True)
class Adafactor(Optimizer):
    """Steps by factored second moments (Shazeer and Stern 2018)."""

    factory = TorchAdafactor
    state = {"row_var": "factored", "col_var": "factored", "variance": "second", "step": "scalar"}
'''

FORGETFUL = LION.replace('"lion"', '"forgetful"').replace('{"ema": "first", "seen": "number"}', '{"seen": "number"}')
