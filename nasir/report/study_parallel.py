"""Parallel coordinates: one axis a choice, one line a trial, coloured by an objective; the script brushes the axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from nasir.report.plots import text
from nasir.report.study_axes import AxisScale, metric_name, scale_of, short_names
from nasir.report.study_facts import ParameterFacts, StudyFacts, TrialFacts
from nasir.report.study_plots import svg

__all__ = ["COLOURS", "bins", "parallel"]

WIDTH, HEIGHT = 1200.0, 410.0
LEFT, RIGHT, TOP, BOTTOM = 96.0, 62.0, 44.0, 40.0
SHOWN = 10  # choices, the most important ones
COLOURS = 7  # classes q0 (worst) to q6 (best)
CHARACTER = 6.6


@dataclass(frozen=True, slots=True)
class _Axis:
    name: str  # in full
    title: str
    place: Callable[[TrialFacts], float | None]  # y; None: no value
    ticks: Sequence[tuple[float, str]]
    lack: str = ""  # what a line without a value means


def bins(facts: StudyFacts) -> dict[int, list[int]]:
    """The colour of each trial that may be the best, for each objective: evenly from the tenth worst to the best."""
    able = [trial for trial in facts.trials if trial.counts]
    bins_of: dict[int, list[int]] = {trial.number: [] for trial in able}
    for index, objective in enumerate(facts.objectives):
        losses = sorted(objective.sign * trial.values[index] for trial in able)
        if not losses:
            continue
        low, high = losses[0], losses[min(len(losses) - 1, round(len(losses) * 0.9))]
        for trial in able:
            share = (high - objective.sign * trial.values[index]) / ((high - low) or 1.0)
            bins_of[trial.number].append(min(COLOURS - 1, max(0, int(share * COLOURS))))
    return bins_of


def parallel(facts: StudyFacts) -> tuple[str, dict[str, Any]]:
    """The drawing, and for the script the x of each axis and the y of each trial on it. ("", {}) without a trial."""
    ended = [trial for trial in facts.trials if trial.ended and trial.params]
    parameters = _chosen(facts)
    if not ended or not parameters:
        return "", {}
    short = short_names([parameter.name for parameter in facts.parameters])
    axes = [_of_choice(parameter, short[parameter.name], ended, facts) for parameter in parameters]
    axes += [_of_objective(facts, index) for index in range(len(facts.objectives))]
    gap = (WIDTH - LEFT - RIGHT) / max(len(axes) - 1, 1)
    xs = [LEFT + gap * index for index in range(len(axes))]
    lacking = HEIGHT - BOTTOM + 24
    places = {trial.number: [lacking if (y := axis.place(trial)) is None else y for axis in axes] for trial in ended}
    colours = bins(facts)
    body = []
    for trial in sorted(ended, key=lambda trial: colours.get(trial.number, [-1])):
        body.append(_line(trial, xs, places[trial.number], colours.get(trial.number)))
    for x, axis in zip(xs, axes, strict=True):
        lacks = any(place[xs.index(x)] == lacking for place in places.values())
        body.append(_drawn(x, axis, gap, lacking if lacks else None))
    data = {"xs": [round(x, 1) for x in xs], "top": TOP, "bottom": lacking + 8}
    data["ys"] = {str(number): [round(y, 1) for y in ys] for number, ys in places.items()}
    return svg("parallel dimming", "parallel coordinates of the trials", body, WIDTH, HEIGHT), data


def _chosen(facts: StudyFacts) -> list[ParameterFacts]:
    """The choices that have an axis: all in their order, or the most important ones where there are many."""
    if len(facts.parameters) <= SHOWN:
        return list(facts.parameters)
    shares: Mapping[str, float] = dict(facts.importance[0].shares) if facts.importance else {}
    ranked = sorted(facts.parameters, key=lambda parameter: -shares.get(parameter.name, 0.0))
    return [parameter for parameter in facts.parameters if parameter in ranked[:SHOWN]]


def _of_choice(parameter: ParameterFacts, title: str, ended: Sequence[TrialFacts], facts: StudyFacts) -> _Axis:
    if parameter.kind != "categorical":
        scale = _from_end_to_end(parameter)

        def place(trial: TrialFacts) -> float | None:
            return scale(float(trial.params[parameter.name])) if parameter.name in trial.params else None  # type: ignore[arg-type]

        return _Axis(parameter.name, title, place, _ticks(scale), "not active")
    room = (HEIGHT - TOP - BOTTOM) / max(len(parameter.options), 1)
    middle = {repr(option): HEIGHT - BOTTOM - room * (index + 0.5) for index, option in enumerate(parameter.options)}
    # lines through one alternative spread over a band, the best on top, so that they can be told apart
    sign = facts.objectives[0].sign
    rank = sorted(ended, key=lambda trial: sign * trial.values[0] if trial.values else 0.0)
    shift = {trial.number: 0.5 - (index + 0.5) / len(rank) for index, trial in enumerate(rank)}
    band = min(room * 0.5, 56.0)

    def spread(trial: TrialFacts) -> float | None:
        at = middle.get(repr(trial.params[parameter.name])) if parameter.name in trial.params else None
        return None if at is None else at - shift[trial.number] * band

    ticks = [(middle[repr(option)], "none" if option is None else str(option)) for option in parameter.options]
    return _Axis(parameter.name, title, spread, ticks, "not active")


def _from_end_to_end(parameter: ParameterFacts) -> AxisScale:
    """A scale over the whole range of a number, with ticks at both ends."""
    metric = "epochs" if parameter.kind == "int" else parameter.name  # for whole ticks
    wide = scale_of(metric, (parameter.low, parameter.high), HEIGHT - BOTTOM, TOP, log=parameter.log, count=6)
    if parameter.low >= parameter.high:
        return wide
    scale = replace(wide, low=parameter.low, high=parameter.high)
    inner = [
        tick
        for tick in wide.ticks
        if parameter.low < tick < parameter.high and TOP + 15 < scale(tick) < HEIGHT - BOTTOM - 15
    ]
    return replace(scale, ticks=(parameter.low, *inner, parameter.high))


def _of_objective(facts: StudyFacts, index: int) -> _Axis:
    metric = facts.objectives[index].metric
    values = [trial.values[index] for trial in facts.trials if trial.ended and trial.outcome != "pruned"]
    scale = scale_of(metric, values, HEIGHT - BOTTOM, TOP, count=6)

    def place(trial: TrialFacts) -> float | None:
        return None if trial.outcome == "pruned" else scale(trial.values[index])

    return _Axis(metric, metric_name(metric), place, _ticks(scale), "pruned")


def _ticks(scale: AxisScale) -> list[tuple[float, str]]:
    return [(scale(tick), scale.show(tick)) for tick in scale.ticks]


def _line(trial: TrialFacts, xs: Sequence[float], ys: Sequence[float], colours: Sequence[int] | None) -> str:
    path = f"M{xs[0]:.1f} {ys[0]:.1f}"
    for x0, x1, y0, y1 in zip(xs, xs[1:], ys, ys[1:], strict=False):
        bend = (x1 - x0) * 0.4
        path += f"C{x0 + bend:.1f} {y0:.1f} {x1 - bend:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
    style = f"q{colours[0]}" if colours else f"o-{trial.outcome}"
    bins = f' data-q="{" ".join(map(str, colours))}"' if colours else ""
    return f'<path class="t run {style}" data-t="{trial.number}"{bins} d="{path}"/>'


def _drawn(x: float, axis: _Axis, gap: float, lacking: float | None) -> str:
    cut = max(int((gap - 6) / CHARACTER), 6)
    title = axis.title if len(axis.title) <= cut else f"{axis.title[: cut - 1]}…"
    parts = [
        f"<g><title>{escape(axis.name)}</title>{text(x, TOP - 18, title, 'legend middle')}</g>",
        f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP:g}" y2="{HEIGHT - BOTTOM:g}"/>',
        *(text(x - 7, y + 4, words if len(words) <= cut else f"{words[: cut - 1]}…", "halo end")
          for y, words in axis.ticks),
    ]  # fmt: skip
    if lacking is not None:
        parts.append(text(x - 7, lacking + 4, axis.lack, "halo end"))
    parts.append(f'<rect class="brush" x="{x - 9:.1f}" width="18" y="0" height="0"/>')
    grip = f'x="{x - 12:.1f}" y="{TOP - 8:g}" width="24" height="{HEIGHT - TOP - BOTTOM + 48:g}"'
    return f'<g class="axis-of">{"".join(parts)}<rect class="grip" {grip}/></g>'
