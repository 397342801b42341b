"""A plane through the weights of one checkpoint, and the loss on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nasir.errors import UsageError
from nasir.figures.kept import Arrays, Kept
from nasir.files import finite
from nasir.journal.directory import RunDirectory
from nasir.running.engine import setup_of
from nasir.running.modules import module_behind
from nasir.running.replay import reopen
from nasir.training.backend import Backend, make_backend


@dataclass(frozen=True, slots=True)
class Grid:
    """`loss` and `accuracy` (0..1) at [y, x]; NaN where the network gave no finite number."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    loss: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    samples: int | None  # None: all validation images

    def rows(self) -> list[dict[str, float | None]]:
        """Every point, for a table."""
        return [
            {"x": x, "y": y, "loss": finite(self.loss[j, i]), "accuracy": finite(self.accuracy[j, i])}
            for j, y in enumerate(self.y)
            for i, x in enumerate(self.x)
        ]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the loss is found: `grid` points a side, on the first `samples` validation images in batches of `batch`."""

    grid: int
    samples: int | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("grid", self.grid, 2), ("samples", self.samples, 1), ("batch", self.batch, 1)):
            if value is not None and value < least:
                raise UsageError(f"--{name} {value}: too few; give at least {least}")


def open_backend(run: RunDirectory) -> Backend:
    """The backend of a run, its plugins imported."""
    spec, _ = reopen(run)
    return make_backend(spec.backend)


def loss_on(
    run: RunDirectory,
    kept: Kept,
    weights: Arrays,
    directions: tuple[Arrays, Arrays],
    x: Sequence[float],
    y: Sequence[float],
    sampling: Sampling,
    told: Callable[[int, int], None] = lambda done, all_: None,
) -> Grid:
    """Evaluate the network of `kept` at `weights` plus x and y times the directions, on the validation images.

    Running statistics of norms are those of `weights` at every point, and the norms use them (evaluation mode).
    `told` hears of points done and of all. Raises DataError for a run without validation images.
    """
    spec, env = reopen(run)
    setup = setup_of(spec, Path(env["base"]), module_behind(spec, kept.graph))
    if sampling.batch is not None:
        setup = replace(setup, data=replace(setup.data, eval_batch_size=sampling.batch))
    session = make_backend(spec.backend).open(setup)
    points = [(a, b) for b in y for a in x]
    done = iter(range(1, len(points) + 1))
    try:
        measured = session.explore(
            kept.graph, weights, directions, points, sampling.samples, lambda: told(next(done), len(points))
        )
    finally:
        session.close()
    return Grid(
        tuple(x), tuple(y), _table(measured, "loss", len(x)), _table(measured, "accuracy", len(x)), sampling.samples
    )


def _table(measured: Sequence[Mapping[str, float]], name: str, width: int) -> NDArray[np.float64]:
    values = np.array([scores[name] for scores in measured], np.float64).reshape(-1, width)
    values[~np.isfinite(values)] = math.nan
    return values
