"""The way of the weights while a network grows: principal components of its checkpoints.

As in AutoGrow (its appendix on optimization trajectories), which extends Li et al. (NeurIPS 2018): a weight that is not
there yet, or no more, counts as zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nasir.errors import UsageError
from nasir.figures.kept import Arrays, Kept, kept_checkpoints
from nasir.figures.plane import Grid, Sampling, loss_on, open_backend
from nasir.journal.directory import RunDirectory
from nasir.training.backend import Backend

FEWEST = 3  # points that need two axes
MEMORY = 1 << 26  # entries of all checkpoints at a time
MARGIN = 0.15  # of the way's extent, around it
Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Point:
    """A checkpoint in the plane; the last one is at (0, 0). `epoch`: epochs done, `blocks` in all stages."""

    epoch: int
    phase: str
    x: float
    y: float
    blocks: int


@dataclass(frozen=True, slots=True)
class Growth:
    """A rewrite, at the first checkpoint after it."""

    epoch: int
    text: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Trajectory:
    """`explained`: shares of the variance (0..1) along the two axes; `weights`: numbers that had to be told apart."""

    points: tuple[Point, ...]
    growths: tuple[Growth, ...]
    explained: tuple[float, float]
    weights: int
    grid: Grid | None = None


def trajectory(
    run: RunDirectory,
    contours: Sampling | None = None,
    *,
    average: bool = False,
    told: Callable[[int, int], None] = lambda done, all_: None,
) -> Trajectory:
    """The checkpoints in the plane of their first two principal components; `contours`: with the validation loss there.

    The plane is that of the learned weights, through the last checkpoint; running statistics take no part. Contours are
    those of the last network, with its statistics: what lies off the plane, or belongs to weights that are gone, is not
    in them. UsageError for a run that kept too few checkpoints.
    """
    backend = open_backend(run)  # first: a plugin may have the network's ops
    kept = kept_checkpoints(run)
    if len(kept) < FEWEST:
        raise UsageError(
            f"{run.path}: a trajectory needs at least {FEWEST} checkpoints, and this run kept {len(kept)}; train with "
            "`checkpoint: {every: 1, keep: 1000}` (--set checkpoint.every=1 --set checkpoint.keep=1000)"
        )
    size = kept[-1].numbers.count
    scores, explained, mix = _components(_products(kept, backend, average, size))
    points = tuple(
        Point(checkpoint.epoch, checkpoint.phase, float(x), float(y), sum(checkpoint.graph.depths().values()))
        for checkpoint, (x, y) in zip(kept, scores, strict=True)
    )
    bare = Trajectory(points, tuple(_growths(kept, points)), explained, size)
    if contours is None:
        return bare
    last = kept[-1].read(backend, average)
    axes = _axes(kept, backend, average, mix)
    x, y = (_ticks(scores[:, axis], contours.grid) for axis in (0, 1))
    grid = loss_on(run, kept[-1], last, axes, x, y, contours, told)
    return replace(bare, grid=grid)


def _vectors(kept: Sequence[Kept], backend: Backend, average: bool, start: int, stop: int) -> Vector:
    """The entries number start <= n < stop of every checkpoint, zero where it has none: [checkpoint, entry]."""
    vectors = np.zeros((len(kept), stop - start))
    for row, checkpoint in zip(vectors, kept, strict=True):
        weights = checkpoint.read(backend, average)
        for name, key in checkpoint.names().items():
            numbers = checkpoint.numbers.of[key]
            inside = (numbers >= start) & (numbers < stop)
            row[numbers[inside] - start] = weights[name][inside]
    return vectors


def _products(kept: Sequence[Kept], backend: Backend, average: bool, size: int) -> Vector:
    """Inner products of the centred checkpoints: [checkpoint, checkpoint]."""
    total = np.zeros((len(kept), len(kept)))
    step = max(1, MEMORY // len(kept))
    for start in range(0, size, step):
        part = _vectors(kept, backend, average, start, min(start + step, size))
        part -= part.mean(0)
        total += part @ part.T
    return total


def _components(products: Vector) -> tuple[Vector, tuple[float, float], Vector]:
    """(place of each checkpoint from the last one, shares of variance, what each checkpoint adds to either axis)."""
    values, vectors = np.linalg.eigh(products)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    if values[0] <= 0:
        raise UsageError("the weights are the same in all checkpoints; there is no way to draw")
    lengths = np.sqrt(values[:2])
    pair = vectors[:, :2] * np.where(vectors[np.abs(vectors[:, :2]).argmax(0), (0, 1)] < 0, -1.0, 1.0)
    scores = pair * lengths
    mix = np.divide(pair, lengths, out=np.zeros_like(pair), where=lengths > 1e-12 * lengths[0])
    shares = values / values.sum()
    return scores - scores[-1], (float(shares[0]), float(shares[1])), mix


def _axes(kept: Sequence[Kept], backend: Backend, average: bool, mix: Vector) -> tuple[Arrays, Arrays]:
    """Unit vectors of the plane, as far as the last network has their entries."""
    last = kept[-1]
    axes = [{name: np.zeros(last.numbers.of[key].shape) for name, key in last.names().items()} for _ in range(2)]
    values = np.zeros(last.numbers.count)
    for checkpoint, amounts in zip(kept, mix, strict=True):
        weights = checkpoint.read(backend, average)
        values[:] = 0.0
        for name, key in checkpoint.names().items():
            values[checkpoint.numbers.of[key]] = weights[name]
        for axis, amount in zip(axes, amounts, strict=True):
            for name, key in last.names().items():
                axis[name] += amount * values[last.numbers.of[key]]
    return axes[0], axes[1]


def _growths(kept: Sequence[Kept], points: Sequence[Point]) -> list[Growth]:
    return [
        Growth(record.epoch, f"after epoch {record.epoch}: {record.pass_name} at {record.site}", point.x, point.y)
        for checkpoint, point in zip(kept, points, strict=True)
        for record in checkpoint.rewrites
    ]


def _ticks(values: Vector, count: int) -> list[float]:
    low, high = float(values.min()), float(values.max())
    room = MARGIN * ((high - low) or 1.0)
    ticks: list[float] = np.linspace(low - room, high + room, count).tolist()
    return ticks
