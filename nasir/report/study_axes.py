"""Axes of the figures of a study: scales in pixels with round ticks, and how each quantity is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from nasir.report.history import duration
from nasir.report.plots import log_ticks, nice_ticks, quantity, text

__all__ = ["AxisScale", "amount", "axes", "clock", "metric_name", "scale_of", "short_names"]

WIDE = 25.0  # ratio of positive values from which an axis is logarithmic

METRICS = {
    "val.accuracy": "validation accuracy",
    "train.accuracy": "training accuracy",
    "test.accuracy": "test accuracy",
    "val.loss": "validation loss",
    "train.loss": "training loss",
    "macs": "MACs per sample",
    "params": "parameters",
    "latency_ms": "latency, ms",
    "cpu_seconds": "CPU time of training",
    "epochs": "epochs",
    "epoch": "epoch",
}


def metric_name(metric: str) -> str:
    """`val.accuracy` -> validation accuracy."""
    return METRICS.get(metric, metric)


def amount(metric: str, value: float) -> str:
    """A value with its unit: 93.41 %, 21.4 M, 2.31 ms, 4 min 5 s, 0.2134."""
    if not math.isfinite(value):
        return "not finite"
    if metric.endswith("accuracy"):
        return f"{100 * value:.2f} %"
    if metric == "cpu_seconds":
        return duration(value)
    if metric == "latency_ms":
        return f"{value:.3g} ms"
    return quantity(float(value)) if metric in ("macs", "params", "epochs", "epoch") else f"{value:.4g}"


@dataclass(frozen=True, slots=True)
class AxisScale:
    """From values to pixels: `low` lies at `start`, `high` at `stop`."""

    title: str
    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[float, ...]
    show: Callable[[float], str]
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value; of one outside, that of the nearer end."""
        return min(max(self.free(value), min(self.start, self.stop)), max(self.start, self.stop))

    def free(self, value: float) -> float:
        """The pixel of a value, outside of the axis too."""
        low, high, at = (
            (math.log(self.low), math.log(self.high), math.log(max(value, 1e-300)))
            if self.log
            else (self.low, self.high, value)
        )
        share = (at - low) / ((high - low) or 1.0)
        return self.start + share * (self.stop - self.start)


def scale_of(
    metric: str, values: Iterable[float], start: float, stop: float, log: bool | None = None, count: int = 5
) -> AxisScale:
    """A scale around the finite values. `log`: default where they are positive and span a wide range."""
    known = [value for value in values if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    title = metric_name(metric)
    if log is None:
        log = not metric.endswith("accuracy") and low > 0 and high / low > WIDE
    if log and low > 0:
        ticks = log_ticks(low, high) if high > low else (low / 2, low, low * 2)
        return AxisScale(f"{title}, log scale", ticks[0], ticks[-1], start, stop, _thinned(ticks), _plain(metric), True)
    if metric == "cpu_seconds":
        return clock(title, low, high, start, stop, count)
    if metric.endswith("accuracy"):
        ticks = tuple(t / 100 for t in nice_ticks(100 * low, 100 * high, count) if -1e-9 <= t <= 100 + 1e-9)
        if len(ticks) < 2:
            ticks = (max(0.0, low - 0.01), min(1.0, high + 0.01))
    else:
        whole = metric in ("epochs", "epoch", "params")
        ticks = nice_ticks(low, high, count, whole=whole)
    return AxisScale(title, min(ticks[0], low), max(ticks[-1], high), start, stop, ticks, _plain(metric))


def _thinned(ticks: tuple[float, ...]) -> tuple[float, ...]:
    """Only powers of ten where there would be many ticks."""
    tens = tuple(tick for tick in ticks if abs(math.log10(tick) - round(math.log10(tick))) < 1e-9)
    return tens if len(ticks) > 8 and len(tens) > 2 else ticks


def _plain(metric: str) -> Callable[[float], str]:
    if metric.endswith("accuracy"):
        return lambda value: f"{100 * value:.4g} %"
    return lambda value: quantity(value) if abs(value) >= 1000 or value == 0 else f"{value:.4g}"


def clock(title: str, low: float, high: float, start: float, stop: float, count: int = 8) -> AxisScale:
    """A scale of durations in the unit that suits them: seconds, minutes or hours."""
    unit, name = next(((u, n) for u, n in ((3600.0, "h"), (60.0, "min")) if high - low >= 2 * u), (1.0, "s"))
    ticks = tuple(tick * unit for tick in nice_ticks(low / unit, high / unit, count))
    return AxisScale(f"{title}, {name}", ticks[0], ticks[-1], start, stop, ticks, lambda value: f"{value / unit:g}")


def axes(x: AxisScale, y: AxisScale) -> Iterator[str]:
    """Grid, ticks and titles of a plot: the title of y stands above it, that of x below its right end."""
    for tick in y.ticks:
        at = y(tick)
        yield f'<line class="grid" x1="{x.start:g}" x2="{x.stop:g}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield text(x.start - 8, at + 4, y.show(tick), "tick end")
    for tick in x.ticks:
        at = x(tick)
        yield f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{y.start:g}" y2="{y.start + 4:g}"/>'
        yield text(at, y.start + 17, x.show(tick), "tick middle")
    yield f'<line class="axis" x1="{x.start:g}" x2="{x.stop:g}" y1="{y.start:g}" y2="{y.start:g}"/>'
    yield text(x.stop, y.start + 35, x.title, "tick end")
    yield text(2, y.stop - 12, y.title, "tick")


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each dotted name by its shortest tail that no other one ends with: phases.0.rules.0.every -> every."""
    short: dict[str, str] = {}
    for name in names:
        parts = name.split(".")
        tails = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        others = [other for other in names if other != name]
        alone = (tail for tail in tails if not any(f".{other}".endswith(f".{tail}") for other in others))
        short[name] = next((tail for tail in alone if not tail.split(".")[0].isdecimal()), name)
    return short
