"""`nasir run` and `nasir resume`: their options, training with progress and signals, and what they print."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasir.counted import counted
from nasir.errors import UsageError
from nasir.ir.regions import depth_text

if TYPE_CHECKING:
    from nasir.spec import Spec


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options of `nasir run`."""
    parser.add_argument("spec", nargs="?", metavar="SPEC")
    parser.add_argument("--best", metavar="STUDY", help="instead of a spec, train the best trial of a search again")
    parser.add_argument("--trial", type=int, metavar="N", help="with --best: train this trial instead of the best")
    parser.add_argument("--out", metavar="DIR", help="run directory (default: runs/NAME)")
    _add_tensorboard(parser)


def add_resume_options(parser: argparse.ArgumentParser) -> None:
    """The options of `nasir resume`."""
    parser.add_argument("run_dir", metavar="RUN")
    back = parser.add_mutually_exclusive_group()
    back.add_argument("--from-epoch", type=int, metavar="N", help="go back to the checkpoint of this epoch")
    back.add_argument("--from-start", action="store_true", help="train from the first epoch again")
    _add_tensorboard(parser)


def _add_tensorboard(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tensorboard", metavar="DIR", help="also write TensorBoard events into DIR")


def run(load: Callable[[], Spec], options: argparse.Namespace) -> int:
    """Train the spec that `load` gives, or the winner of a search."""
    from nasir.api import run as train

    if (options.spec is None) == (options.best is None):
        raise UsageError("name a spec to run, or --best STUDY to train the best trial of a search again")
    if options.best is None:
        if options.trial is not None:
            raise UsageError("--trial chooses among the trials of a search; name the search with --best STUDY")
        spec = load()
    else:
        spec = _winner(Path(options.best), options)
    return _watched(spec.name, options, lambda **watch: train(spec, options.out, **watch))


def _winner(study: Path, options: argparse.Namespace) -> Spec:
    from nasir.search import require

    if options.overrides:
        raise UsageError("--set changes a spec, and --best trains a trial as it was; leave one of them out")
    require()
    from nasir.search.best import best_trial, resolved_spec, threads_of
    from nasir.search.locate import open_study

    with closing(open_study(study)) as opened:
        trial = best_trial(opened, options.trial)
        choices = ", ".join(f"{name} = {value}" for name, value in trial.params.items())
        print(f"trial {trial.number} of {opened.name}: {choices}", file=sys.stderr)
        threads = threads_of(opened, trial)
        if threads is not None and os.environ.get("OMP_NUM_THREADS") != str(threads):
            same = f"OMP_NUM_THREADS={threads} makes this training the same, bit for bit"
            print(f"it had {counted(threads, 'thread')}; {same}", file=sys.stderr)
        return resolved_spec(opened, trial)


def resume(options: argparse.Namespace) -> int:
    """Go on with a run."""
    from nasir.api import resume as train

    back = {"from_epoch": options.from_epoch, "from_start": options.from_start}
    return _watched(Path(options.run_dir).name, options, lambda **watch: train(options.run_dir, **watch, **back))


def _watched(name: str, options: argparse.Namespace, train: Callable[..., Any]) -> int:
    """Train with progress, TensorBoard events if asked for, and signals; then print the result."""
    from nasir.report.progress import ProgressBar
    from nasir.running.interrupts import stop_on_signals

    with ExitStack() as stack:
        progress = stack.enter_context(ProgressBar(name, quiet=options.json))
        listeners = [progress.record]
        if options.tensorboard:
            from nasir.report.tensorboard import TensorBoard

            events = TensorBoard(Path(options.tensorboard))
            stack.callback(events.close)
            listeners.append(events.record)

        def listen(record: Any) -> None:
            for listener in listeners:
                listener(record)

        done = train(signals=stop_on_signals(), listener=listen, notice=progress.notice)
    return _finished(done, options)


def _finished(done: Any, options: argparse.Namespace) -> int:
    cost = done.graph.cost()
    facts = {
        "run": str(done.path),
        "report": str(done.report),
        "metrics": done.metrics,
        "depths": done.graph.depths(),
        "params": cost.params,
        "macs": cost.macs,
    }
    if options.json:
        print(json.dumps(facts, indent=2, sort_keys=True))
        return 0
    depths = depth_text(done.graph.depths())
    named = (("test accuracy", "test.accuracy"), ("top 5", "test.top5"))
    shares = [f"{label} {100 * done.metrics[name]:.2f} %" for label, name in named if name in done.metrics]
    shares += [f"depth {depths}"] if depths else []
    print("  ".join([*shares, f"{cost.params:,} params", f"{cost.macs:,} MACs"]))
    print(f"report: {done.report}")
    return 0
