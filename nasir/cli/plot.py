"""`nasir plot`: figures of a run. Torch is loaded only for those that read weights."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nasir.cli.opening import open_run
from nasir.errors import UsageError

if TYPE_CHECKING:
    from nasir.figures.plane import Sampling
    from nasir.figures.write import Drawing
    from nasir.journal.directory import RunDirectory

USED = {
    "trajectory": ("grid", "samples", "batch", "average"),
    "surface": ("grid", "span", "samples", "batch", "seed", "epoch", "average"),
}
"""Options that a figure reads; others, the curves of the report, read none."""
GRID = 21


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    parser.add_argument("run_dir", metavar="RUN")
    parser.add_argument(
        "--figure",
        required=True,
        metavar="NAME",
        help="trajectory (of the weights, by principal components), surface (loss around a checkpoint), "
        "or a curve of the report: accuracy, loss, depth, params, macs, lr, ...",
    )
    parser.add_argument("--out", metavar="FILE", help="an .html page or an .svg drawing; numbers go beside it as .csv")
    parser.add_argument(
        "--grid", type=int, help=f"points a side (surface: {GRID}; trajectory: none, and so no contours of the loss)"
    )
    parser.add_argument("--span", type=float, help="surface: reach in filter lengths to either side (default 1)")
    parser.add_argument("--samples", type=int, help="use so many validation images (default: all)")
    parser.add_argument("--batch", type=int, help="batch size (default: data.eval_batch_size of the run)")
    parser.add_argument("--seed", type=int, help="surface: seed of the directions (default 0)")
    parser.add_argument("--epoch", type=int, help="surface: the checkpoint after so many epochs (default: the newest)")
    parser.add_argument(
        "--average", action="store_true", default=None, help="the moving average of the weights (phases with `ema`)"
    )


def run(options: argparse.Namespace) -> int:
    """Draw the figure, write it, and print where it is, or its numbers as JSON."""
    from nasir.figures.write import check_form

    directory = open_run(options.run_dir)
    given = [name for name in USED["surface"] if getattr(options, name) is not None]
    for name in given:
        if name not in USED.get(options.figure, ()):
            fitting = " or ".join(figure for figure, used in USED.items() if name in used)
            raise UsageError(f"--{name} is of --figure {fitting}, not of {options.figure}; leave it out")
    if "grid" not in given and options.figure == "trajectory" and {"samples", "batch"} & {*given}:
        raise UsageError("--samples and --batch say how contours are found; add --grid, or leave them out")
    path = Path(options.out) if options.out else directory.figures / f"{options.figure}.html"
    check_form(path)
    drawing = _drawn(directory, options)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.write(path)
    if options.json:
        print(json.dumps({"wrote": str(path), **drawing.facts}, indent=2, sort_keys=True, allow_nan=False))
    else:
        print(f"wrote {path} and {path.with_suffix('.csv')}")
    return 0


def _drawn(directory: RunDirectory, options: argparse.Namespace) -> Drawing:
    from nasir.figures.write import draw_curves, draw_surface, draw_trajectory

    name = directory.path.resolve().name
    average = bool(options.average)
    if options.figure == "trajectory":
        from nasir.figures.trajectory import trajectory

        contours = None if options.grid is None else _sampling(options)
        return draw_trajectory(name, trajectory(directory, contours, average=average, told=_told()))
    if options.figure == "surface":
        from nasir.figures.surface import surface

        span = 1.0 if options.span is None else options.span
        seed = 0 if options.seed is None else options.seed
        landscape = surface(
            directory, _sampling(options), span=span, seed=seed, epoch=options.epoch, average=average, told=_told()
        )
        return draw_surface(name, landscape)
    return draw_curves(directory, options.figure, name)


def _sampling(options: argparse.Namespace) -> Sampling:
    from nasir.figures.plane import Sampling

    return Sampling(GRID if options.grid is None else options.grid, options.samples, options.batch)


def _told() -> Callable[[int, int], None]:
    """Progress on a terminal."""

    def show(done: int, all_: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done} of {all_} points", end="\n" if done == all_ else "", file=sys.stderr, flush=True)

    return show
