"""The part of a report about residual branches: what `nasir analyze --residual --report` kept with the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from nasir.analysis.contributions import Contribution, ResidualAnalysis
from nasir.files import json_value
from nasir.journal.directory import RunDirectory
from nasir.report.plots import Chart, Series
from nasir.report.residual_table import HEADS, NOTES, cells, headline, summary

__all__ = ["residual_charts", "residual_section"]

Facts = Callable[[Sequence[tuple[str, str]]], str]


def residual_section(
    run: RunDirectory, figures: Callable[[Sequence[Chart]], str], facts: Facts
) -> tuple[str, tuple[Chart, ...]]:
    """(HTML, its charts); nothing for a run that was not analyzed. `figures` and `facts` draw charts and tiles."""
    title = "<h2>Residual branches</h2>"
    try:
        analysis = ResidualAnalysis.from_json(json_value(run.residual_path.read_bytes()))
    except FileNotFoundError:
        return "", ()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        text = f"{run.residual_path.name} is damaged; `nasir analyze --residual --report` writes it anew."
        return f"{title}<p>{escape(text)}</p>", ()
    if not analysis.sums:
        return f"{title}<p>The network has none.</p>", ()
    charts = residual_charts(analysis)
    notes = "".join(f"<li>{escape(note)}</li>" for note in NOTES)
    parts = [title, f'<p class="sub">{escape(headline(analysis))}</p>', facts(summary(analysis)), "<br>"]
    return "".join([*parts, figures(charts), f'<ul class="sub">{notes}</ul>', _table(analysis)]), charts


def residual_charts(analysis: ResidualAnalysis) -> tuple[Chart, ...]:
    """By number of the residual sum: ratios and shares, variances, gradients; by the scale: the response."""
    where, sums = "residual sum", analysis.sums
    response = tuple((round(100 * scale), value) for scale, value in analysis.response)
    ratio = _series(sums, "|f|/|x|, median", lambda item: item.ratio.median)
    share = _series(sums, "var f / var x+f", lambda item: item.variance_share)
    expected = _series(sums, "1/(l+1)", lambda item: item.expected_share)
    stream, branch = _series(sums, "x+f", lambda item: item.total), _series(sums, "f", lambda item: item.branch)
    gradient = _series(sums, "|gradient|", lambda item: math.nan if item.gradient is None else item.gradient)
    charts = [
        Chart("residual.ratio", "What each branch adds", (ratio, share, expected), x=where),
        Chart("residual.variance", "Variance", (stream, branch), x=where),
        Chart("residual.gradient", "Gradient of the loss by the sum", (gradient,), x=where),
        Chart("residual.response", "Response by scale (mean-field)", (Series("response", response),), x="scale in %"),
    ]
    return tuple(chart for chart in charts if any(map(math.isfinite, chart.values)))


def _series(sums: Sequence[Contribution], name: str, number: Callable[[Contribution], float]) -> Series:
    return Series(name, tuple((float(place), number(item)) for place, item in enumerate(sums, 1)))


def _table(analysis: ResidualAnalysis) -> str:
    rows = cells(analysis)
    shown = [n for n in range(len(HEADS)) if any(row[n] for row in rows)]
    heads = "".join(f'<th class="{"number" if n else ""}">{escape(HEADS[n])}</th>' for n in shown)
    body = ""
    for number, row in enumerate(rows, 1):
        fields = "".join(f'<td class="{"number" if n else "whole"}">{escape(row[n])}</td>' for n in shown)
        body += f"<tr><td class=number>{number}</td>{fields}</tr>"
    table = f"<table><thead><tr><th></th>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="panel scroll tall">{table}</div>'
