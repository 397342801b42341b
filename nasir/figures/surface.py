"""The loss around a checkpoint along two random directions, normalized by filter.

Li, Xu, Taylor, Studer, Goldstein: Visualizing the Loss Landscape of Neural Nets (NeurIPS 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nasir.errors import UsageError
from nasir.figures.kept import Arrays, Kept, checkpoint_after
from nasir.figures.plane import Grid, Sampling, loss_on, open_backend
from nasir.journal.directory import RunDirectory
from nasir.transfer import random_stream


@dataclass(frozen=True, slots=True)
class Surface:
    """`epoch`: epochs done at the centre."""

    epoch: int
    seed: int
    grid: Grid


def surface(
    run: RunDirectory,
    sampling: Sampling,
    *,
    span: float = 1.0,
    seed: int = 0,
    epoch: int | None = None,
    average: bool = False,
    told: Callable[[int, int], None] = lambda done, all_: None,
) -> Surface:
    """Loss and accuracy on the validation images, from -span to span along both directions around a checkpoint.

    At distance 1 every filter has moved as far as it is long. The directions depend on `seed` and the weights alone.
    `epoch`: the checkpoint after so many epochs (None: the newest); `average`: the moving average of its weights.
    """
    if not 0 < span < float("inf"):
        raise UsageError(f"--span {span}: give a positive number, such as 1")
    if seed < 0:
        raise UsageError(f"--seed {seed}: give a whole number, 0 or more")
    backend = open_backend(run)  # first: a plugin may have the network's ops
    kept = checkpoint_after(run, epoch)
    weights = kept.read(backend, average)
    axis = np.linspace(-span, span, sampling.grid)
    if sampling.grid % 2:
        axis[sampling.grid // 2] = 0.0
    steps = axis.tolist()
    pair = (direction(kept, weights, seed, 1), direction(kept, weights, seed, 2))
    return Surface(kept.epoch, seed, loss_on(run, kept, weights, pair, steps, steps, sampling, told))


def direction(kept: Kept, weights: Arrays, seed: int, number: int) -> Arrays:
    """A Gaussian direction whose every filter is as long as that of the weights; none for biases, scales and shifts.

    A filter is what makes one output: a row of a weight array with two axes or more.
    """
    arrays = {}
    for key in kept.numbers.of:
        name = kept.name(key)
        own = np.asarray(weights[name], np.float64)
        if own.ndim < 2:
            continue
        drawn = random_stream(seed, number, key.node, key.slot, "surface").standard_normal(own.shape)
        axes = tuple(range(1, own.ndim))
        lengths = np.sqrt((drawn**2).sum(axes, keepdims=True))
        arrays[name] = drawn / lengths * np.sqrt((own**2).sum(axes, keepdims=True))
    return arrays
