"""The driver: a process for each stage, one after the other, each with its own time limit. It does not import torch."""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from pathlib import Path

from benchmarks.accelerator import results
from benchmarks.accelerator.driver import Call, drive
from benchmarks.accelerator.stages import BY_NAME, STAGES

BUDGET = 480.0


def main(arguments: list[str] | None = None) -> int:
    """0: every stage asked for has its figures (or lacks what it needs); 1: not; 2: no device."""
    options = _parser().parse_args(arguments)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now().isoformat(timespec="seconds")
    results.add(options.out, {"run": {"started": now, "device": options.device, "tiny": options.tiny}})
    with tempfile.TemporaryDirectory(prefix="accelerator-", ignore_cleanup_errors=True) as work:
        call = Call(options.out.resolve(), Path(work), options.device, options.tiny, options.budget, options.retry)
        return drive(call, options.stages)


def _parser() -> argparse.ArgumentParser:
    stages = "\n".join(f"  {s.name:<16} {s.about} ({s.limit:g} s)" for s in STAGES)
    parser = argparse.ArgumentParser(
        prog="benchmarks/accelerator.sh",
        description="Measure nasir on one accelerator; the checkout need not be installed.",
        epilog=f"stages, in this order, with the most each may take:\n{stages}\n\n"
        "The CIFAR-10 images are looked for in $NASIR_DATA, ../shared/data and shared/data.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("accelerator.jsonl"), help="results (default: %(default)s)")
    parser.add_argument("--stages", type=_stages, default=tuple(STAGES), metavar="A,B", help="only these")
    parser.add_argument("--budget", type=_seconds, default=BUDGET, help="seconds for all (default: %(default)g)")
    parser.add_argument("--retry", action="store_true", help="also run stages again that failed or timed out")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="sizes that try the code and measure nothing")
    return parser


def _stages(text: str) -> tuple[object, ...]:
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in BY_NAME]
    if unknown:
        raise argparse.ArgumentTypeError(f"no stage {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    return tuple(stage for stage in STAGES if stage.name in names)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError("give seconds above 0")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
