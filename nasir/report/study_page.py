"""The report of a study: one offline HTML page from `StudyFacts` and the journals of its best trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from nasir.counted import counted
from nasir.errors import NasirError
from nasir.files import write_atomically
from nasir.journal.directory import RunDirectory
from nasir.report.history import charts, duration
from nasir.report.html import fact_list, figures, fold, readout
from nasir.report.page import page
from nasir.report.plots import Chart
from nasir.report.study_axes import amount, metric_name
from nasir.report.study_facts import ENDED, Outcome, StudyFacts, TrialFacts
from nasir.report.study_lanes import importance, timeline
from nasir.report.study_parallel import COLOURS, parallel
from nasir.report.study_plots import View, history, intermediate, key, trade_off
from nasir.report.study_style import SCRIPT, STYLE
from nasir.report.study_table import choices_table, link, trials_table

__all__ = ["write_study_report"]

GROWN = 4  # trials of the front whose growth is drawn
GROWTH = ("accuracy", "depth", "params", "macs")  # charts of a run
ORDER: tuple[Outcome, ...] = (
    "complete", "cached", "infeasible", "pruned", "running", "waiting", "lost", "preempted", "failed", "duplicate",
)  # fmt: skip


def write_study_report(facts: StudyFacts, folder: str | Path) -> Path:
    """Write `report.html` into the folder of a study, and return its path.

    The study may be under way, without a finished trial, or have only failed ones; a run directory that is missing or
    damaged (it may lie on another machine) leaves its growth and its link out.
    """
    place = Path(folder)
    growth, drawn = _growth(facts, place)
    lines, axes = parallel(facts)
    sections = [
        _head(facts, place),
        _progress(facts),
        _parallel(facts, lines),
        _timeline(facts),
        growth,
        f"<h2>Trials</h2>{trials_table(facts, place)}",
        f"<h2>Choices</h2>{choices_table(facts)}",
        fold("Spec", facts.spec) if facts.spec else "",
        f"<footer>nasir {escape(facts.version)}</footer>",
        '<div id="tip" hidden></div><aside id="card" hidden></aside>',
    ]
    few = 2 + len(facts.objectives) + 2 + len(facts.parameters)
    data: dict[str, Any] = {chart.key: readout(chart) for chart in drawn}
    data["study"] = {"axes": axes or {"ys": {}}, "few": few}
    text = page(f"{facts.name} - nasir search", "\n".join(filter(None, sections)), data, STYLE, SCRIPT)
    place.mkdir(parents=True, exist_ok=True)
    path = place / "report.html"
    write_atomically(path, text.encode("utf-8"))
    return path


def _head(facts: StudyFacts, folder: Path) -> str:
    totals = facts.totals
    done = bool(totals.points) and totals.done + totals.outcomes.get("failed", 0) >= totals.points
    state = "done" if done else f"{totals.done} of {counted(totals.points, 'trial')} ended"
    badge = f'<span class="badge{" done" if done else ""}">{state}</span>'
    aims = ", ".join(f"{objective.direction} {objective.metric}" for objective in facts.objectives)
    bounds = f" with {', '.join(facts.constraints)}" if facts.constraints else ""
    how = [f"sampler {facts.sampler}" if facts.sampler else ""]
    how += [f"pruner {facts.pruner}" if facts.pruner not in ("", "none") else ""]
    if facts.axis != "epoch":
        how.append(f"values compared every {amount(facts.axis, facts.axis_width)} of {metric_name(facts.axis)}")
    remark = " · ".join(filter(None, [f"{aims}{bounds}", *how]))
    title = f'<h1>{escape(facts.name)}{badge}</h1><p class="sub">{escape(remark)}</p>'
    return f"<header>{title}{_tiles(facts)}{_best(facts, folder)}</header>"


def _tiles(facts: StudyFacts) -> str:
    totals, rows = facts.totals, []
    if facts.best is not None:
        objective = facts.objectives[0]
        rows.append((f"best {metric_name(objective.metric)}", amount(objective.metric, facts.best.values[0])))
    elif facts.front:
        rows.append(("on the front", str(len(facts.front))))
    settled = sum(totals.outcomes.get(outcome, 0) for outcome in ("complete", "cached"))
    rows.append(("complete", str(settled)))  # none that is counted below
    named = ("infeasible", "pruned", "running", "waiting", "failed")
    rows += [(name, str(totals.outcomes[name])) for name in named if totals.outcomes.get(name)]
    cut = totals.outcomes.get("lost", 0) + totals.outcomes.get("preempted", 0)
    rows += [("cut short, retried", str(cut))] if cut else []
    rows.append(("epochs trained", f"{totals.epochs:,}"))
    if totals.epochs_saved:
        share = totals.epochs_saved / max(totals.epochs + totals.epochs_saved, 1)
        rows.append(("epochs saved", f"{totals.epochs_saved:,} ({100 * share:.0f} %)"))
        rows += [("shared prefixes", str(totals.prefix_hits))] if totals.prefix_hits else []
        rows += [("cache hits", str(totals.cache_hits))] if totals.cache_hits else []
    rows.append(("CPU time", duration(totals.cpu_seconds)))
    rows.append(("wall time", duration(totals.wall)))
    columns = len(rows) if len(rows) <= 8 else -(-len(rows) // 2)
    return f'<div class="tiles" style="--n:{columns}">{fact_list(rows)}</div>'


def _best(facts: StudyFacts, folder: Path) -> str:
    if not facts.front:
        broken = any(trial.outcome == "infeasible" for trial in facts.trials)
        why = "No trial has kept all constraints." if broken else "No result yet."
        return f'<p class="sub">{why}</p>'
    if facts.best is None:
        numbers = ", ".join(str(number) for number in facts.front)
        words = f"On the front: trials {numbers}. One of them again, from scratch:"
        command = f"nasir run --best {folder} --trial {facts.front[0]}"
    else:
        words = f"Best: {_said(facts, facts.best)}. Again, from scratch:"
        command = f"nasir run --best {folder}"
    return f'<p class="sub">{escape(words)} <code>{escape(command)}</code></p>'


def _said(facts: StudyFacts, trial: TrialFacts) -> str:
    values = ", ".join(
        amount(objective.metric, value) for objective, value in zip(facts.objectives, trial.values, strict=True)
    )
    start = next((other for other in facts.trials if other.defaults and other.ended and other.values), None)
    compared = ""
    if start is not None and start.number != trial.number and len(facts.objectives) == 1:
        compared = f"; the defaults (trial {start.number}) reach {amount(facts.objectives[0].metric, start.values[0])}"
        costs = [either.cost.get("macs") for either in (trial, start)]
        if all(costs):
            compared += f" at {amount('macs', costs[1] or 0)} MACs, it takes {amount('macs', costs[0] or 0)}"
    return f"trial {trial.number}, {values}{compared}"


def _figure(title: str, views: Sequence[View], note: str = "", full: bool = False) -> str:
    """A framed figure, with buttons where it has several views; `note` is HTML, a `full` one has a row of its own."""
    buttons = ""
    if len(views) > 1:
        made = (
            f'<button data-show="{index}" aria-pressed="{str(index == 0).lower()}">{escape(name)}</button>'
            for index, (name, _) in enumerate(views)
        )
        buttons = f'<span class="tabs">{"".join(made)}</span>'
    shown = "".join(
        f'<div data-view="{index}"{" hidden" if index else ""}>{drawing}</div>'
        for index, (_, drawing) in enumerate(views)
    )
    head = f"<figcaption><span>{escape(title)}</span>{buttons}</figcaption>"
    style = ' class="full"' if full else ""
    return f'<figure data-tabbed="1"{style}>{head}{note}{shown}</figure>'


def _outcomes(trials: Sequence[TrialFacts]) -> list[Outcome]:
    return [outcome for outcome in ORDER if any(trial.outcome == outcome for trial in trials)]


def _progress(facts: StudyFacts) -> str:
    several = len(facts.objectives) > 1
    finished = facts.finished
    made = [_figure("History", history(facts), key(_outcomes(finished), [("best", "best so far")]))]
    if pairs := trade_off(facts):
        settled = [trial for trial in finished if trial.outcome != "pruned"]
        title = "Pareto front" if several else "What it costs"
        made.append(_figure(title, pairs, key(_outcomes(settled), [("front", "no other is better in both")])))
    rows = [f'<div class="charts">{"".join(made)}</div>']
    second = []
    if bars := importance(facts.importance):
        note = '<p class="sub">By PED-ANOVA: how differently good trials choose. Shares of few trials are rough.</p>'
        second.append(_figure("Importance of the choices", [("", bars)], note, several))
    if curves := intermediate(facts):
        ran = [trial for trial in facts.trials if trial.intermediate]
        pruned = [outcome for outcome in _outcomes(ran) if outcome == "pruned"]
        note = key(pruned, [("best", "best trial")] if facts.best else [])
        second.append(_figure("While training", [("", curves)], note))
    if second:
        rows.append(f'<div class="charts">{"".join(second)}</div>')
    return f"<h2>Progress</h2>{''.join(rows)}"


def _parallel(facts: StudyFacts, drawing: str) -> str:
    if not drawing:
        return ""
    several = len(facts.objectives) > 1
    names = [escape(metric_name(objective.metric)) for objective in facts.objectives]
    colours = "".join(
        f'<button data-colour="{index}" aria-pressed="{str(not index).lower()}">{name}</button>'
        for index, name in enumerate(names)
    )
    tabs = f'<span class="tabs">colour: {colours}</span>' if several else ""
    swatches = "".join(f'<b style="background:var(--q{index})"></b>' for index in range(COLOURS))
    scales = "".join(
        f'<span class="scale" data-of="{index}"{" hidden" if index else ""}><em>worse</em>{swatches}'
        f"<em>better {name}</em></span>"
        for index, name in enumerate(names)
    )
    faint = "<span>dashed: pruned or infeasible</span>" if not several or facts.constraints else ""
    said = '<span id="brushed">drag along an axis to select trials</span>'
    note = f'<div class="key">{scales}{faint}{said}<button id="unbrush" hidden>all trials</button></div>'
    head = f"<figcaption><span>Choices and results</span>{tabs}</figcaption>"
    return f'<figure class="wide">{head}{note}{drawing}</figure>'


def _timeline(facts: StudyFacts) -> str:
    drawing = timeline(facts)
    if not drawing:
        return ""
    shown = _outcomes([trial for trial in facts.trials if trial.start is not None])
    note = "".join(f'<span><i class="o-{outcome}"></i>{outcome}</span>' for outcome in shown)
    return f'<figure class="wide"><figcaption>Workers</figcaption><div class="key">{note}</div>{drawing}</figure>'


def _growth(facts: StudyFacts, folder: Path) -> tuple[str, list[Chart]]:
    """The growth of the best trials, from the journals of their runs, with the charts that were drawn."""
    views: list[View] = []
    drawn: list[Chart] = []
    for number in facts.front[:GROWN]:
        trial = _trained(facts, facts.trial(number))
        try:
            records = RunDirectory.open(folder / trial.run).effective() if trial.run else ()
        except (NasirError, OSError):
            continue  # on another machine, removed, or damaged
        growth = [replace(chart, key=f"{number}-{chart.key}") for chart in charts(records) if chart.key in GROWTH]
        if growth:
            href = link(trial, folder)
            more = f'<p class="sub"><a href="{escape(href)}">Its whole report</a></p>' if href else ""
            views.append((f"trial {number}", f"{figures(growth)}{more}"))
            drawn += growth
    if not views:
        return "", []
    title = "Growth of the best trial" if facts.best else "Growth of trials on the front"
    if len(views) == 1:
        return f"<h2>{title} ({views[0][0]})</h2>{views[0][1]}", drawn
    return f"<h2>{title}</h2>{_figure('', views)}", drawn


def _trained(facts: StudyFacts, trial: TrialFacts) -> TrialFacts:
    """The trial that a result from the cache was taken from."""
    if trial.cached_from is None:
        return trial
    return next(
        (other for other in facts.trials if other.number == trial.cached_from and other.outcome in ENDED), trial
    )
