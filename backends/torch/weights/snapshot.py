"""A session's network, optimizer state and averages as they were at one moment, to go back to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.optimizers.named import export_state
from nasir.backends.torch.train.ema import Ema

State = Mapping[str, Mapping[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Modules (shared with the live model, which goes on training them in place) and copies of all that moves.

    `weights` by state_dict name, `optimizer` as `export_state` gives it, `averages` of the weights if there are any,
    which saw so many `updates`.
    """

    model: LoweredModule
    weights: Mapping[str, Tensor]
    optimizer: State
    averages: Mapping[str, Tensor] | None
    updates: int

    @classmethod
    def of(cls, model: LoweredModule, optimizer: torch.optim.Optimizer | None, ema: Ema | None) -> Self:
        """Copies of everything as it is now."""
        state = {} if optimizer is None else export_state(optimizer, model.named_parameters())
        holder = LoweredModule()
        holder.become(model)
        return cls(
            holder,
            _cloned(model.tensors()),
            {name: _cloned(values) for name, values in state.items()},
            None if ema is None else _cloned(ema.tensors),
            0 if ema is None else ema.updates,
        )

    def put_back(self, model: LoweredModule) -> None:
        """Give `model` its former modules, with their former values."""
        model.become(self.model)
        with torch.no_grad():
            for name, tensor in model.tensors().items():
                tensor.copy_(self.weights[name])


def _cloned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}
