"""Line and step charts as inline SVG: no script, no font, no colour of their own (the page's style sheet has those)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

__all__ = ["Chart", "Mark", "Series", "log_ticks", "nice_ticks", "quantity", "render", "text"]

WIDTH, HEIGHT = 560.0, 290.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 14.0, 40.0, 38.0  # room for the axes and the legend
LETTER, ROW, ROWS, LONGEST = 7.4, 18.0, 5, 58  # of the legend: width of a letter, height and number of rows, letters
SPREAD, SPREADS = 3.0, 18.0  # pixels between equal step lines, so that each stays visible, and between all of them
COLOURS = 6  # classes c0..c5; dashes tell further series, and colour-blind readers, apart


LARGEST = 1e30  # what is beyond it has diverged, and no axis needs to reach there


@dataclass(frozen=True, slots=True)
class Series:
    """One line. Points that are not finite, or beyond LARGEST, leave a gap."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at an x: a rewrite (thin line and a triangle) or a phase (dashed line and its name)."""

    x: float
    kind: Literal["rewrite", "phase"]
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart by epochs, or by `x`. `step` draws each value back to the x before it: what held during that epoch."""

    key: str
    title: str
    series: tuple[Series, ...]
    marks: tuple[Mark, ...] = ()
    unit: Literal["percent", "number", "count"] = "number"
    step: bool = False
    x: str = "epoch"

    @property
    def values(self) -> list[float]:
        return [y for line in self.series for _, y in line.points if abs(y) < LARGEST]


def quantity(value: float) -> str:
    """A number as people say it: 12, 3.4 k, 272 k, 1.82 M, 41 G."""
    for size, suffix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}" if abs(value) < 1000 * size else f"{value / size:,.0f}{suffix}"
    return f"{value:.3g}" if isinstance(value, float) and not value.is_integer() else f"{value:.0f}"


def nice_ticks(low: float, high: float, count: int = 5, whole: bool = False) -> tuple[float, ...]:
    """About `count` round numbers (steps of 1, 2, 2.5 or 5 times a power of ten) whose ends enclose low..high."""
    if not low < high:
        low, high = low - (abs(low) * 0.1 or 1.0), high + (abs(high) * 0.1 or 1.0)
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= rough * 0.999)
    if whole:
        step = max(1.0, float(math.ceil(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(index * step, 12) for index in range(first, last + 1))


def log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Round numbers, evenly spread on a log scale, whose ends enclose 0 < low <= high."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [m * 10.0**p for p in decades for m in ((1, 2, 5) if len(decades) < 4 else (1,))]
    first = max(index for index, tick in enumerate(every) if tick <= low * 1.0001)
    last = min(index for index, tick in enumerate(every) if tick >= high * 0.9999)
    return tuple(every[first : last + 1])


@dataclass(frozen=True, slots=True)
class _Entry:
    """A name in the legend. `sign`: the class of the line before it, or "rewrite" for a triangle, or "" for none."""

    name: str
    sign: str

    @property
    def shown(self) -> str:
        """The name, without its middle where it is longer than a row."""
        return self.name if len(self.name) <= LONGEST else f"{self.name[: LONGEST // 2]}…{self.name[-LONGEST // 2 :]}"

    @property
    def indent(self) -> float:
        return {"rewrite": 13.0, "": 0.0}.get(self.sign, 26.0)

    @property
    def width(self) -> float:
        return self.indent + 16.0 + LETTER * len(self.shown)


@dataclass(frozen=True, slots=True)
class _Frame:
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    log: bool

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = (math.log(self.y_low), math.log(self.y_high)) if self.log else (self.y_low, self.y_high)
        share = ((math.log(value) if self.log else value) - low) / (high - low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def render(chart: Chart) -> str:
    """The chart as one `<svg>` element, readable by screen readers through its title."""
    values = chart.values
    log = chart.unit == "number" and bool(values) and min(values) > 1 / LARGEST and max(values) / min(values) > 40
    if log:
        ticks = log_ticks(min(values), max(values))
    elif chart.unit == "percent":
        ticks = nice_ticks(min(values, default=0.0) * 100, max(values, default=1.0) * 100)
        ticks = tuple(tick / 100 for tick in ticks if -1e-9 <= tick <= 100 + 1e-9)
        ticks = ticks if len(ticks) > 1 else (0.0, 1.0)
    else:
        ticks = nice_ticks(min([0.0, *values]), max(values, default=1.0), whole=chart.unit == "count")
    x_ticks = nice_ticks(0.0, max((x for line in chart.series for x, _ in line.points), default=1.0), 8, whole=True)
    x_high = max([x for line in chart.series for x, _ in line.points] or [1.0])
    frame = _Frame(0.0, max(x_high, 1.0), ticks[0], ticks[-1], log)
    legend = _legend(chart)
    above = ROW * (len(legend) - 1)  # rows that have no room over the plot
    body = [
        *_axes(chart, frame, ticks, [tick for tick in x_ticks if tick <= frame.x_high]),
        *_marks(chart, frame),
        *(_line(chart, frame, index) for index in range(len(chart.series))),
        *_drawn(legend),
    ]
    if not values:
        body.append(text(WIDTH / 2, HEIGHT / 2, "no values yet", "tick middle"))
    described = f"{chart.title}: {', '.join(line.name for line in chart.series)} by {chart.x}"
    ends = f'data-x="{escape(chart.x)}" data-x0="{LEFT}" data-x1="{WIDTH - RIGHT}"'
    plot = f'{ends} data-low="{frame.x_low:g}" data-high="{frame.x_high:g}"'
    view = f'viewBox="0 {0 - above:g} {WIDTH:g} {HEIGHT + above:g}"'
    return (
        f'<svg class="chart" {view} role="img" aria-label="{escape(described)}" '
        f'data-chart="{escape(chart.key)}" {plot}>{"".join(body)}'
        f'<line class="cursor" y1="{TOP:g}" y2="{HEIGHT - BOTTOM:g}" visibility="hidden"/></svg>'
    )


def label(chart: Chart, value: float) -> str:
    """A value of the chart in words: 93.4 %, 272 k, 0.213."""
    if not math.isfinite(value):
        return "not finite"
    if chart.unit == "percent":
        return f"{value * 100:.5g} %"
    return quantity(value) if chart.unit == "count" or value >= 1000 else f"{value:.4g}"


def _axes(chart: Chart, frame: _Frame, ticks: Sequence[float], x_ticks: Iterable[float]) -> Iterator[str]:
    for tick in ticks:
        y = frame.y(tick)
        yield f'<line class="grid" x1="{LEFT:g}" x2="{WIDTH - RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield text(LEFT - 8, y + 4, label(chart, tick), "tick end")
    for tick in x_ticks:
        x = frame.x(tick)
        yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT - BOTTOM:g}" y2="{HEIGHT - BOTTOM + 4:g}"/>'
        yield text(x, HEIGHT - BOTTOM + 17, f"{tick:g}", "tick middle")
    base = HEIGHT - BOTTOM
    yield f'<line class="axis" x1="{LEFT:g}" x2="{WIDTH - RIGHT:g}" y1="{base:g}" y2="{base:g}"/>'
    yield text(WIDTH - RIGHT, HEIGHT - 4, chart.x + (", log scale" if frame.log else ""), "tick end")


def _marks(chart: Chart, frame: _Frame) -> Iterator[str]:
    base = HEIGHT - BOTTOM
    free_from = -math.inf  # phase names must not overlap
    for mark in sorted(chart.marks, key=lambda mark: (mark.x, mark.kind)):
        x = frame.x(min(max(mark.x, frame.x_low), frame.x_high))
        head = f'<g class="{mark.kind}"><title>{escape(mark.text)}</title>'
        yield f'{head}<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP:g}" y2="{base:g}"/>'
        if mark.kind == "rewrite":
            yield f'<path d="M{x - 3.5:.1f} {base + 7:g}L{x:.1f} {base:g}L{x + 3.5:.1f} {base + 7:g}Z"/>'
        elif x >= free_from:
            yield text(x + 4, TOP - 4, mark.text[:24], "tick")
            free_from = x + 8 + 6.2 * len(mark.text[:24])
        yield "</g>"


def _line(chart: Chart, frame: _Frame, index: int) -> str:
    others = len(chart.series) - 1
    shift = (index - others / 2) * min(SPREAD, SPREADS / max(others, 1)) if chart.step else 0.0
    path: list[str] = []
    pen_down = False
    for x, y in chart.series[index].points:
        if not abs(y) < LARGEST or (frame.log and y <= 0):
            pen_down = False
            continue
        here = f"{frame.x(x):.1f} {frame.y(y) - shift:.1f}"
        if chart.step:
            path.append(f"{'L' if pen_down else 'M'}{frame.x(max(x - 1, frame.x_low)):.1f} {frame.y(y) - shift:.1f}")
            path.append(f"L{here}")
        else:
            path.append(f"{'L' if pen_down else 'M'}{here}")
        pen_down = True
    single = ' stroke-linecap="round"' if len(path) == 1 else ""  # a lone point shows as a dot
    lone = f"L{path[0][1:]}" if len(path) == 1 else ""
    return f'<path class="line {_colour(index)}" d="{"".join(path)}{lone}"{single}/>'


def _legend(chart: Chart) -> list[list[_Entry]]:
    """The entries of the legend by row, as many as have room; the last one counts the series that have none."""
    entries = [_Entry(line.name, f"line {_colour(index)}") for index, line in enumerate(chart.series)]
    if any(mark.kind == "rewrite" for mark in chart.marks):
        entries.append(_Entry("rewrite", "rewrite"))
    rows = _rows(entries)
    fewer = len(chart.series)
    while len(rows) > ROWS:
        fewer -= 1
        more = _Entry(f"+{len(chart.series) - fewer}", "")
        rows = _rows([*entries[:fewer], more, *entries[len(chart.series) :]])
    return rows


def _rows(entries: Iterable[_Entry]) -> list[list[_Entry]]:
    rows: list[list[_Entry]] = [[]]
    for entry in entries:
        if rows[-1] and LEFT + sum(other.width for other in rows[-1]) + entry.width > WIDTH:
            rows.append([])
        rows[-1].append(entry)
    return rows


def _drawn(rows: Sequence[Sequence[_Entry]]) -> Iterator[str]:
    """The legend, whose last row lies right above the plot."""
    for row, entries in enumerate(rows):
        x, y = LEFT, 22 - ROW * (len(rows) - 1 - row)
        for entry in entries:
            if entry.sign == "rewrite":
                yield f'<g class="rewrite"><path d="M{x:.1f} {y:g}L{x + 3.5:.1f} {y - 7:g}L{x + 7:.1f} {y:g}Z"/></g>'
            elif entry.sign:
                yield f'<path class="{entry.sign}" d="M{x:.1f} {y - 4:g}H{x + 20:.1f}"/>'
            words = text(x + entry.indent, y, entry.shown, "legend")
            yield words if entry.shown == entry.name else f"<g><title>{escape(entry.name)}</title>{words}</g>"
            x += entry.width


def _colour(index: int) -> str:
    return f"c{index % COLOURS}" + (f" d{index // COLOURS % 3 or 1}" if index else "")


def text(x: float, y: float, words: str, style: str) -> str:
    """A text element whose baseline is at y; `style` is its class."""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'
