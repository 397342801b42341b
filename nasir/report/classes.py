"""What a report and a terminal say of the data of a run, and how well its network knows each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from nasir.errors import NasirError
from nasir.journal.directory import RunDirectory
from nasir.records import DataSummary, EndRecord, Record, StartRecord, last_of, of_kind

__all__ = ["Answers", "class_facts", "data_lines", "data_rows", "data_section"]

MATRIX = 20  # classes up to which the whole confusion matrix is shown
CONFUSED = 20  # pairs that are named where there are more
PARTS = {"train": "training", "validation": "validation", "test": "test"}


@dataclass(frozen=True, slots=True)
class Answers:
    """How often each class (row) was taken for each (column) in the test part: [C, C]."""

    counts: np.ndarray[Any, np.dtype[np.int64]]

    @property
    def accuracies(self) -> list[float | None]:
        """The share of its examples that is recognized, of each class; None for one that has none."""
        totals = self.counts.sum(1)
        right = self.counts.diagonal()
        return [int(hit) / int(total) if total else None for hit, total in zip(right, totals, strict=True)]

    @property
    def balanced(self) -> float:
        """The mean of these: the accuracy if all classes were equally frequent."""
        known = [value for value in self.accuracies if value is not None]
        return sum(known) / len(known)

    def confusions(self) -> list[tuple[int, int, int]]:
        """(class, what it was taken for, how often), the most frequent first."""
        wrong = self.counts - np.diag(self.counts.diagonal())
        pairs = [(int(row), int(column), int(wrong[row, column])) for row, column in np.argwhere(wrong)]
        return sorted(pairs, key=lambda pair: (-pair[2], pair[:2]))


def data_rows(data: DataSummary) -> list[tuple[str, str]]:
    """(what, value) pairs of a summary."""
    rows = [("data set", data.dataset), ("classes", f"{len(data.classes):,}")]
    rows += [(f"{called} examples", f"{data.total(part):,}") for part, called in PARTS.items()]
    if len(data.shape) == 3:
        channels, height, width = data.shape
        rows.append(("seen as", f"{width}x{height}, {'grey' if channels == 1 else f'{channels} channels'}"))
    elif data.shape:
        rows.append(("seen as", f"vectors of {data.shape[0]}"))
    sizes = {name: f"{width}x{height}" for name, (height, width) in data.sizes.items()}
    if sizes:
        same = len(set(sizes.values())) == 1
        rows.append(("image size", sizes["median"] if same else f"{sizes['smallest']} to {sizes['largest']}"))
        rows += [] if same else [("median image", sizes["median"])]
    if data.mean and len(data.mean) <= 4:
        rows.append(("mean", ", ".join(f"{value:.3g}" for value in data.mean)))
        rows.append(("standard deviation", ", ".join(f"{value:.3g}" for value in data.std)))
    return rows


def data_lines(data: DataSummary) -> list[str]:
    """A summary for a terminal."""
    rows = data_rows(data)
    wide = max(len(what) for what, _ in rows)
    lines = [f"{what.ljust(wide)}  {value}" for what, value in rows]
    name = max(len("class"), *(len(each) for each in data.classes))
    lines += ["", f"{'class'.ljust(name)}  {'  '.join(f'{called:>10}' for called in PARTS.values())}"]
    for place, each in enumerate(data.classes):
        lines.append(f"{each.ljust(name)}  {'  '.join(f'{data.counts[part][place]:>10,}' for part in PARTS)}")
    return [*lines, *([""] if data.warnings else []), *(f"warning: {text}" for text in data.warnings)]


def class_facts(run: RunDirectory, records: Sequence[Record]) -> dict[str, Any]:
    """The summary of the data and the accuracy of each class, for programs; null where a run does not tell."""
    data, answers = _data(records), _answers(run, records)
    names = data.classes if data is not None else ()
    facts = None
    if answers is not None and len(names) == len(answers.counts):
        facts = {
            "balanced_accuracy": answers.balanced,
            "accuracy": dict(zip(names, answers.accuracies, strict=True)),
            "confusion": answers.counts.tolist(),
        }
    return {"data": None if data is None else data.to_json(), "classes": facts}


def data_section(run: RunDirectory, records: Sequence[Record], facts: Any) -> str:
    """The part of a report about the data and the classes, as HTML; `facts` makes tiles of (what, value) pairs."""
    data, answers = _data(records), _answers(run, records)
    if data is None:
        return ""
    if answers is not None and len(answers.counts) != len(data.classes):
        answers = None
    rows = data_rows(data)
    if answers is not None:
        rows.append(("balanced test accuracy", f"{100 * answers.balanced:.2f} %"))
    warned = "".join(f"<li>{escape(text)}</li>" for text in data.warnings)
    warnings = f'<ul class="panel warnings">{warned}</ul>' if warned else ""
    parts = ["<h2>Data</h2>", warnings, facts(rows), "<h2>Classes</h2>", _table(data, answers)]
    if answers is not None:
        parts.append(_confusion(data.classes, answers))
    return "".join(parts)


def _data(records: Sequence[Record]) -> DataSummary | None:
    start = next(iter(of_kind(records, StartRecord)), None)
    return DataSummary.from_json(start.data) if start is not None and start.data else None


def _answers(run: RunDirectory, records: Sequence[Record]) -> Answers | None:
    end = last_of(records, EndRecord)
    if end is None or not end.confusion:
        return None
    try:
        counts = run.get_array(end.confusion)
    except NasirError:
        return None  # the rest of the report is of use without it
    return Answers(counts) if counts.ndim == 2 and counts.shape[0] == counts.shape[1] and counts.any() else None


def _table(data: DataSummary, answers: Answers | None) -> str:
    heads = ["class", "train", "validation", "test", *(["accuracy"] if answers else [])]
    head = "".join(f'<th class="{"number" if place else ""}">{text}</th>' for place, text in enumerate(heads))
    body = ""
    for place, name in enumerate(data.classes):
        cells = [f"{data.counts[part][place]:,}" for part in PARTS]
        if answers:
            known = answers.accuracies[place]
            cells.append("-" if known is None else f"{100 * known:.1f} %")
        body += f"<tr><td>{escape(name)}</td>{''.join(f'<td class=number>{cell}</td>' for cell in cells)}</tr>"
    note = '<p class="sub">Examples of each class; the accuracy is that of the test.</p>' if answers else ""
    table = f'<table class="classes"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'{note}<div class="panel scroll tall">{table}</div>'


def _confusion(names: Sequence[str], answers: Answers) -> str:
    title = "<h2>What the test examples were taken for</h2>"
    if len(names) > MATRIX:
        return title + _pairs(names, answers)
    note = '<p class="sub">A row for each class; the columns are what the network answered, by number.</p>'
    head = "".join(f'<th title="{escape(name)}">{number}</th>' for number, name in enumerate(names))
    body = ""
    for row, name in enumerate(names):
        total = max(int(answers.counts[row].sum()), 1)
        cells = "".join(_cell(int(count), total, row == column) for column, count in enumerate(answers.counts[row]))
        body += f"<tr><th>{row} {escape(name)}</th>{cells}</tr>"
    table = f'<table class="cells"><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'{title}{note}<div class="panel scroll">{table}</div>'


def _cell(count: int, total: int, right: bool) -> str:
    if not count:
        return "<td></td>"
    shade = round(6 + 40 * count / total)
    colour = "--c2" if right else "--c1"
    return f'<td style="background:color-mix(in srgb,var({colour}) {shade}%,transparent)">{count:,}</td>'


def _pairs(names: Sequence[str], answers: Answers) -> str:
    totals: Mapping[int, int] = dict(enumerate(answers.counts.sum(1).tolist()))
    rows = "".join(
        f"<tr><td>{escape(names[row])}</td><td>{escape(names[column])}</td><td class=number>{count:,}</td>"
        f"<td class=number>{100 * count / totals[row]:.1f} %</td></tr>"
        for row, column, count in answers.confusions()[:CONFUSED]
    )
    if not rows:
        return '<p class="sub">All of them for what they are.</p>'
    head = '<th>class</th><th>taken for</th><th class="number">times</th><th class="number">of its examples</th>'
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<p class="sub">The most frequent confusions.</p><div class="panel scroll">{table}</div>'
