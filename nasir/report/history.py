"""What the records of a run say, in the shapes that charts, tables and the command line want."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from nasir.counted import counted
from nasir.ir.regions import depth_text
from nasir.records import (
    DecisionRecord,
    DeclinedRecord,
    EndRecord,
    EpochRecord,
    KeptRecord,
    PhaseRecord,
    PrefixRecord,
    RecalledRecord,
    Record,
    RewriteRecord,
    StartRecord,
    TrialRecord,
    last_of,
    newest_network,
    of_kind,
)
from nasir.report.plots import Chart, Mark, Series, quantity
from nasir.report.progress import validation
from nasir.rewriting.rewrite import REMARK

__all__ = ["charts", "decision_rows", "duration", "marks", "phase_rows", "summary_rows"]

Records = Sequence[Record]

METRICS = {
    "val.accuracy": "validation",
    "train.accuracy": "training",
    "val.top5": "validation, top 5",
    "val.loss": "validation",
    "train.loss": "training",
}
ACTIONS = {"end_phase": "end of phase"}  # others are called what they are
OWN_KIND = ("freeze", "keep", "recall", "drop")  # of a row, as the action
NAMED = 4  # regions named in a row


def duration(seconds: float) -> str:
    """41.2 s, 12 min 5 s, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"


def percent(value: Any) -> str:
    known = isinstance(value, (int, float)) and math.isfinite(value)
    return f"{100 * value:.2f} %" if known else "-"


def summary_rows(records: Records) -> list[tuple[str, str]]:
    """(what, value) pairs of a run, finished or not, for the head of the report and `nasir report` on a terminal."""
    end = last_of(records, EndRecord)
    epochs = of_kind(records, EpochRecord)
    cost, depths = newest_network(records)
    accuracies = [value for record in epochs if (value := record.metrics.get("val.accuracy")) is not None]
    best = max(filter(math.isfinite, accuracies), default=None)
    seconds = sum(record.seconds for record in epochs) if end is None else end.seconds
    rows = [("status", "done" if end else f"unfinished after {counted(len(epochs), 'epoch')}")]
    if end is not None and "test.accuracy" in end.metrics:
        rows.append(("test accuracy", percent(end.metrics["test.accuracy"])))
    if end is not None and "test.top5" in end.metrics:
        rows.append(("test accuracy, top 5", percent(end.metrics["test.top5"])))
    if best is not None:
        rows.append(("best validation", percent(best)))
    if depths:
        rows.append(("depth", depth_text(depths)))
    rows += [(name, quantity(cost[key])) for key, name in (("params", "parameters"), ("macs", "MACs")) if key in cost]
    rows += [("epochs", _trained(records, epochs)), ("rewrites", str(len(of_kind(records, RewriteRecord))))]
    kept = len(of_kind(records, KeptRecord))
    if kept:
        rows.append(("individuals", str(kept)))
    declined = len(of_kind(records, DeclinedRecord))
    if declined:
        rows.append(("declined", str(declined)))
    return [*rows, ("training time", duration(seconds))]


def phase_rows(records: Records) -> list[dict[str, Any]]:
    """What each phase that began has taken so far, in order.

    Keys: phase, epochs, seconds (of its epochs, wall clock), share (of all seconds, 0..1), rewrites, before and after
    (blocks of each stage), best (validation accuracy, None without).
    """
    rows: list[dict[str, Any]] = []
    depths: Mapping[str, int] = {}
    for record in records:
        match record:
            case StartRecord():
                depths = record.depths
            case PhaseRecord():
                rows.append(
                    {"phase": record.phase, "epochs": 0, "seconds": 0.0, "rewrites": 0, "before": depths, "best": None}
                )
            case RewriteRecord() | RecalledRecord():
                depths = record.depths
                if rows:
                    rows[-1]["rewrites"] += isinstance(record, RewriteRecord)
            case EpochRecord() if rows:
                row, value = rows[-1], record.metrics.get("val.accuracy", math.nan)
                row["epochs"] += 1
                row["seconds"] += record.seconds
                row["best"] = max(value, row["best"] or 0.0) if math.isfinite(value) else row["best"]
        if rows:
            rows[-1]["after"] = depths
    total = sum(row["seconds"] for row in rows)
    return [
        {
            **row,
            "seconds": round(row["seconds"], 3),
            "share": row["seconds"] / total if total else 0.0,
            "before": dict(row["before"]),
            "after": dict(row["after"]),
        }
        for row in rows
    ]


def _trained(records: Records, epochs: Sequence[EpochRecord]) -> str:
    """The number of epochs, and how many of them another run has trained."""
    taken = [f"{record.epochs} taken over from {record.run}" for record in of_kind(records, PrefixRecord)]
    return ", ".join([str(len(epochs)), *taken])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def marks(records: Records) -> tuple[Mark, ...]:
    """Rewrites, and the phases after the first, on the axis of epochs."""
    rewrites = [
        Mark(
            record.epoch,
            "rewrite",
            f"after epoch {record.epoch}: {record.pass_name} at {record.site}"
            + (f", |Δ logits| {record.delta_logits:.3g}" if _is_number(record.delta_logits) else ""),
        )
        for record in of_kind(records, RewriteRecord)
    ]
    return (*rewrites, *(Mark(record.epoch, "phase", record.phase) for record in of_kind(records, PhaseRecord)[1:]))


def charts(records: Records) -> tuple[Chart, ...]:
    """Accuracy, loss, depth, cost, learning rate, penalty and what it leaves alive over epochs, where recorded."""
    epochs, events = of_kind(records, EpochRecord), marks(records)
    stages = list(dict.fromkeys(stage for record in epochs for stage in record.depths))
    fields = {
        "accuracy": (
            "Accuracy",
            [*(_metric(epochs, name) for name in METRICS if not name.endswith("loss")), _best_so_far(epochs)],
            "percent",
            False,
        ),
        "loss": ("Loss", [_metric(epochs, name) for name in METRICS if name.endswith("loss")], "number", False),
        "depth": ("Depth: blocks in each stage", [_depth(epochs, stage) for stage in stages], "count", True),
        "params": (
            "Parameters",
            [_line("parameters", epochs, lambda record: record.params), _alive(epochs, "params")],
            "count",
            True,
        ),
        "macs": (
            "Multiply-accumulates per sample",
            [
                _line("MACs", epochs, lambda record: record.macs),
                _alive(epochs, "macs"),
                _line("executed", epochs, lambda record: record.executed_macs),
            ],
            "count",
            True,
        ),
        "lr": ("Learning rate", [_line("learning rate", epochs, lambda record: record.lr)], "number", True),
        "penalty": ("Penalty", [Series("penalty", _metric(epochs, "train.penalty").points)], "number", False),
        "alive": ("Channels alive", [Series("channels", _alive(epochs, "channels").points)], "count", False),
    }
    made = (
        Chart(key, title, tuple(line for line in series if line.points), events, unit, step)  # type: ignore[arg-type]
        for key, (title, series, unit, step) in fields.items()
    )
    return tuple(chart for chart in made if chart.series)


def _line(name: str, epochs: Sequence[EpochRecord], value: Callable[[EpochRecord], Any]) -> Series:
    return Series(name, _points((record.epoch, value(record)) for record in epochs))


def _metric(epochs: Sequence[EpochRecord], name: str) -> Series:
    return _line(METRICS.get(name, name), epochs, lambda record: record.metrics.get(name))


def _best_so_far(epochs: Sequence[EpochRecord]) -> Series:
    """The running maximum of the validation accuracy, over all phases; epochs without one leave it as it is."""
    line = _metric(epochs, "val.accuracy").points
    best = accumulate((y if math.isfinite(y) else -math.inf for _, y in line), max)
    return Series("best so far", tuple((x, y) for (x, _), y in zip(line, best, strict=True)))


def _alive(epochs: Sequence[EpochRecord], key: str) -> Series:
    """What the network would have with only the channels that a penalty has left alive."""
    return _line("alive", epochs, lambda record: record.alive.get(key))


def _depth(epochs: Sequence[EpochRecord], stage: str) -> Series:
    return _line(stage, epochs, lambda record: record.depths.get(stage))


def _points(pairs: Iterable[tuple[Any, Any]]) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in pairs if isinstance(y, (int, float)))


def decision_rows(records: Records) -> list[dict[str, str]]:
    """What was decided and what came of it, one row a decision, in order: for the table of the report.

    Keys: kind, epoch, phase, action, site, reason, claim, delta, depth, params, seconds.
    """
    rows: list[dict[str, str]] = []
    waiting: dict[str, str] | None = None  # a rewrite decided on: its outcome is the next record
    tried = False  # whether it is that of a trial
    for record in records:
        match record:
            case DecisionRecord():
                rows.append(row := _decided(record))
                waiting = row if record.action in ("rewrite", "trial") else None
                tried = record.action == "trial"
            case TrialRecord():
                site = record.site or "the network as it is"
                worth = ", ".join(validation(record.metrics))
                rows.append(_of_pass(record, "tried", site=site, reason=worth or "trained"))
            case DeclinedRecord() if tried:  # a candidate of a trial; another one may yet be adopted
                rows.append(row := _of_pass(record, record.pass_name))
                row.update(_outcome(record, ""))
            case KeptRecord() if rows:
                rows[-1].update(_worth(record, rows[-1]["reason"]))
            case RewriteRecord() | DeclinedRecord():
                if waiting is None:  # applied by hand, without a policy
                    rows.append(waiting := _of_pass(record, record.pass_name))
                waiting.update(_outcome(record, waiting["reason"]), site=record.site)
                waiting = None
    return rows


def _decided(record: DecisionRecord) -> dict[str, str]:
    if record.action in ("rewrite", "trial"):
        return _of_pass(record, record.pass_name, reason=record.reason)
    kind = record.action if record.action in OWN_KIND else "end"
    row = _of_pass(record, ACTIONS.get(record.action, record.action), kind, reason=record.reason)
    return row if record.individual is None else {**row, "site": f"individual {record.individual}"}


def _of_pass(
    record: DecisionRecord | TrialRecord | RewriteRecord | DeclinedRecord,
    action: str,
    kind: str = "rewrite",
    site: str | None = None,
    reason: str = "",
) -> dict[str, str]:
    options = record.options.items()
    shown = ", ".join(f"{key}={value}" for key, value in options if isinstance(value, (str, int, float)))
    place = {"epoch": str(record.epoch), "phase": record.phase, "site": site or record.site or ""}
    facts = {"kind": kind, "action": action, "options": shown, "reason": reason}
    return {**place, **facts, "claim": "", "delta": "", "depth": "", "params": "", "seconds": ""}


def _worth(record: KeptRecord, reason: str) -> dict[str, str]:
    """What the row of an individual says beside why it was kept."""
    return {
        "reason": "; ".join(filter(None, [reason, ", ".join(validation(record.metrics))])),
        "depth": depth_text(record.depths),
        "params": "" if record.params is None else quantity(record.params),
    }


def _outermost(paths: Sequence[str]) -> str:
    """Regions that lie in no other one of them, a few by name."""
    outer = [path for path in paths if not any(path.startswith(f"{other}.") for other in paths)]
    return ", ".join(outer[:NAMED]) + (f" and {len(outer) - NAMED} more" if len(outer) > NAMED else "")


def _outcome(record: RewriteRecord | DeclinedRecord, reason: str) -> dict[str, str]:
    if isinstance(record, DeclinedRecord):
        because = f"declined: {record.reason}"
        return {"kind": "declined", "reason": f"{reason}; {because}" if reason else because}
    # a refresh comes after the rewrite, and may be all that it does
    deltas = [record.delta_logits, (record.refresh or {}).get("delta_logits")]
    delta = max([value for value in deltas if isinstance(value, (int, float))], default=None)
    changes = [("adds", record.added), ("removes", record.removed)]
    told = [f"{verb} {_outermost(paths)}" for verb, paths in changes if paths]
    told += [str(record.noted[REMARK])] if REMARK in record.noted else []
    return {
        "reason": "; ".join(filter(None, [reason, *told])),
        "claim": record.preserves,
        "delta": "" if delta is None else f"{delta:.3g}",
        "depth": depth_text(record.depths),
        "params": quantity(record.cost["params"]) if record.cost else "",
        "seconds": "" if record.seconds is None else f"{record.seconds:.3g} s",
    }
