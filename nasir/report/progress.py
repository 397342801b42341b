"""Progress on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from nasir.ir.regions import depth_text
from nasir.records import (
    CompilationRecord,
    DecisionRecord,
    DeclinedRecord,
    EpochRecord,
    KeptRecord,
    PhaseRecord,
    PrefixRecord,
    Record,
    ResumeRecord,
    RewriteRecord,
    TrialRecord,
)
from nasir.rewriting.rewrite import REMARK


def line(record: Record) -> str:
    """A journal record in one line; "" for records that users need not see."""
    match record:
        case EpochRecord():
            return _epoch(record)
        case DecisionRecord():
            return _decision(record)
        case KeptRecord():
            depth = f", depth {depth_text(record.depths)}" if record.depths else ""
            scores = "".join(f", {text}" for text in validation(record.metrics))
            return f"            individual {record.individual}{scores}{depth}, {record.params or 0:,} params"
        case RewriteRecord(delta_logits=float() | int() as delta):
            claim = "" if record.preserves == "no" else f" (claimed {record.preserves})"
            remark = f"; {record.noted[REMARK]}" if REMARK in record.noted else ""
            return f"            done{claim}: the largest change of a logit is {delta:.3g}{remark}"
        case TrialRecord():
            text = "  ".join(validation(record.metrics)) or str(dict(record.metrics))
            return f"            tried {record.site or 'the network as it is'}: {text}"
        case DeclinedRecord():
            return f"epoch {record.epoch:>4}  declined at {record.site}: {record.reason}"
        case PhaseRecord():
            return f"phase {record.phase}"
        case CompilationRecord():
            other = f"{record.compiled_ms:.4g} ms" if record.compiled_ms is not None else record.why
            way = "compiled" if record.compiled else "eager"
            return f"blocks run {way}: a step takes {record.eager_ms:.4g} ms eager, compiled {other}"
        case PrefixRecord():
            return f"epochs 1 to {record.epochs} taken over from {record.run}, which trained the same network"
        case ResumeRecord():
            step = record.checkpoint_step
            return "started over, as there was no checkpoint yet" if step is None else f"resumed from checkpoint {step}"
    return ""


def _epoch(record: EpochRecord) -> str:
    metrics, depth = record.metrics, depth_text(record.depths)
    parts = [f"epoch {record.epoch:>4}  {record.phase}"]
    for name, label in (("train.accuracy", "train"), ("val.accuracy", "val")):
        if name in metrics:
            parts.append(f"{label} {100 * metrics[name]:.2f} %")
    parts.append(f"loss {metrics['train.loss']:.4f}" if "train.loss" in metrics else "")
    parts.append(f"depth {depth}" if depth else "")
    if record.lr is not None:
        parts.append(f"lr {record.lr:.4g}")
    if "seconds" not in record.absent:
        parts.append(f"{record.seconds:.1f} s")
    return "  ".join(filter(None, parts))


def _decision(record: DecisionRecord) -> str:
    place = f"epoch {record.epoch:>4}  "
    match record.action:
        case "rewrite":
            return f"{place}{record.pass_name} at {record.site}: {record.reason}"
        case "recall":
            return f"{place}back to individual {record.individual}: {record.reason}"
        case "keep" | "drop":
            return ""  # what is kept says more, what is dropped needs no line
    site = f" {record.site}" if record.site else ""
    return f"{place}{record.action.replace('_', ' ')}{site}: {record.reason}"


def validation(metrics: Mapping[str, float]) -> list[str]:
    """The metrics on the validation part, one text each."""
    return [f"{name} {value:.4g}" for name, value in metrics.items() if name.startswith("val.")]


class ProgressBar:
    """Shows journal records as they come: a bar for each phase on a terminal, plain lines elsewhere."""

    def __init__(self, name: str, quiet: bool = False) -> None:
        self.name = name
        self.quiet = quiet
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bars

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Bars(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True))
            self._task = self._bar.add_task(self.name, total=None, note="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def notice(self, text: str) -> None:
        """A remark that is not part of the journal."""
        self._say(text)

    def record(self, record: Record) -> None:
        """Show one journal record."""
        text = line(record)
        if self.quiet or not text:
            return
        if self._bar is None:
            self._say(text)
        elif isinstance(record, PhaseRecord):
            description = f"{self.name}: {record.phase}"
            self._bar.reset(self._task, total=record.epochs, description=description, note="")
        elif isinstance(record, EpochRecord):
            # after a resume the bar begins in the middle of its phase
            self._bar.update(self._task, completed=record.phase_epoch, note=_note(record))
        else:
            self._say(text)

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)


def _note(record: EpochRecord) -> str:
    depth = depth_text(record.depths)
    accuracy = record.metrics.get("val.accuracy", record.metrics.get("train.accuracy", 0.0))
    return f"accuracy {100 * accuracy:.2f} %" + (f", depth {depth}" if depth else "")
