"""The timeline of the workers of a study, one lane a worker, and the bars of parameter importance."""

from __future__ import annotations

from html import escape

from nasir.report.plots import text
from nasir.report.study_axes import clock, metric_name, short_names
from nasir.report.study_facts import Importance, StudyFacts, TrialFacts
from nasir.report.study_plots import svg

__all__ = ["importance", "timeline"]

WIDTH = 1200.0
LEFT, RIGHT = 132.0, 14.0
CHARACTER = 6.8  # pixels, about


def timeline(facts: StudyFacts) -> str:
    """Who worked at what when. Dashed curves lead from an attempt that was cut short to the next at its point (↻)."""
    placed = [trial for trial in facts.trials if trial.start is not None]
    if not placed:
        return ""
    begin = min(trial.start or 0.0 for trial in placed)
    now = max(time for trial in placed for time in (trial.start, trial.end) if time is not None)
    lanes: dict[tuple[str, str], int] = {}
    for trial in sorted(placed, key=lambda trial: trial.start or 0.0):
        lanes.setdefault((trial.machine, trial.worker), len(lanes))
    order = sorted(lanes)
    row = 30.0 if len(lanes) <= 12 else 18.0 if len(lanes) <= 40 else 10.0
    x = clock("time since the study began", 0.0, max(now - begin, 1.0), LEFT, WIDTH - RIGHT, 10)
    bottom = 8 + row * len(order)
    body = []
    for index, (machine, worker) in enumerate(order):
        y = 8 + row * index
        body.append(f'<line class="grid" x1="{LEFT:g}" x2="{WIDTH - RIGHT:g}" y1="{y + row:g}" y2="{y + row:g}"/>')
        if row > 10:
            name = f"{worker or 'unknown'} on {machine}" if machine else worker or "unknown"
            shown = name if len(name) * CHARACTER < LEFT - 16 else worker or name
            cut = int((LEFT - 16) / CHARACTER)
            shown = shown if len(shown) <= cut else f"{shown[: cut - 1]}…"
            body.append(f"<g><title>{escape(name)}</title>{text(LEFT - 8, y + row / 2 + 4, shown, 'tick end')}</g>")
    for tick in x.ticks:
        if tick > now - begin:
            continue
        body.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="8" y2="{bottom:g}"/>')
        body.append(text(x(tick), bottom + 17, x.show(tick), "tick middle"))
    body.append(text(WIDTH - RIGHT, bottom + 35, x.title, "tick end"))
    place: dict[int, tuple[float, float, float]] = {}  # start, end and middle of each bar
    for trial in placed:
        top = 8 + row * order.index((trial.machine, trial.worker)) + row * 0.14
        left = x((trial.start or 0.0) - begin)
        right = max(x((trial.end if trial.end is not None else now) - begin), left + 1.5)
        place[trial.number] = (left, right, top + row * 0.36)
        body.append(_bar(trial, left, right, top, row * 0.72))
    for trial in placed:
        if trial.retried_as in place:
            (_, x0, y0), (x1, _, y1) = place[trial.number], place[trial.retried_as]
            bend = (x1 - x0) / 2
            curve = f"M{x0:.1f} {y0:.1f}C{x0 + bend:.1f} {y0:.1f} {x1 - bend:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
            body.append(f'<path class="t retry" data-t="{trial.retried_as}" d="{curve}"/>')
    return svg("lanes", "timeline of the workers", body, WIDTH, bottom + 42)


def _bar(trial: TrialFacts, left: float, right: float, top: float, height: float) -> str:
    name = f"{trial.number}{' ↻' if trial.attempt else ''}"
    fits = height > 11 and right - left > 7.5 * len(name) + 4
    number = text((left + right) / 2, top + height / 2 + 4, name, "inside middle") if fits else ""
    box = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{height:.1f}" rx="2.5"'
    return f'<g class="t bar o-{trial.outcome}" data-t="{trial.number}"><rect {box}/>{number}</g>'


def importance(importances: tuple[Importance, ...]) -> str:
    """Shares of the parameters, one column of bars for each thing they are important for; "" where there is none."""
    if not importances:
        return ""
    names = [name for name, _ in importances[0].shares][:14]
    short = short_names([name for name, _ in importances[0].shares])
    longest = max(len(short[name]) for name in names)
    width = 580.0 if len(importances) == 1 else WIDTH
    left = min(max(CHARACTER * longest + 24, 80.0), width / 3)
    column = (width - left) / len(importances)
    cut = int((left - 16) / CHARACTER)
    row = min(max(250.0 / len(names), 26.0), 40.0)
    top = 30.0
    body = []
    for index, name in enumerate(names):
        shown = short[name] if len(short[name]) <= cut else f"{short[name][: cut - 1]}…"
        y = top + row * index + row / 2 + 4
        body.append(f"<g><title>{escape(name)}</title>{text(left - 10, y, shown, 'legend end')}</g>")
    for number, ranking in enumerate(importances):
        start = left + column * number
        room = column - 64
        body.append(text(start, 16, f"share for {metric_name(ranking.of)}", "tick"))
        shares = dict(ranking.shares)
        highest = max(shares.values()) or 1.0
        for index, name in enumerate(names):
            y = top + row * index
            share = shares.get(name, 0.0)
            length = max(room * share / highest, 1.0)
            words = f"<title>{escape(name)}: {100 * share:.1f} %</title>"
            box = f'x="{start:.1f}" y="{y + 5:.1f}" width="{length:.1f}" height="{row - 10:.1f}" rx="2.5"'
            body.append(f'<g class="share">{words}<rect {box}/></g>')
            body.append(text(start + length + 6, y + row / 2 + 4, f"{100 * share:.0f} %", "legend"))
    return svg("shares", "importance of the parameters", body, width, top + row * len(names) + 4)
