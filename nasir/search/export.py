"""The trials of a study as CSV, for spreadsheets and other programs: one row an attempt, columns in a fixed order."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from datetime import UTC, datetime

from nasir.report.study_facts import StudyFacts, TrialFacts, Value

__all__ = ["columns", "to_csv"]

FIRST = ("number", "point", "attempt", "outcome")
LAST = (
    "epochs", "prefix_epochs", "cached_from", "resumed", "retried_as", "cpu_seconds", "spent_cpu_seconds", "seconds",
    "started", "ended", "worker", "machine", "run", "error",
)  # fmt: skip
ACTIVE = "=+-@\t\r"  # a cell of text that begins so is run as a formula by spreadsheets


def columns(facts: StudyFacts) -> tuple[str, ...]:
    """The header: what every study has, then objectives, choices, metrics, constraints, cost and depths of this one.

    A choice is headed `params.NAME`, an objective `values.METRIC`, a constraint `constraints.TEXT`, and so on. Names
    that differ between trials (metrics, stages) come in alphabetical order.
    """
    return (
        *FIRST,
        *(f"values.{objective.metric}" for objective in facts.objectives),
        *(f"params.{parameter.name}" for parameter in facts.parameters),
        *(f"constraints.{text}" for text in facts.constraints),
        *_found("metrics", facts.trials),
        *_found("cost", facts.trials),
        *_found("depths", facts.trials),
        *LAST,
    )


def _found(field: str, trials: Iterable[TrialFacts]) -> list[str]:
    return [f"{field}.{name}" for name in sorted({name for trial in trials for name in getattr(trial, field)})]


def to_csv(facts: StudyFacts) -> str:
    """All attempts as CSV text (RFC 4180: commas, CRLF), times as ISO 8601 in UTC, durations in seconds.

    Numbers are written in full. An empty cell means that there is no such value. Text that a spreadsheet would run as a
    formula gets an apostrophe before it.
    """
    header = columns(facts)
    made = io.StringIO(newline="")
    writer = csv.writer(made)
    writer.writerow([_safe(name) for name in header])
    for trial in facts.trials:
        cells = _cells(trial, facts)
        writer.writerow([_safe(cells.get(name)) for name in header])
    return made.getvalue()


def _cells(trial: TrialFacts, facts: StudyFacts) -> dict[str, Value]:
    cells: dict[str, Value] = {name: getattr(trial, name) for name in (*FIRST, *LAST) if hasattr(trial, name)}
    cells |= {"started": _time(trial.start), "ended": _time(trial.end)}
    cells |= {
        f"values.{objective.metric}": value for objective, value in zip(facts.objectives, trial.values, strict=False)
    }
    cells |= {f"params.{name}": _null(value) for name, value in trial.params.items()}
    for field in ("constraints", "metrics", "cost", "depths"):
        cells |= {f"{field}.{name}": value for name, value in getattr(trial, field).items()}
    return cells


def _null(value: Value) -> Value:
    """An alternative that is null is not the same as a choice that is not active."""
    return "null" if value is None else value


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _safe(value: Value) -> Value:
    return f"'{value}" if isinstance(value, str) and value[:1] in ACTIVE and value else value
