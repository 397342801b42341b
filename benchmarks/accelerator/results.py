"""The results file: JSON lines, each written whole as soon as it is known, by the driver and by the stage processes.

{"run": {...}}                                            a call of the driver
{"stage": "growth", "start": "2026-01-31T12:00:00", ...}  a stage begins; earlier lines of it no longer count
{"stage": "growth", "figure": "eager", "median_ms": ...}  a figure
{"stage": "growth", "status": "done", "seconds": ...}     a stage is over; see `STATUSES`
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STATUSES = {
    "done": "every figure is there",
    "failed": "the stage raised an error or was killed; `error` says how",
    "timed out": "it ran past its own limit",
    "skipped": "something it needs is not there, such as data",
    "out of time": "the budget of the call ended it",
    "interrupted": "the call was stopped",
}
RESULTS = frozenset({"done", "failed", "timed out"})  # the others leave a stage to be run by the next call


@dataclass
class StageResult:
    """What the file holds of one stage; `status` is None where it never ended."""

    status: str | None = None
    seconds: float | None = None
    error: str | None = None
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)


def add(path: Path, line: Mapping[str, Any]) -> None:
    """Append one line and bring it to the disk; a line that a kill cut short before it is closed first."""
    text = json.dumps(line) + "\n"
    with open(path, "ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                text = "\n" + text
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> dict[str, StageResult]:
    """Results by stage; {} where there is no file. Lines that a kill cut short are passed over."""
    by_stage: dict[str, StageResult] = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if not isinstance(line, dict) or "stage" not in line:
            continue
        name = line.pop("stage")
        if "start" in line:
            by_stage[name] = StageResult()
        result = by_stage.setdefault(name, StageResult())
        if "figure" in line:
            result.figures[line.pop("figure")] = line
        elif "status" in line:
            result.status, result.seconds, result.error = line["status"], line.get("seconds"), line.get("error")
    return by_stage
