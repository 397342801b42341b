"""The tests that need a device, each outcome recorded as soon as it is known."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accelerator.bench import Bench
from benchmarks.accelerator.metadata import ROOT

SIGNS = ("mark.cuda", "device_sessions")  # in the text of files that hold tests for a device


class Outcomes:
    """A pytest plugin that records what comes out of each test, prints what fails, and counts."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.counts: Counter[str] = Counter()
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        outcome = "error" if report.failed and report.when != "call" else report.outcome
        self.counts[outcome] += 1
        values: dict[str, Any] = {"outcome": outcome, "seconds": round(report.duration, 2)}
        if report.failed:
            self.failed.append(report.nodeid)
            values["error"] = report.longreprtext[-2000:]
        elif report.skipped and isinstance(report.longrepr, tuple):
            values["reason"] = report.longrepr[2]
        (self.bench.emit if report.failed else self.bench.note)(report.nodeid, **values)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.counts["error"] += 1
            self.failed.append(report.nodeid)
            self.bench.emit(report.nodeid, outcome="error", error=report.longreprtext[-2000:])


def files() -> list[Path]:
    """The test files that hold tests for a device."""
    candidates = (ROOT / "tests").rglob("test_*.py")
    return sorted(path for path in candidates if any(sign in path.read_text(encoding="utf-8") for sign in SIGNS))


def run(bench: Bench) -> None:
    # only files that hold such tests: collecting the others takes longer than running these
    outcomes = Outcomes(bench)
    code = pytest.main(
        ["-m", "cuda", "--rootdir", str(ROOT), "-p", "no:cacheprovider", *map(str, files())], plugins=[outcomes]
    )
    bench.emit("summary", exit_code=int(code), **outcomes.counts, failures=outcomes.failed)
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"pytest ended with {pytest.ExitCode(code).name}; its output is in the log")
