"""Plots of a study with one mark a trial: history, trade-off between two quantities, values while training.

A mark carries the number of its trial (`data-t`), by which the script of the page finds it. Its class says what became
of the trial, and the style sheet gives that a colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import pairwise

from pydantic import TypeAdapter, ValidationError

from nasir.report.plots import text
from nasir.report.study_axes import AxisScale, axes, clock, metric_name, scale_of
from nasir.report.study_facts import ObjectiveFacts, Outcome, StudyFacts, TrialFacts
from nasir.spec.amounts import ConstraintText

__all__ = ["View", "history", "intermediate", "key", "mark", "svg", "trade_off", "value_of"]

View = tuple[str, str]  # the name of a view of a figure, and its SVG

WIDTH, HEIGHT = 580.0, 330.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 16.0, 34.0, 44.0


def svg(kind: str, described: str, body: Iterable[str], width: float = WIDTH, height: float = HEIGHT) -> str:
    """One figure; `described` is what a screen reader says."""
    box = f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(described)}"'
    return f'<svg class="chart {kind}" {box}>{"".join(body)}</svg>'


def shape(outcome: Outcome, x: float, y: float, attributes: str = "") -> str:
    """The mark of an outcome: a dot, a ring (infeasible), a cross (pruned), a diamond (from the cache)."""
    style = f'class="t o-{outcome}" {attributes}'
    if outcome == "pruned":
        arms = f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"
        return f'<path {style} d="{arms}"/>'
    if outcome == "cached":
        return f'<path {style} d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6Z"/>'
    return f'<circle {style} cx="{x:.1f}" cy="{y:.1f}" r="{4.2 if outcome == "infeasible" else 4.6}"/>'


def mark(trial: TrialFacts, x: float, y: float) -> str:
    """The mark of a trial, found by its number."""
    return shape(trial.outcome, x, y, f'data-t="{trial.number}"')


def key(outcomes: Iterable[Outcome], extra: Sequence[tuple[str, str]] = ()) -> str:
    """The key of the marks that appear; `extra`: (class of a line, words)."""
    shown = {
        outcome: f'<svg width="14" height="14" viewBox="0 0 14 14">{shape(outcome, 7, 7)}</svg>{outcome}'
        for outcome in outcomes
    }
    lines = (
        f'<svg width="20" height="14" viewBox="0 0 20 14"><path class="{style}" d="M0 7H20"/></svg>{escape(words)}'
        for style, words in extra
    )
    return f'<div class="key">{"".join(f"<span>{entry}</span>" for entry in [*shown.values(), *lines])}</div>'


def value_of(trial: TrialFacts, metric: str, objectives: Sequence[ObjectiveFacts]) -> float | None:
    """An objective or another quantity of a trial; None where it has none."""
    for objective, value in zip(objectives, trial.values, strict=False):
        if objective.metric == metric:
            return value
    measured = trial.metrics.get(metric, trial.cost.get(metric))
    if measured is None and metric in ("epochs", "cpu_seconds"):
        measured = getattr(trial, metric)
    return measured if measured is not None and math.isfinite(measured) else None


def _frame(bottom: float = BOTTOM) -> tuple[float, float, float, float]:
    return LEFT, WIDTH - RIGHT, HEIGHT - bottom, TOP


def history(facts: StudyFacts) -> list[View]:
    """Values in the order in which trials ended, with the best so far; before them the hypervolume, if there is one."""
    views = [("hypervolume", _volume(facts))] if facts.hypervolume else []
    views += [
        (metric_name(objective.metric), _values(facts, index)) for index, objective in enumerate(facts.objectives)
    ]
    return views


def _order(count: int) -> AxisScale:
    left, right, _, _ = _frame()
    scale = scale_of("epochs", (1, max(count, 2)), left, right, log=False, count=8)
    ticks = tuple(tick for tick in scale.ticks if 1 <= tick <= max(count, 2))
    return AxisScale("trials ended", 0.5, max(count, 2) + 0.5, left, right, ticks, scale.show)


def _volume(facts: StudyFacts) -> str:
    _, _, bottom, top = _frame()
    x = _order(len(facts.finished))
    y = AxisScale(
        "share of the box from the worst to the best values", 0, 1, bottom, top, (0, 0.25, 0.5, 0.75, 1), _share
    )
    points = [(x(index), y(value)) for index, value in enumerate(facts.hypervolume, 1)]
    fronts = [mark(trial, *points[index]) for index, trial in enumerate(facts.finished) if trial.number in facts.front]
    return svg("history", "hypervolume after each trial", [*axes(x, y), _steps(points), *fronts])


def _share(value: float) -> str:
    return f"{100 * value:g} %"


def _steps(points: Sequence[tuple[float, float]]) -> str:
    if not points:
        return ""
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in points[1:])
    return f'<path class="best" d="{path}"/>'


def _values(facts: StudyFacts, index: int) -> str:
    objective = facts.objectives[index]
    finished = [trial for trial in facts.finished if len(trial.values) > index]
    left, _, bottom, top = _frame()
    x = _order(len(finished))
    # a pruned trial has the value it was stopped at: those far below lie on the axis, and do not squeeze the others
    settled = [trial.values[index] for trial in finished if trial.outcome != "pruned"]
    y = scale_of(objective.metric, settled or [trial.values[index] for trial in finished], bottom, top)
    places = [(trial, x(order), y(trial.values[index])) for order, trial in enumerate(finished, 1)]
    best: list[tuple[float, float]] = []
    record = math.inf
    for trial, at, _ in places:
        if trial.counts and objective.sign * trial.values[index] < record:
            record = objective.sign * trial.values[index]
        if record < math.inf:
            best.append((at, y(objective.sign * record)))
    body = [*axes(x, y), _steps(best), *(mark(*place) for place in places), *_rings(facts, places)]
    if not places:
        body.append(text((left + WIDTH) / 2, HEIGHT / 2, "no trial has ended yet", "tick middle"))
    return svg("history", f"{metric_name(objective.metric)} of each trial, in the order in which they ended", body)


def _rings(facts: StudyFacts, places: Sequence[tuple[TrialFacts, float, float]]) -> Iterator[str]:
    """Rings and words at the best trial and at that of the defaults."""
    best = facts.best.number if facts.best else None
    named = [(x, y, f"best: {trial.number}", "") for trial, x, y in places if trial.number == best]
    named += [(x, y, f"defaults: {trial.number}", " plain") for trial, x, y in places if trial.defaults]
    busy = [(x - 5, y - 5, x + 5, y + 5) for _, x, y in places]
    busy += [(x - 10, y - 10, x + 10, y + 10) for x, y, *_ in named] * 3
    busy += [(x - 10, y - 10, x + 10, y + 10) for trial, x, y in places if trial.number in facts.front]
    for x, y, words, style in named:
        at, box = _free_place(x, y, 7.2 * len(words), busy)
        busy += [box] * 9
        yield f'<circle class="ring{style}" cx="{x:.1f}" cy="{y:.1f}" r="8.5"/>'
        yield text(*at, words, f"named{style}")


Box = tuple[float, float, float, float]  # left, top, right, bottom


def _free_place(x: float, y: float, width: float, busy: Sequence[Box]) -> tuple[tuple[float, float], Box]:
    """Where words beside a mark cover least: the start of their baseline, and their box."""
    across = (-width / 2, 13.0, -width - 13, -width + 6, -6.0)
    spots = [(dx, dy) for dy in (-14.0, 24.0, 5.0, -30.0, 40.0) for dx in across]

    def cost(spot: tuple[float, float]) -> float:
        left, top = x + spot[0], y + spot[1] - 12
        right, bottom = left + width, top + 15
        outside = left < LEFT + 2 or right > WIDTH - 4 or top < 16 or bottom > HEIGHT - BOTTOM
        hits = sum(a < right and c > left and b < bottom and d > top for a, b, c, d in busy)
        return 1000.0 * outside + 10 * hits + spots.index(spot)

    dx, dy = min(spots, key=cost)
    return (x + dx, y + dy), (x + dx, y + dy - 12, x + dx + width, y + dy + 3)


def trade_off(facts: StudyFacts) -> list[View]:
    """Each pair of objectives; of one objective, it against what the network and its training cost."""
    metrics = [objective.metric for objective in facts.objectives]
    if len(metrics) > 1:
        pairs = [(x, y) for index, y in enumerate(metrics) for x in metrics[index + 1 :]]
    else:
        pairs = [(cost, metrics[0]) for cost in ("macs", "params", "latency_ms", "cpu_seconds") if cost != metrics[0]]
    views = []
    for x, y in pairs:
        places = [
            (trial, across, up)
            for trial in facts.finished
            if trial.outcome != "pruned"
            and (across := value_of(trial, x, facts.objectives)) is not None
            and (up := value_of(trial, y, facts.objectives)) is not None
        ]
        if places:
            name = metric_name(x) if y == metrics[0] else f"{metric_name(x)} / {metric_name(y)}"
            views.append((name, _scatter(facts, x, y, places)))
    return views


def _scatter(facts: StudyFacts, across: str, up: str, measured: Sequence[tuple[TrialFacts, float, float]]) -> str:
    left, right, bottom, top = _frame()
    x = scale_of(across, (value for _, value, _ in measured), left, right, count=6)
    y = scale_of(up, (value for _, _, value in measured), bottom, top)
    signs = {objective.metric: objective.sign for objective in facts.objectives}
    sign = signs.get(across, 1.0), signs.get(up, 1.0)
    able = [(sign[0] * a, sign[1] * b) for trial, a, b in measured if trial.counts]
    steps = list(_staircase(able))
    points = [(x(sign[0] * a), y(sign[1] * b)) for a, b in steps]
    line = f'<path class="front" d="M{"L".join(f"{a:.1f} {b:.1f}" for a, b in points)}"/>' if points else ""
    places = [(trial, x(a), y(b)) for trial, a, b in measured]
    limits, words = _limits(facts.constraints, across, up, x, y)
    body = [*axes(x, y), *limits, line, *(mark(*place) for place in places), *words]
    best = [place for place in places if len(facts.objectives) > 1 and place[0].number in facts.front]
    body += [f'<circle class="ring" cx="{a:.1f}" cy="{b:.1f}" r="8.5"/>' for _, a, b in best]
    return svg("trade", f"{metric_name(up)} against {metric_name(across)}", [*body, *_rings(facts, places)])


def _staircase(points: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """The edge of what the points attain, less being better: from the best x to the best y, with its corners."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not front or y < front[-1][1]:
            front.append((x, y))
    yield from front[:1]
    for (_, before), (x, y) in pairwise(front):
        yield x, before
        yield x, y


def _limits(
    constraints: Iterable[str], across: str, up: str, x: AxisScale, y: AxisScale
) -> tuple[list[str], list[str]]:
    """Lines of the constraints on one of the two quantities, where they lie within the plot, and their words."""
    lines, said = [], []
    for words in constraints:
        try:
            bound = TypeAdapter(ConstraintText).validate_python(words)
        except ValidationError:
            continue  # of a study that nasir did not make
        if bound.metric == across and x.low < bound.bound < x.high:
            at = x(bound.bound)
            lines.append(f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="{y.start:g}" y2="{y.stop:g}"/>')
            said.append(text(at - 5, y.start - 7, words, "halo end"))
        elif bound.metric == up and y.low < bound.bound < y.high:
            at = y(bound.bound)
            lines.append(f'<line class="limit" x1="{x.start:g}" x2="{x.stop:g}" y1="{at:.1f}" y2="{at:.1f}"/>')
            said.append(text(x.stop, at - 5, words, "halo end"))
    return lines, said


def intermediate(facts: StudyFacts) -> str:
    """The first objective while training, over the cost axis; "" where nothing was reported."""
    lines = [trial for trial in facts.trials if trial.intermediate]
    if not lines:
        return ""
    left, right, bottom, top = _frame()
    width = facts.axis_width
    reached = [step * width for trial in lines for step in trial.intermediate]
    x = _cost_axis(facts.axis, max(reached), left, right)
    metric = facts.objectives[0].metric
    y = scale_of(metric, _worth_seeing(lines, facts.objectives[0]), bottom, top)
    best = facts.best.number if facts.best else -1
    curves: list[str] = []
    ends: list[str] = []
    for trial in sorted(lines, key=lambda trial: (trial.number == best, trial.outcome == "pruned", trial.number)):
        points = [
            (x(step * width), y.free(value)) for step, value in trial.intermediate.items() if math.isfinite(value)
        ]
        if not points:
            continue
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
        style = f"o-{trial.outcome}{' winner' if trial.number == best else ''}"
        curves.append(f'<path class="t run {style}" data-t="{trial.number}" d="M{path}"/>')
        if trial.outcome == "pruned" or len(points) == 1:
            across, up = points[-1]
            ends.append(mark(trial, across, min(max(up, top), bottom)))
    # an inner svg cuts off what lies outside of it
    box = f'x="{left:g}" y="{top:g}" width="{right - left:g}" height="{bottom - top:g}"'
    view = f'viewBox="{left:g} {top:g} {right - left:g} {bottom - top:g}"'
    body = [*axes(x, y), f"<svg {box} {view}>{''.join(curves)}</svg>", *ends]
    return svg("curves dimming", f"{metric_name(metric)} of each trial over {facts.axis}", body)


def _worth_seeing(lines: Sequence[TrialFacts], objective: ObjectiveFacts) -> list[float]:
    """The values that decide the range of y: not the worst quarter, in which all trials are alike bad at first."""
    values = sorted(
        (value for trial in lines for value in trial.intermediate.values() if math.isfinite(value)),
        key=lambda value: objective.sign * value,
    )
    ends = [trial.values[0] for trial in lines if trial.outcome == "pruned" and trial.values]
    return values[: max(len(values) * 3 // 4, 2)] + ends


def _cost_axis(axis: str, high: float, start: float, stop: float) -> AxisScale:
    if axis == "cpu_seconds":
        scale = clock("CPU time of training", 0.0, high, start, stop)
    else:
        name = "MACs spent in training" if axis == "macs" else metric_name(axis)
        scale = scale_of("epochs" if axis == "epoch" else axis, (0.0, high), start, stop, log=False, count=8)
        scale = AxisScale(name, scale.low, scale.high, start, stop, scale.ticks, scale.show)
    ticks = tuple(tick for tick in scale.ticks if tick <= high)
    return AxisScale(scale.title, 0.0, high or 1.0, start, stop, ticks, scale.show)
