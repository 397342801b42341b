"""A residual analysis as text: a table with a line for each residual sum, and what follows from them."""

from __future__ import annotations

import math
from collections import Counter

from nasir.analysis.branch_scales import path_mass
from nasir.analysis.contributions import Contribution, ResidualAnalysis
from nasir.counted import counted

HEADS = (
    "",
    "|f|/|x|",
    "mean",
    "|f|/|x+f|",
    "var x",
    "var f",
    "var x+f",
    "share of f",
    "1/(l+1)",
    "scale",
    "|gradient|",
)
NOTES = (
    "|f|/|x|, |f|/|x+f|: Euclidean norms of branch, stream and sum of a sample; the median over samples, and the mean",
    "var: of each channel over samples and places, the mean over channels; share of f: var f / var x+f",
    "1/(l+1): that share if the stream's beginning and its l branches were independent and equally strong",
    "path mass: product of 1 + |f|/|x|; effective depth: branches on a path, by weight; variance growth: last x+f to x",
    "most responsive scale: of a mean-field network of as many sums as lie on the longest way",
    "|gradient|: of the loss of a sample by the sum, the mean over samples",
)
"""What the columns mean."""


def render(analysis: ResidualAnalysis) -> str:
    """The analysis for a terminal."""
    if not analysis.sums:
        return "the network has no residual sums: no block adds a branch to what it reads"
    rows = [HEADS, *cells(analysis)]
    columns = [n for n in range(len(HEADS)) if n == 0 or any(row[n] for row in rows[1:])]
    widths = [max(len(row[n]) for row in rows) for n in range(len(HEADS))]
    lines = [headline(analysis), ""]
    for row in rows:
        fields = [row[n].ljust(widths[n]) if n == 0 else row[n].rjust(widths[n]) for n in columns]
        lines.append("  ".join(fields).rstrip())
    facts = summary(analysis)
    wide = max(len(name) for name, _ in facts)
    lines += ["", *(f"{name.ljust(wide)}  {value}" for name, value in facts)]
    if analysis.orders:
        lines += ["", "order  |part|/|logits|  rest"]
        lines += [f"{item.order:>5}  {_short(item.share):>15}  {_short(item.partial):>4}" for item in analysis.orders]
    notes = NOTES if HEADS.index("|gradient|") in columns else NOTES[:-1]
    return "\n".join([*lines, "", *notes])


def headline(analysis: ResidualAnalysis) -> str:
    """What was measured, with which weights, on what."""
    by = "their running statistics" if analysis.statistics == "running" else "the statistics of the batch"
    count = counted(len(analysis.sums), "residual sum")
    return f"{count} x + f(x): {analysis.weights}, {analysis.samples} {analysis.data}, batch norms by {by}"


def cells(analysis: ResidualAnalysis) -> list[tuple[str, ...]]:
    """A row for each sum, under `HEADS`; empty where nothing was measured."""
    several = {block for block, count in Counter(item.block for item in analysis.sums).items() if count > 1}
    scaled = any(item.scale != 1 for item in analysis.sums)
    return [_row(item, item.label if item.block in several else item.block, scaled) for item in analysis.sums]


def summary(analysis: ResidualAnalysis) -> list[tuple[str, str]]:
    """(what, value) pairs for the network as a whole."""
    sums = analysis.sums
    if not sums:
        return []
    count = len(sums)
    grown = sums[-1].total / sums[0].stream if sums[0].stream else math.nan
    scaled = [("path mass of scales", _short(analysis.scale_mass))] if any(item.scale != 1 for item in sums) else []
    return [
        ("path mass", f"{_short(analysis.path_mass)} ({_short(path_mass(1.0, count))} at ratios of 1)"),
        *scaled,
        ("effective depth", f"{_short(analysis.effective_depth)} of {count} branches"),
        ("variance growth", _short(grown)),
        ("most responsive scale", _short(analysis.most_responsive_scale or math.nan)),
    ]


def _row(item: Contribution, name: str, scaled: bool) -> tuple[str, ...]:
    return (
        f"{name} (projected)" if item.projected else name,
        _short(item.ratio.median),
        _short(item.ratio.mean),
        _short(item.share.median),
        _short(item.stream),
        _short(item.branch),
        _short(item.total),
        _short(item.variance_share),
        _short(item.expected_share),
        _short(item.scale) if scaled else "",
        "" if item.gradient is None else _short(item.gradient),
    )


def _short(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:#.3g}".rstrip(".") if 1e-3 <= abs(value) < 1e3 else f"{value:.3g}"
