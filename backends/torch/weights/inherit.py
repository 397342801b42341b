"""Weights of another run's checkpoint, as the start of a network."""

from __future__ import annotations

import torch

from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.weights import checkpoint
from nasir.errors import CheckpointError, DataError
from nasir.training.backend import Start


def take_over(model: LoweredModule, start: Start) -> None:
    """Copy the weights that `start` names into `model`, all but those of renewed classifiers.

    Raises CheckpointError for a damaged checkpoint, DataError where it holds no such weights or those of another
    network.
    """
    parent = checkpoint.load(start.path)
    group = "ema" if start.average else "model"
    if group not in parent.tensors:
        raise DataError(f"{start.path}: the run kept no moving average; use `weights: last`")
    stored, own = parent.tensors[group], model.tensors(hidden=group == "model")
    fresh = {name for name in own if name.rpartition(".")[0] in start.renewed}
    odd = [name for name in own if name not in fresh and (name not in stored or stored[name].shape != own[name].shape)]
    if odd or len(stored) != len(own):
        names = ", ".join(odd[:3]) or "further weights"
        raise CheckpointError(f"{start.path}: {names} do not fit the network of that run; restore it from a copy")
    with torch.no_grad():
        for name in own.keys() - fresh:
            own[name].copy_(stored[name])
