"""Loss and accuracy of a network whose weights are moved along given directions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.train.loop import evaluate, wants_channels_last
from nasir.errors import CheckpointError
from nasir.training.plans import TrainPlan

Weights = Mapping[str, NDArray[np.generic]]


def evaluated(
    model: LoweredModule,
    weights: Weights,
    directions: Sequence[Weights],
    points: Iterable[Sequence[float]],
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    plan: TrainPlan,
    told: Callable[[], None] = lambda: None,
) -> list[dict[str, float]]:
    """{"loss": ..., "accuracy": ...} on `batches()` at each point; see `nasir.training.backend.Session.explore`.

    The weights of `model` are overwritten.
    """
    if wants_channels_last(plan, model):
        model.use_channels_last()
    own = model.tensors()
    odd = sorted(own.keys() ^ weights.keys()) or [n for n, t in own.items() if tuple(t.shape) != weights[n].shape]
    if odd:
        raise CheckpointError(
            f"{', '.join(odd[:3])}: weights that are not those of the network; use another checkpoint"
        )
    centre = {name: _like(weights[name], tensor) for name, tensor in own.items()}
    steps = [{name: _like(array, own[name]) for name, array in direction.items()} for direction in directions]
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(centre[name])

    moved = {name: None for step in steps for name in step}
    results = []
    for point in points:
        with torch.no_grad():
            for name in moved:
                value = centre[name].clone()
                for step, distance in zip(steps, point, strict=True):
                    if name in step:
                        value.add_(step[name], alpha=distance)
                own[name].copy_(value)
        results.append(evaluate(model, batches(), plan))
        told()
    return results


def _like(array: NDArray[np.generic], tensor: Tensor) -> Tensor:
    return torch.from_numpy(np.array(array)).to(tensor.device, tensor.dtype)
