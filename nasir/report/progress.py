"""Progress on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from nasir.ir.regions import depth_text


def line(record: Mapping[str, Any]) -> str:
    """A journal record in one line; "" for records that users need not see."""
    kind = record["kind"]
    if kind == "epoch":
        metrics = record["metrics"]
        depth = depth_text(record["depths"])
        parts = [f"epoch {record['epoch']:>4}  {record['phase']}"]
        for name, label in (("train.accuracy", "train"), ("val.accuracy", "val")):
            if name in metrics:
                parts.append(f"{label} {100 * metrics[name]:.2f} %")
        parts.append(f"loss {metrics['train.loss']:.4f}" if "train.loss" in metrics else "")
        parts.append(f"depth {depth}" if depth else "")
        if "lr" in record:
            parts.append(f"lr {record['lr']:.4g}")
        if "seconds" in record:
            parts.append(f"{record['seconds']:.1f} s")
        return "  ".join(filter(None, parts))
    if kind == "decision" and record["action"] == "rewrite":
        return f"epoch {record['epoch']:>4}  {record['pass']} at {record['site']}: {record['reason']}"
    if kind == "decision" and record["action"] == "recall":
        return f"epoch {record['epoch']:>4}  back to individual {record['individual']}: {record['reason']}"
    if kind == "decision" and record["action"] in ("keep", "drop"):
        return ""  # what is kept says more, what is dropped needs no line
    if kind == "kept":
        validation = "".join(
            f", {name} {value:.4g}" for name, value in record["metrics"].items() if name.startswith("val.")
        )
        depth = f", depth {depth_text(record['depths'])}" if record["depths"] else ""
        return f"            individual {record['individual']}{validation}{depth}, {record['params']:,} params"
    if kind == "decision":
        place = f" {record['site']}" if record.get("site") else ""
        return f"epoch {record['epoch']:>4}  {record['action'].replace('_', ' ')}{place}: {record['reason']}"
    if kind == "rewrite" and "delta_logits" in record:
        claim = "" if record["preserves"] == "no" else f" (claimed {record['preserves']})"
        return f"            done{claim}: the largest change of a logit is {record['delta_logits']:.3g}"
    if kind == "trial":
        validation = "  ".join(
            f"{name} {value:.4g}" for name, value in record["metrics"].items() if name.startswith("val.")
        )
        return f"            tried {record['site'] or 'the network as it is'}: {validation or record['metrics']}"
    if kind == "declined":
        return f"epoch {record['epoch']:>4}  declined at {record['site']}: {record['reason']}"
    if kind == "phase":
        return f"phase {record['phase']}"
    if kind == "compilation":
        other = f"{record['compiled_ms']:.4g} ms" if record["compiled_ms"] is not None else record["why"]
        way = "compiled" if record["compiled"] else "eager"
        return f"blocks run {way}: a step takes {record['eager_ms']:.4g} ms eager, compiled {other}"
    if kind == "prefix":
        return f"epochs 1 to {record['epochs']} taken over from {record['run']}, which trained the same network"
    if kind == "resume":
        return f"resumed at checkpoint {record['checkpoint_step']}"
    return ""


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

    def record(self, record: Mapping[str, Any]) -> None:
        """Show one journal record."""
        text = line(record)
        if self.quiet or not text:
            return
        if self._bar is None:
            self._say(text)
        elif record["kind"] == "phase":
            description = f"{self.name}: {record['phase']}"
            self._bar.reset(self._task, total=record.get("epochs"), description=description, note="")
        elif record["kind"] == "epoch":
            # after a resume the bar begins in the middle of its phase
            self._bar.update(self._task, completed=record["phase_epoch"], note=_note(record))
        else:
            self._say(text)

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)


def _note(record: Mapping[str, Any]) -> str:
    depth = depth_text(record["depths"])
    accuracy = record["metrics"].get("val.accuracy", record["metrics"].get("train.accuracy", 0.0))
    return f"accuracy {100 * accuracy:.2f} %" + (f", depth {depth}" if depth else "")
