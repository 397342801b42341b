"""Figures as files: a page that works offline or one SVG drawing, and the numbers as CSV or JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from nasir.counted import counted
from nasir.errors import UsageError
from nasir.figures.plane import Grid
from nasir.figures.surface import Surface
from nasir.figures.trajectory import Trajectory
from nasir.files import finite, write_atomically
from nasir.journal.directory import RunDirectory
from nasir.report.history import charts
from nasir.report.html import figures, readout
from nasir.report.page import STYLE, page
from nasir.report.planes import Field, Plane, render_plane
from nasir.report.plots import Chart, render

FORMS = (".html", ".svg")
NARROW = ".charts figure{max-width:760px}"


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure ready to be written. `svgs`: (caption, drawing); `rows`: its numbers as a table; `facts`: as JSON."""

    title: str
    note: str
    svgs: tuple[tuple[str, str], ...]
    rows: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any]
    charts: tuple[Chart, ...] = ()

    def write(self, path: Path) -> None:
        """As a page (.html) or as one drawing (.svg), and the numbers beside it as .csv."""
        check_form(path)
        write_atomically(path, (self._svg() if path.suffix == ".svg" else self._page()).encode("utf-8"))
        write_atomically(path.with_suffix(".csv"), self.csv().encode("utf-8"))

    def csv(self) -> str:
        """The numbers with a line of names."""
        text = io.StringIO()
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def _page(self) -> str:
        drawn = "".join(f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>" for name, svg in self.svgs)
        shown = figures(self.charts) if self.charts else f'<div class="charts">{drawn}</div>'
        body = f'<header><h1>{escape(self.title)}</h1><p class="sub">{escape(self.note)}</p></header><br>{shown}'
        return page(self.title, body, {chart.key: readout(chart) for chart in self.charts}, NARROW)

    def _svg(self) -> str:
        """The first drawing by itself, with its colours."""
        namespace = ' xmlns="http://www.w3.org/2000/svg"'
        head, _, rest = self.svgs[0][1].replace(namespace, "").partition(">")
        head = head.replace("<svg", f"<svg{namespace}", 1)
        return f"{head}><style>{escape(STYLE)}svg{{font-family:sans-serif}}</style>{rest}\n"


def check_form(path: Path) -> None:
    """UsageError for a file of a form that there is not."""
    if path.suffix not in FORMS:
        raise UsageError(f"{path}: a figure is written as a page (.html) or a drawing (.svg); name such a file")


def draw_trajectory(name: str, track: Trajectory) -> Drawing:
    """The way of the weights, with the loss around it where that was computed."""
    first, second = (
        f"component {n}: {100 * share:.1f} % of the variance" for n, share in enumerate(track.explained, 1)
    )
    field = None if track.grid is None else _field("validation loss", track.grid, track.grid.loss.tolist())
    way = tuple((p.x, p.y, f"after epoch {p.epoch} ({p.phase}), {counted(p.blocks, 'block')}") for p in track.points)
    events = tuple((growth.x, growth.y, growth.text) for growth in track.growths)
    plane = Plane(f"{name}: trajectory", first, second, field, way, events)
    note = (
        f"{len(track.points)} checkpoints of {track.weights:,} weights in the plane of their first two principal "
        "components; a weight that is not there yet, or no more, counts as zero."
    )
    if track.grid is not None:
        note += " Contours: the last network, moved in this plane, with its own batch-norm statistics."
    rows = [
        {
            "epoch": p.epoch,
            "phase": p.phase,
            "x": p.x,
            "y": p.y,
            "blocks": p.blocks,
            "rewrites": sum(g.x == p.x and g.y == p.y for g in track.growths),
        }
        for p in track.points
    ]
    facts = {
        "explained": list(track.explained),
        "weights": track.weights,
        "points": rows,
        "rewrites": [{"epoch": g.epoch, "text": g.text, "x": g.x, "y": g.y} for g in track.growths],
        "surface": None if track.grid is None else track.grid.rows(),
    }
    return Drawing(plane.title, note, (("Optimization trajectory", render_plane(plane)),), rows, facts)


def draw_surface(name: str, surface: Surface) -> Drawing:
    """Loss and accuracy around a checkpoint."""
    grid = surface.grid
    svgs = tuple(
        (caption, render_plane(Plane(f"{name}: {caption}", "direction 1", "direction 2", _field(what, grid, values))))
        for caption, what, values in (
            ("Validation loss", "loss", grid.loss.tolist()),
            ("Validation accuracy", "accuracy", grid.accuracy.tolist()),
        )
    )
    images = "all validation images" if grid.samples is None else f"the first {grid.samples} validation images"
    note = (
        f"Around the checkpoint after epoch {surface.epoch}, on {images}, along two random directions "
        f"(seed {surface.seed}) normalized by filter; biases, scales, shifts and running statistics of norms stay as "
        "they are."
    )
    facts = {"epoch": surface.epoch, "seed": surface.seed, "samples": grid.samples, "points": grid.rows()}
    return Drawing(f"{name}: loss surface", note, svgs, grid.rows(), facts)


def draw_curves(run: RunDirectory, key: str, name: str) -> Drawing:
    """One chart of the report; UsageError names those that the run has."""
    available = {chart.key: chart for chart in charts(run.effective())}
    if key not in available:
        raise UsageError(
            f"{run.path}: the run has no figure {key!r}; it has {', '.join(['trajectory', 'surface', *available])}"
        )
    chart = available[key]
    rows = [{"series": line.name, "epoch": x, "value": finite(y)} for line in chart.series for x, y in line.points]
    series = [{"name": line.name, "points": [[x, finite(y)] for x, y in line.points]} for line in chart.series]
    return Drawing(f"{name}: {chart.title}", "", ((chart.title, render(chart)),), rows, {"series": series}, (chart,))


def _field(name: str, grid: Grid, values: Sequence[Sequence[float]]) -> Field:
    return Field(name, grid.x, grid.y, values)
