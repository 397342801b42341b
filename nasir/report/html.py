"""The HTML report of a run, and the drawing of a network: single pages that need nothing but a browser."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nasir.counted import counted
from nasir.errors import NasirError
from nasir.files import write_atomically
from nasir.ir import Graph
from nasir.ir.regions import depth_text
from nasir.journal.directory import RunDirectory
from nasir.journal.log import effective, lineage
from nasir.records import EndRecord, PhaseRecord, Record, ResumeRecord, RewriteRecord, StartRecord, of_kind
from nasir.report.classes import data_section
from nasir.report.graph_svg import draw
from nasir.report.history import charts, decision_rows, duration, percent, phase_rows, summary_rows
from nasir.report.page import page
from nasir.report.plots import Chart, label, quantity, render
from nasir.report.residual_section import residual_section

__all__ = ["fact_list", "figures", "fold", "panel", "readout", "write_drawing", "write_report"]

COLUMNS = (
    ("epoch", "epoch", "number"),
    ("phase", "phase", ""),
    ("action", "action", "kind"),
    ("site", "site", ""),
    ("reason", "reason", "why"),
    ("claim", "claim", ""),
    ("delta", "|Δ logits|", "number"),
    ("depth", "depth", ""),
    ("params", "params", "number"),
    ("seconds", "took", "number"),
)


def write_report(run_dir: str | Path) -> Path:
    """Write `report.html` of a run from its journal and blobs, and return its path.

    The run may be under way or have been interrupted; a missing graph, spec or environment leaves its section out and
    says so. Raises JournalError where the journal itself cannot be read.
    """
    run = RunDirectory.open(run_dir)
    contents = run.contents().sound()
    records = effective(contents.records)
    drawn = charts(records)
    residuals, more = residual_section(run, figures, lambda rows: fact_list(rows, wide=True))
    start = next(iter(of_kind(records, StartRecord)), None)
    name = (start and start.name) or run.path.resolve().name
    sections = [
        _head(name, records, len(of_kind(contents.records, ResumeRecord))),
        f"<h2>Training</h2>{figures(drawn)}",
        data_section(run, records, lambda rows: fact_list(rows, wide=True)),
        _phases(records),
        _network(run, records),
        residuals,
        _decisions(records),
        fold("Spec", _spec(run)),
        fold("Environment", _environment(run)),
        f"<footer>{_origin(start)} · {contents.chain.stamp()}</footer>" if start else "",
    ]
    text = page(f"{name} - nasir", "\n".join(sections), {chart.key: readout(chart) for chart in (*drawn, *more)})
    write_atomically(run.report_path, text.encode("utf-8"))
    return run.report_path


def write_drawing(graph: Graph, path: Path, title: str) -> Path:
    """Write a page with the drawing of one network, and return its path."""
    cost = graph.cost()
    rows = [("parameters", quantity(cost.params)), ("MACs", quantity(cost.macs)), ("nodes", str(len(graph.nodes)))]
    if graph.depths():
        rows.insert(0, ("depth", depth_text(graph.depths())))
    body = f"<header><h1>{escape(title)}</h1>{fact_list(rows)}</header>{panel(draw(graph))}"
    write_atomically(path, page(title, body, {}).encode("utf-8"))
    return path


def _origin(start: StartRecord) -> str:
    return f"nasir {escape(start.nasir)} · spec {escape(start.spec_digest[:12])} · seed {start.seed}"


def _head(name: str, records: Sequence[Record], resumes: int) -> str:
    rows = summary_rows(records)
    done = rows[0][1] == "done"
    badge = f'<span class="badge{" done" if done else ""}">{escape(rows[0][1])}</span>'
    phases = " → ".join(record.phase for record in of_kind(records, PhaseRecord))
    remarks = [
        f"phases: {phases}" if phases else "",
        f"resumed {counted(resumes, 'time')}" if resumes else "",
    ]
    remark = " · ".join(filter(None, remarks))
    return f'<header><h1>{escape(name)}{badge}</h1><p class="sub">{escape(remark)}</p>{fact_list(rows[1:])}</header>'


def fact_list(rows: Sequence[tuple[str, str]], wide: bool = False) -> str:
    """(what, value) pairs as tiles; `wide`: for values of several words."""
    cells = "".join(f"<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>" for what, value in rows)
    return f'<dl class="facts{" wide" if wide else ""}">{cells}</dl>'


def figures(drawn: Sequence[Chart]) -> str:
    """Charts side by side, with a place for the values under the pointer."""
    if not drawn:
        return "<p>No epoch has been finished yet.</p>"
    shown = "".join(
        f"<figure><figcaption>{escape(chart.title)}<output></output></figcaption>{render(chart)}</figure>"
        for chart in drawn
    )
    return f'<div class="charts">{shown}</div>'


def readout(chart: Chart) -> list[dict[str, Any]]:
    """The values of a chart in words, for the script of the page, under the key of the chart."""
    return [{"name": line.name, "at": {f"{x:g}": label(chart, y) for x, y in line.points}} for line in chart.series]


def _network(run: RunDirectory, records: Sequence[Record]) -> str:
    own = lineage(records)  # of the network's own past, where a policy went back to others
    holders = [record for record in own if isinstance(record, StartRecord | RewriteRecord | EndRecord) and record.graph]
    if not holders:
        return ""
    title = "Network" if isinstance(holders[-1], EndRecord) else "Network so far"
    try:
        graph = Graph.from_json(run.get_blob(holders[-1].graph))
        drawing = draw(graph, _born(run, holders))
    except NasirError as error:
        return f"<h2>{title}</h2><p>It cannot be drawn: {escape(str(error))}</p>"
    buttons = '<button data-open="1">unfold all</button><button data-open="0">fold all</button>'
    key = "One box a block: height is image size, width is channels. Solid boxes were added while training."
    if any(region.kind == "branch" for region in graph.regions.values()):
        key += " Branches, which run side by side, are drawn one after another."
    tools = f'<p class="sub">{key}</p><div class="tools">{buttons}</div>'
    return f'<h2>{title}</h2><div id="network">{panel(tools + drawing)}</div>'


def panel(content: str) -> str:
    """A framed part of the page; `content` is HTML."""
    return f'<div class="panel">{content}</div>'


def _born(run: RunDirectory, holders: Sequence[StartRecord | RewriteRecord | EndRecord]) -> dict[str, str]:
    """When each block region appeared, from the graphs recorded with the rewrites."""
    born: dict[str, str] = {}
    known: set[str] | None = None
    for record in holders:
        try:
            regions = {str(path) for path, *_ in run.get_blob(record.graph)["regions"]}
        except (NasirError, KeyError, TypeError, ValueError):
            continue  # one lost graph only blurs when its blocks came
        for path in regions - (known if known is not None else regions):
            born[path] = f"added after epoch {getattr(record, 'epoch', '?')}"
        known = regions
    return born


PHASE_COLUMNS = (
    ("phase", "whole"),
    ("epochs", "number"),
    ("time", "number"),
    ("share", "number"),
    ("per epoch", "number"),
    ("depth", "whole"),
    ("rewrites", "number"),
    ("best validation", "number"),
)


def _phases(records: Sequence[Record]) -> str:
    """How long each phase took and what came of it."""
    rows = [row for row in phase_rows(records) if row["epochs"]]
    if not rows:
        return ""
    head = "".join(f'<th class="{style}">{name}</th>' for name, style in PHASE_COLUMNS)
    body = ""
    for row in rows:
        before, after = depth_text(row["before"]), depth_text(row["after"])
        cells = (
            row["phase"],
            str(row["epochs"]),
            duration(row["seconds"]),
            f"{100 * row['share']:.0f} %",
            duration(row["seconds"] / row["epochs"]),
            before if before == after else f"{before} → {after}",
            str(row["rewrites"]),
            percent(row["best"]),
        )
        shown = [f'<td class="{style}">{escape(c)}</td>' for c, (_, style) in zip(cells, PHASE_COLUMNS, strict=True)]
        body += f"<tr>{''.join(shown)}</tr>"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<h2>Phases</h2><div class="panel scroll">{table}</div>'


def _decisions(records: Sequence[Record]) -> str:
    rows = decision_rows(records)
    if not rows:
        return "<h2>Decisions</h2><p>None yet.</p>"
    shown = [column for column in COLUMNS if any(row[column[0]] for row in rows)]
    head = "".join(f'<th class="{style if style == "number" else ""}">{escape(text)}</th>' for _, text, style in shown)
    body = "".join(f"<tr>{''.join(_cell(row, key, style) for key, _, style in shown)}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<h2>Decisions</h2><div class="panel scroll tall">{table}</div>'


def _cell(row: Mapping[str, str], key: str, style: str) -> str:
    name = f"kind {row['kind']}" if style == "kind" else style
    hint = f' title="{escape(row["options"])}"' if style == "kind" and row["options"] else ""
    return f'<td class="{name}"{hint}>{escape(row[key])}</td>'


def fold(title: str, text: str) -> str:
    """A headed part of the page with plain text."""
    return f'<h2>{title}</h2><div class="panel"><pre>{escape(text)}</pre></div>'


def _spec(run: RunDirectory) -> str:
    try:
        return run.spec()
    except NasirError as error:
        return str(error)


def _environment(run: RunDirectory) -> str:
    try:
        return json.dumps(run.env(), indent=2, ensure_ascii=False)
    except NasirError as error:
        return str(error)
