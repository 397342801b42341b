"""One stage in a process of its own: `python -m benchmarks.accelerator.stage NAME ...`, started by the driver.

Figures go to the results file and to the standard output as they come; everything else goes to the standard error, the
driver's log. It ends with 0 when it has all its figures, with `SKIPPED` or `NO_DEVICE` where it could not begin.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import json
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from benchmarks.accelerator import results
from benchmarks.accelerator.stages import BY_NAME

SKIPPED, NO_DEVICE = 75, 69  # sysexits: try again later, service unavailable
REASON = "reason: "  # begins the last line of a log that says why


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=BY_NAME)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(arguments)
    _end_with_the_driver()
    shown = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        return run(options, lambda line: print(line, file=shown, flush=True))


def run(options: argparse.Namespace, show: Any) -> int:
    """Run the stage; `show` is given a line for each figure."""
    stage = BY_NAME[options.name]

    def note(figure: str, **values: Any) -> None:
        results.add(options.out, {"stage": stage.name, "figure": figure, **values})

    def emit(figure: str, **values: Any) -> None:
        note(figure, **values)
        show(f"{stage.name}: {figure}: {json.dumps(values)}")

    try:
        from benchmarks.accelerator.bench import FULL, TINY, Bench, Device, Skip, check
    except ImportError:
        # the environment says what is not installed, before torch or nasir are needed
        if stage.name == "environment":
            importlib.import_module("benchmarks.accelerator.environment").packages(emit)
        raise
    try:
        check(options.device)
        bench = Bench(Device(options.device), TINY if options.tiny else FULL, options.work, emit, note)
        importlib.import_module(f"benchmarks.accelerator.{stage.module}").run(bench, *stage.options)
    except Skip as reason:
        print(f"{REASON}{reason}", file=sys.stderr)
        return NO_DEVICE if reason.device else SKIPPED
    except Exception as error:
        traceback.print_exc()
        print(f"{REASON}{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _end_with_the_driver() -> None:
    """Have the kernel end this process when the driver is killed: it would keep the device busy."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


if __name__ == "__main__":
    sys.exit(main())
