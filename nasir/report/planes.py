"""A plane as inline SVG: contours of a height, and a way through it. Colours are those of the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from nasir.report.plots import nice_ticks, text

__all__ = ["Field", "Plane", "contour_levels", "render_plane"]

WIDTH, HEIGHT = 560.0, 440.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 16.0, 40.0, 46.0
LEVELS = 12
SHADE = 0.5  # opacity of the highest cell


@dataclass(frozen=True, slots=True)
class Field:
    """`values[j][i]` at x[i], y[j], both rising; NaN where there is none."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    values: Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class Plane:
    """`way`: (x, y, what it is) in order. `events`: what happened there, marked by triangles."""

    title: str
    x_name: str
    y_name: str
    field: Field | None = None
    way: tuple[tuple[float, float, str], ...] = ()
    events: tuple[tuple[float, float, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Frame:
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - TOP - BOTTOM)


def render_plane(plane: Plane) -> str:
    """The plane as one `<svg>` element, readable by screen readers through its title."""
    frame = _frame(plane)
    body = [
        *(_shades(plane.field, frame) if plane.field else ()),
        *_axes(plane, frame),
        *(_contours(plane.field, frame) if plane.field else ()),
        *_way(plane, frame),
        *_legend(plane),
    ]
    return (
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" '
        f'aria-label="{escape(plane.title)}">{"".join(body)}</svg>'
    )


def contour_levels(values: Sequence[Sequence[float]], count: int = LEVELS) -> tuple[float, ...]:
    """Up to `count` heights between the lowest and the highest value, evenly spread on a log scale where all are > 0
    and far apart (factor 10), else evenly; none where all values are equal."""
    known = [value for row in values for value in row if math.isfinite(value)]
    if not known or min(known) == max(known):
        return ()
    low, high = min(known), max(known)
    shares = [(number + 1) / (count + 1) for number in range(count)]
    if low > 0 and high / low > 10:
        return tuple(low * (high / low) ** share for share in shares)
    return tuple(low + (high - low) * share for share in shares)


def _frame(plane: Plane) -> _Frame:
    xs = [x for x, _, _ in (*plane.way, *plane.events)] + list(plane.field.x if plane.field else ())
    ys = [y for _, y, _ in (*plane.way, *plane.events)] + list(plane.field.y if plane.field else ())
    ends = []
    for values in (xs or [0.0], ys or [0.0]):
        low, high = min(values), max(values)
        room = 0.0 if plane.field else 0.05 * (high - low)
        ends += [low - room, high + room] if high > low else [low - 1.0, high + 1.0]
    return _Frame(*ends)


def _axes(plane: Plane, frame: _Frame) -> Iterator[str]:
    base = HEIGHT - BOTTOM
    for tick in nice_ticks(frame.x_low, frame.x_high, 6):
        if frame.x_low <= tick <= frame.x_high:
            x = frame.x(tick)
            yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base:g}" y2="{base + 4:g}"/>'
            yield text(x, base + 17, f"{tick:g}", "tick middle")
    for tick in nice_ticks(frame.y_low, frame.y_high, 6):
        if frame.y_low <= tick <= frame.y_high:
            y = frame.y(tick)
            yield f'<line class="axis" x1="{LEFT - 4:g}" x2="{LEFT:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield text(LEFT - 8, y + 4, f"{tick:g}", "tick end")
    yield f'<path class="axis" fill="none" d="M{LEFT:g} {TOP:g}V{base:g}H{WIDTH - RIGHT:g}"/>'
    yield text(WIDTH - RIGHT, HEIGHT - 8, plane.x_name, "tick end")
    yield text(8, TOP - 8, plane.y_name, "tick")


def _shades(field: Field, frame: _Frame) -> Iterator[str]:
    """A cell around each point, the darker the higher; points without a value stay empty and are hatched by a cross."""
    levels = contour_levels(field.values)
    x_edges, y_edges = _edges(field.x), _edges(field.y)
    for j, row in enumerate(field.values):
        for i, value in enumerate(row):
            left, right = frame.x(max(x_edges[i], frame.x_low)), frame.x(min(x_edges[i + 1], frame.x_high))
            low, high = frame.y(max(y_edges[j], frame.y_low)), frame.y(min(y_edges[j + 1], frame.y_high))
            if not math.isfinite(value):
                yield f'<path class="axis" d="M{left:.1f} {low:.1f}L{right:.1f} {high:.1f}"/>'
                continue
            share = sum(level <= value for level in levels) / max(len(levels), 1)
            place = f'x="{left:.1f}" y="{high:.1f}" width="{right - left:.2f}" height="{low - high:.2f}"'
            yield (
                f'<rect class="height" {place} fill-opacity="{SHADE * share:.3f}">'
                f"<title>{escape(field.name)} {value:.4g} at {field.x[i]:.3g}, {field.y[j]:.3g}</title></rect>"
            )


def _edges(places: Sequence[float]) -> list[float]:
    middles = [(a + b) / 2 for a, b in pairwise(places)]
    return [places[0], *middles, places[-1]]


def _contours(field: Field, frame: _Frame) -> Iterator[str]:
    for level in contour_levels(field.values):
        path = "".join(
            f"M{frame.x(a[0]):.1f} {frame.y(a[1]):.1f}L{frame.x(b[0]):.1f} {frame.y(b[1]):.1f}"
            for a, b in _segments(field, level)
        )
        if path:
            yield f'<path class="contour" d="{path}"><title>{escape(field.name)} {level:.4g}</title></path>'


def _segments(field: Field, level: float) -> Iterator[tuple[tuple[float, float], tuple[float, float]]]:
    """Marching squares: the pieces of one contour, cell by cell; cells with a corner that has no value are left out."""
    for j in range(len(field.y) - 1):
        for i in range(len(field.x) - 1):
            corners = [(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)]
            heights = [field.values[b][a] for a, b in corners]
            if not all(map(math.isfinite, heights)):
                continue
            crossings = []
            for side in range(4):
                (a, b), (c, d) = corners[side], corners[(side + 1) % 4]
                first, second = heights[side], heights[(side + 1) % 4]
                if (first < level) != (second < level):
                    t = (level - first) / (second - first)
                    x = field.x[a] + t * (field.x[c] - field.x[a])
                    crossings.append((x, field.y[b] + t * (field.y[d] - field.y[b])))
            if len(crossings) == 4 and (sum(heights) / 4 < level) != (heights[0] < level):
                crossings = crossings[1:] + crossings[:1]  # a saddle: its middle parts the first corner from the third
            yield from zip(crossings[::2], crossings[1::2], strict=True)


def _way(plane: Plane, frame: _Frame) -> Iterator[str]:
    if len(plane.way) > 1:
        path = "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y, _ in plane.way)
        yield f'<path class="line c0" d="M{path}"/>'
    for number, (x, y, what) in enumerate(plane.way):
        size = 4.5 if number in (0, len(plane.way) - 1) else 2.2
        yield (
            f'<circle class="stop" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="{size}">'
            f"<title>{escape(what)}</title></circle>"
        )
    for x, y, what in plane.events:
        a, b = frame.x(x), frame.y(y)
        yield (
            f'<g class="rewrite"><path d="M{a - 5:.1f} {b + 11:.1f}L{a:.1f} {b + 3:.1f}L{a + 5:.1f} {b + 11:.1f}Z">'
            f"<title>{escape(what)}</title></path></g>"
        )
    if len(plane.way) > 1:
        for (x, y, _), word, up in ((plane.way[0], "start", 8), (plane.way[-1], "end", 8)):
            left = frame.x(x) > WIDTH - RIGHT - 40
            yield text(frame.x(x) + (-8 if left else 8), frame.y(y) - up, word, "legend end" if left else "legend")


def _legend(plane: Plane) -> Iterator[str]:
    x = WIDTH - RIGHT
    if plane.events:
        yield text(x, TOP - 22, "rewrite", "legend end")
        yield f'<g class="rewrite"><path d="M{x - 58:.1f} {TOP - 22:g}l3.5 -7l3.5 7Z"/></g>'
        x -= 76
    if plane.field:
        known = [value for row in plane.field.values for value in row if math.isfinite(value)]
        if known:
            words = f"{plane.field.name} {min(known):.3g} (light) to {max(known):.3g} (dark)"
            yield text(x, TOP - 22, words, "legend end")
