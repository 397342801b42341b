"""What the records of a run say, in the shapes that charts, tables and the command line want."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nasir.ir.regions import depth_text
from nasir.report.plots import Chart, Mark, Series, quantity

__all__ = ["charts", "decision_rows", "duration", "marks", "summary_rows"]

Records = Sequence[Mapping[str, Any]]

METRICS = {
    "val.accuracy": "validation",
    "train.accuracy": "training",
    "val.loss": "validation",
    "train.loss": "training",
}
ACTIONS = {"end_phase": "end of phase"}  # others are called what they are
OWN_KIND = ("freeze", "keep", "recall", "drop")  # of a row, as the action
CHANGES = {"added": "adds", "removed": "removes"}  # regions, by key of a rewrite record
NAMED = 4  # regions named in a row


def of_kind(records: Records, kind: str) -> list[Mapping[str, Any]]:
    return [record for record in records if record["kind"] == kind]


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
    start, end = (next(iter(of_kind(records, kind)[-1:]), {}) for kind in ("start", "end"))
    epochs = of_kind(records, "epoch")
    last = epochs[-1] if epochs else {}
    cost = end.get("cost") or {key: last[key] for key in ("params", "macs") if key in last} or start.get("cost") or {}
    depths = end.get("depths") or last.get("depths") or start.get("depths") or {}
    best = max((value for record in epochs if _is_number(value := record["metrics"].get("val.accuracy"))), default=None)
    seconds = end.get("seconds", sum(record.get("seconds", 0.0) for record in epochs))
    rows = [("status", "done" if end else f"unfinished after {len(epochs)} epochs")]
    if "test.accuracy" in end.get("metrics", {}):
        rows.append(("test accuracy", percent(end["metrics"]["test.accuracy"])))
    if best is not None:
        rows.append(("best validation", percent(best)))
    if depths:
        rows.append(("depth", depth_text(depths)))
    rows += [(name, quantity(cost[key])) for key, name in (("params", "parameters"), ("macs", "MACs")) if key in cost]
    rows += [("epochs", _trained(records, epochs)), ("rewrites", str(len(of_kind(records, "rewrite"))))]
    kept = len(of_kind(records, "kept"))
    if kept:
        rows.append(("individuals", str(kept)))
    declined = len(of_kind(records, "declined"))
    if declined:
        rows.append(("declined", str(declined)))
    return [*rows, ("training time", duration(seconds))]


def _trained(records: Records, epochs: Records) -> str:
    """The number of epochs, and how many of them another run has trained."""
    taken = [f"{record['epochs']} taken over from {record['run']}" for record in of_kind(records, "prefix")]
    return ", ".join([str(len(epochs)), *taken])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def marks(records: Records) -> tuple[Mark, ...]:
    """Rewrites, and the phases after the first, on the axis of epochs."""
    rewrites = [
        Mark(
            record["epoch"],
            "rewrite",
            f"after epoch {record['epoch']}: {record['pass']} at {record['site']}"
            + (f", |Δ logits| {record['delta_logits']:.3g}" if _is_number(record.get("delta_logits")) else ""),
        )
        for record in of_kind(records, "rewrite")
    ]
    return (
        *rewrites,
        *(Mark(record["epoch"], "phase", record["phase"]) for record in of_kind(records, "phase")[1:]),
    )


def charts(records: Records) -> tuple[Chart, ...]:
    """Accuracy, loss, depth, cost, learning rate, penalty and what it leaves alive over epochs, where recorded."""
    epochs, events = of_kind(records, "epoch"), marks(records)
    stages = list(dict.fromkeys(stage for record in epochs for stage in record.get("depths", {})))
    fields = {
        "accuracy": (
            "Accuracy",
            [_metric(epochs, name) for name in METRICS if name.endswith("accuracy")],
            "percent",
            False,
        ),
        "loss": ("Loss", [_metric(epochs, name) for name in METRICS if name.endswith("loss")], "number", False),
        "depth": ("Depth: blocks in each stage", [_depth(epochs, stage) for stage in stages], "count", True),
        "params": ("Parameters", [_field(epochs, "params", "parameters"), _alive(epochs, "params")], "count", True),
        "macs": (
            "Multiply-accumulates per sample",
            [_field(epochs, "macs", "MACs"), _alive(epochs, "macs")],
            "count",
            True,
        ),
        "lr": ("Learning rate", [_field(epochs, "lr", "learning rate")], "number", True),
        "penalty": ("Penalty", [Series("penalty", _metric(epochs, "train.penalty").points)], "number", False),
        "alive": ("Channels alive", [Series("channels", _alive(epochs, "channels").points)], "count", False),
    }
    made = (
        Chart(key, title, tuple(line for line in series if line.points), events, unit, step)  # type: ignore[arg-type]
        for key, (title, series, unit, step) in fields.items()
    )
    return tuple(chart for chart in made if chart.series)


def _metric(epochs: Records, name: str) -> Series:
    return Series(METRICS.get(name, name), _points((record["epoch"], record["metrics"].get(name)) for record in epochs))


def _field(epochs: Records, key: str, name: str) -> Series:
    return Series(name, _points((record["epoch"], record.get(key)) for record in epochs))


def _alive(epochs: Records, key: str) -> Series:
    """What the network would have with only the channels that a penalty has left alive."""
    return Series("alive", _points((record["epoch"], record.get("alive", {}).get(key)) for record in epochs))


def _depth(epochs: Records, stage: str) -> Series:
    return Series(stage, _points((record["epoch"], record.get("depths", {}).get(stage)) for record in epochs))


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
        if record["kind"] == "decision":
            row = _row(record)
            rows.append(row)
            waiting = row if record["action"] in ("rewrite", "trial") else None
            tried = record["action"] == "trial"
        elif record["kind"] == "trial":
            values = (f"{name} {value:.4g}" for name, value in record["metrics"].items() if name.startswith("val."))
            outcome = ", ".join(values) or "trained"
            site = record["site"] or "the network as it is"
            rows.append(_row({**record, "action": "trial", "pass": "tried", "site": site, "reason": outcome}))
        elif record["kind"] == "declined" and tried:  # a candidate of a trial; another one may yet be adopted
            rows.append(row := _row({**record, "action": "rewrite", "reason": ""}))
            row.update(_outcome(record, ""))
        elif record["kind"] == "kept" and rows:
            rows[-1].update(_worth(record, rows[-1]["reason"]))
        elif record["kind"] in ("rewrite", "declined"):
            if waiting is None:  # applied by hand, without a policy
                rows.append(waiting := _row({**record, "action": "rewrite"}))
            waiting.update(_outcome(record, waiting["reason"]), site=str(record.get("site") or ""))
            waiting = None
    return rows


def _row(record: Mapping[str, Any]) -> dict[str, str]:
    acts = record["action"] in ("rewrite", "trial")
    action = record.get("pass") or "" if acts else ACTIONS.get(record["action"], record["action"])
    kind = "rewrite" if acts else record["action"] if record["action"] in OWN_KIND else "end"
    options = record.get("options") or {}
    shown = ", ".join(f"{key}={value}" for key, value in options.items() if isinstance(value, (str, int, float)))
    facts = {"kind": kind, "action": str(action), "options": shown, "reason": str(record.get("reason") or "")}
    place = {key: str(record.get(key) if record.get(key) is not None else "") for key in ("epoch", "phase", "site")}
    if not acts and record.get("individual") is not None:
        place["site"] = f"individual {record['individual']}"
    return {**place, **facts, "claim": "", "delta": "", "depth": "", "params": "", "seconds": ""}


def _worth(record: Mapping[str, Any], reason: str) -> dict[str, str]:
    """What the row of an individual says beside why it was kept."""
    validation = ", ".join(
        f"{name} {value:.4g}" for name, value in record["metrics"].items() if name.startswith("val.")
    )
    return {
        "reason": "; ".join(filter(None, [reason, validation])),
        "depth": depth_text(record["depths"]),
        "params": quantity(record["params"]),
    }


def _outermost(paths: Sequence[str]) -> str:
    """Regions that lie in no other one of them, a few by name."""
    outer = [path for path in paths if not any(path.startswith(f"{other}.") for other in paths)]
    return ", ".join(outer[:NAMED]) + (f" and {len(outer) - NAMED} more" if len(outer) > NAMED else "")


def _outcome(record: Mapping[str, Any], reason: str) -> dict[str, str]:
    if record["kind"] == "declined":
        because = f"declined: {record.get('reason', '')}"
        return {"kind": "declined", "reason": f"{reason}; {because}" if reason else because}
    # a refresh comes after the rewrite, and may be all that it does
    deltas = [record.get("delta_logits"), (record.get("refresh") or {}).get("delta_logits")]
    delta = max([value for value in deltas if isinstance(value, (int, float))], default=None)
    changes = [f"{verb} {_outermost(record[key])}" for key, verb in CHANGES.items() if record.get(key)]
    return {
        "reason": "; ".join(filter(None, [reason, *changes])),
        "claim": str(record.get("preserves", "")),
        "delta": "" if delta is None else f"{delta:.3g}",
        "depth": depth_text(record.get("depths", {})),
        "params": quantity(record["cost"]["params"]) if record.get("cost") else "",
        "seconds": f"{record['seconds']:.3g} s" if "seconds" in record else "",
    }
