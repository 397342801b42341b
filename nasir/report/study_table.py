"""The table of the trials of a study, one row an attempt, and the table of its choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from nasir.counted import counted
from nasir.ir.regions import depth_text
from nasir.report.history import duration
from nasir.report.plots import quantity
from nasir.report.study_axes import amount, metric_name, short_names
from nasir.report.study_facts import ParameterFacts, StudyFacts, TrialFacts, Value

__all__ = ["choices_table", "link", "remark", "trials_table", "written"]

LACK = "-"  # of a choice that is not active
ROWS = 5000  # a longer table is better read from the export


@dataclass(frozen=True, slots=True)
class _Cell:
    words: str
    sort: float | str | None = None  # None: sorts last
    style: str = ""
    hint: str = ""


def written(value: Value) -> str:
    """The value of a choice in words."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def link(trial: TrialFacts, folder: Path) -> str | None:
    """Where the report of a trial lies, relative to that of the study; None where there is none."""
    if not trial.run:
        return None
    path = folder / trial.run / "report.html"
    inside = folder.resolve() in path.resolve().parents
    return quote(f"{trial.run}/report.html") if inside and path.is_file() else None


def remark(trial: TrialFacts) -> str:
    """What is out of the ordinary about an attempt, in a few words."""
    words = []
    if trial.outcome in ("lost", "preempted"):
        next_one = f"retried as {trial.retried_as}" if trial.retried_as is not None else "waits for a retry"
        words.append(next_one)
    if trial.error:
        words.append(trial.error)
    words += [f"breaks {name}" for name, value in trial.constraints.items() if value > 0]
    if trial.cached_from is not None:
        words.append(f"result of trial {trial.cached_from}")
    if trial.prefix_epochs:
        words.append(f"{counted(trial.prefix_epochs, 'epoch')} shared")
    if trial.resumed:
        words.append(f"resumed after {counted(trial.resumed, 'epoch')}")
    return ", ".join(words)


def trials_table(facts: StudyFacts, folder: Path) -> str:
    """All attempts that began, sortable by their columns; the number of a trial that has a report links to it."""
    short = short_names([parameter.name for parameter in facts.parameters])
    limited = _limited(facts)
    # (heading, title, style)
    head = [("trial", "", "number"), ("point", "one ticket of the study", "number"), ("outcome", "", "")]
    head += [
        (metric_name(objective.metric), f"{objective.direction} {objective.metric}", "number")
        for objective in facts.objectives
    ]
    head += [(metric_name(name), name, "number") for name in limited]
    head += [
        (short[parameter.name], parameter.name, "" if parameter.kind == "categorical" else "number")
        for parameter in facts.parameters
    ]
    head += [("depth", "blocks in each stage", ""), ("epochs", "of the trial, shared ones included", "number")]
    head += [("CPU time", "spent by this attempt", "number"), ("took", "wall time", "number"), ("worker", "", "")]
    head += [("remarks", "", "why")]
    cells = "".join(f'<th class="{style}" title="{escape(hint)}">{escape(words)}</th>' for words, hint, style in head)
    begun = [trial for trial in facts.trials if trial.outcome != "waiting"]
    body = "".join(_row(trial, facts, limited, folder) for trial in begun[:ROWS])
    table = f'<table id="trials"><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>'
    more = [f"{len(begun) - ROWS} more are in the export."] if len(begun) > ROWS else []
    more += [f"{len(facts.trials) - len(begun)} wait for a worker."] if len(begun) < len(facts.trials) else []
    note = f'<p class="sub">{" ".join(more)}</p>' if more else ""
    return f'<div class="panel scroll tall">{table}</div>{note}'


def _limited(facts: StudyFacts) -> list[str]:
    """Quantities beside the objectives that have a column: the cost of the network, and what is constrained."""
    known = {objective.metric for objective in facts.objectives}
    bound = [words.split("<")[0].split(">")[0].strip() for words in facts.constraints]  # METRIC <= NUMBER
    limited = [name for name in dict.fromkeys(["macs", "params", *bound]) if name not in known]
    return [name for name in limited if any(name in trial.cost or name in trial.metrics for trial in facts.trials)]


def _row(trial: TrialFacts, facts: StudyFacts, limited: Sequence[str], folder: Path) -> str:
    front = trial.number in facts.front
    name = f"{trial.number}{' ★' if front else ''}"
    attempt = f" · {trial.attempt + 1}" if trial.attempt else ""
    cells = [
        _Cell(name, trial.number, "number"),
        _Cell(f"{trial.point}{attempt}", trial.point + trial.attempt / 100, "number", f"attempt {trial.attempt + 1}"),
        _Cell(trial.outcome, trial.outcome, f"outcome o-{trial.outcome}"),
    ]
    for index, objective in enumerate(facts.objectives):
        value = trial.values[index] if index < len(trial.values) else None
        cells.append(_number(objective.metric, value))
    cells += [_number(name, trial.cost.get(name, trial.metrics.get(name))) for name in limited]
    cells += [_choice(trial, parameter) for parameter in facts.parameters]
    cells.append(_Cell(depth_text(trial.depths), sum(trial.depths.values()) or None))
    cells.append(_Cell("" if trial.epochs is None else str(trial.epochs), trial.epochs, "number"))
    cells += [_time(trial.spent_cpu_seconds), _time(_took(trial))]
    cells.append(_Cell(trial.worker, trial.worker or None, "", trial.machine))
    cells.append(_Cell(remark(trial), remark(trial) or None, "why"))
    target = link(trial, folder)
    text = "".join(_td(cell, target if index == 0 else None) for index, cell in enumerate(cells))
    return f'<tr class="t{" onfront" if front else ""}" data-t="{trial.number}" tabindex="0">{text}</tr>'


def _choice(trial: TrialFacts, parameter: ParameterFacts) -> _Cell:
    style = "" if parameter.kind == "categorical" else "number"
    if parameter.name not in trial.params:
        return _Cell(LACK, None, f"off {style}".strip(), "not active")
    chosen = trial.params[parameter.name]
    raw = chosen if isinstance(chosen, (int, float)) and not isinstance(chosen, bool) else written(chosen)
    return _Cell(written(chosen), raw, style)


def _took(trial: TrialFacts) -> float | None:
    if trial.start is not None and trial.end is not None:
        return trial.end - trial.start
    return trial.seconds


def _number(metric: str, value: float | None) -> _Cell:
    return _Cell("" if value is None else amount(metric, value), value, "number")


def _time(seconds: float | None) -> _Cell:
    return _Cell("" if seconds is None else duration(seconds), seconds, "number")


def _td(cell: _Cell, target: str | None) -> str:
    words = escape(cell.words)
    if target is not None:
        words = f'<a href="{escape(target)}">{words}</a>'
    sort = "" if cell.sort is None else f' data-v="{escape(str(cell.sort))}"'
    hint = f' title="{escape(cell.hint)}"' if cell.hint else ""
    style = f' class="{cell.style}"' if cell.style else ""
    return f"<td{style}{hint}{sort}>{words}</td>"


def choices_table(facts: StudyFacts) -> str:
    """The space: each choice with its domain, and what the best trials took."""
    chosen = [facts.trial(number) for number in facts.front[:6]]
    defaults: Mapping[str, Value] = next((trial.params for trial in facts.trials if trial.defaults), {})
    shares = dict(facts.importance[0].shares) if facts.importance else {}
    columns = ["choice", "domain", *(["when"] if any(parameter.when for parameter in facts.parameters) else [])]
    columns += (["defaults"] if defaults else []) + (["importance"] if shares else [])
    columns += [f"trial {trial.number}" for trial in chosen]
    rows = []
    for parameter in facts.parameters:
        cells = [parameter.name, parameter.domain]
        cells += [parameter.when] if "when" in columns else []
        cells += [written(defaults[parameter.name]) if parameter.name in defaults else LACK] if defaults else []
        cells += [f"{100 * shares[parameter.name]:.0f} %" if parameter.name in shares else ""] if shares else []
        cells += [written(trial.params[parameter.name]) if parameter.name in trial.params else LACK for trial in chosen]
        rows.append("".join(f"<td>{escape(cell)}</td>" for cell in cells))
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="panel scroll">{table}</div>' if rows else "<p>No choice has been made yet.</p>"


def cost_words(trial: TrialFacts) -> str:
    """`21.3 M MACs, 272 k parameters`."""
    named = (("macs", "MACs"), ("params", "parameters"))
    return ", ".join(f"{quantity(float(trial.cost[key]))} {name}" for key, name in named if key in trial.cost)
