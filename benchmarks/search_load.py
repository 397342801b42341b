"""What the search itself costs: many trials that train nothing, and the time a trial spends outside its training.

`load`: trials that end at once, by worker processes on a PostgreSQL server that is started for it. `overhead`: seconds
of one worker for a trial of 60 epoch reports that are not training (here a sleep, 20 times shorter than the epochs of
a trial of one minute, so that there is less to hide the writing of results behind), as a share of one minute. The
sampler is TPE and the pruner the median, both at work among earlier trials; nothing is pruned.
Prints JSON; `--out FILE` also writes it. `--trials N --workers K`: of the load (default 1000 and 4).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.common import report
from nasir.records import EpochRecord, Record
from nasir.running.engine import Signals
from nasir.search.study import Study
from nasir.search.trial import Executor, Outcome, TrialJob
from nasir.search.worker import Identity, work
from nasir.spec.search import SearchSpec, loads_search

sys.path.append(str(Path(__file__).parent.parent / "tests" / "search"))  # the server is that of the tests

from postgres import missing, server

EPOCHS = 60
MINUTE = 60.0
BUDGET = 0.01  # of a trial of one minute
EARLIER, MEASURED = 20, 10  # trials of the overhead
PACE = 0.05  # seconds of an epoch
SPEC = """\
nasir: 1
name: load
input: {image: [3, 8, 8]}
network:
  - conv_bn_relu: {out: 4, kernel: 3}
  - stage: {name: s1, block: basic, out: 4, depth: 1}
  - classifier: {classes: 3}
data: {dataset: synthetic, options: {classes: 3, size: 8, channels: 3}, validation: 24}
phases:
  - name: grow
    epochs: 60
    optimizer: {sgd: {lr: {choose: {float: [0.001, 0.5], log: true}}, momentum: {choose: {float: [0.0, 0.99]}}}}
    rules:
      - every: {choose: {int: [1, 9]}}
        do: {insert-block: {init: {choose: [zero, gaussian, uniform]}}}
        where: {stages: [s1]}
search: {sampler: SAMPLER, pruner: PRUNER, reuse: {prefixes: false, architectures: false}}
"""


def spec(sampler: str, pruner: str) -> SearchSpec:
    return loads_search(SPEC.replace("SAMPLER", sampler).replace("PRUNER", pruner), "load.yaml")


def value(job: TrialJob) -> float:
    """A stand-in for the accuracy, better in each trial: the pruner looks and lets it live."""
    return 1.0 - 1.0 / (2.0 + job.number)


def executor(epochs: int, pace: float = 0.0) -> Executor:
    """Reports so many epochs, ever better ones, each after `pace` seconds, and trains nothing."""

    def execute(job: TrialJob, listen: Callable[[Record], None], signals: Signals) -> Outcome:
        best = value(job)
        metrics = {"val.accuracy": best, "val.loss": 1.0 - best}
        for epoch in range(1, epochs + 1):
            time.sleep(pace)
            reached = {"val.accuracy": best * epoch / epochs, "val.loss": 1.0 - best * epoch / epochs}
            listen(
                EpochRecord(
                    phase="grow",
                    epoch=epoch,
                    phase_epoch=epoch,
                    metrics=reached,
                    lr=0.1,
                    seconds=1.0,
                    cpu_seconds=1.0,
                    params=1000,
                    macs=100_000,
                    depths={"s1": 1},
                    samples=96,
                )
            )
        return Outcome(metrics, {"params": 1000, "macs": 100_000}, {"s1": 1}, epochs, float(epochs))

    return execute


def silent(text: str) -> None:
    """The log of a worker that nobody reads."""


def load(url: str, folder: Path, trials: int, workers: int) -> dict[str, Any]:
    """Trials a second of worker processes, from the first claim to the last result."""
    started = time.perf_counter()
    with closing(Study.create(spec("random", "none"), url, "load", folder, trials)) as study:
        made = time.perf_counter() - started
        command = [sys.executable, "-m", "benchmarks.search_load", "--url", url, "--folder", str(folder), "--slot"]
        running = [subprocess.Popen([*command, str(slot)]) for slot in range(workers)]
        codes = [process.wait() for process in running]
        ended = study.trials()
    states = Counter(trial.state.name for trial in ended)
    first = min(trial.datetime_start for trial in ended if trial.datetime_start)
    last = max(trial.datetime_complete for trial in ended if trial.datetime_complete)
    seconds = (last - first).total_seconds()
    return {
        "trials": trials,
        "workers": workers,
        "exit_codes": codes,
        "states": dict(states),
        "by_worker": sorted(Counter(trial.user_attrs["worker"] for trial in ended).values()),
        "points": len({trial.user_attrs["point"] for trial in ended}),
        "seconds_to_make": round(made, 2),
        "seconds": round(seconds, 2),
        "trials_per_second": round(trials / seconds, 1),
    }


def overhead(url: str, folder: Path) -> dict[str, Any]:
    """Seconds of a trial outside its training."""
    with closing(Study.create(spec("tpe", "median"), url, "overhead", folder, EARLIER)) as study:
        work(study, Identity("earlier", "0"), executor(EPOCHS), say=silent)
        study.add_points(EARLIER + MEASURED)
        started, cpu_started = time.perf_counter(), time.process_time()
        work(study, Identity("measured", "1"), executor(EPOCHS, PACE), say=silent)
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
        ended = [trial for trial in study.trials() if trial.user_attrs.get("worker") == "measured"]
    assert len(ended) == MEASURED
    reports = sum(len(trial.intermediate_values) for trial in ended)
    each = seconds / MEASURED - EPOCHS * PACE
    return {
        "trials": MEASURED,
        "states": dict(Counter(trial.state.name for trial in ended)),
        "reports_a_trial": round(reports / MEASURED, 1),
        "seconds_a_trial": round(each, 3),
        "cpu_seconds_a_trial": round(cpu_seconds / MEASURED, 3),
        "share_of_a_minute": round(each / MINUTE, 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=4)
    for name in ("--url", "--folder", "--slot"):  # one worker of the load
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.slot is not None:
        study = Study.open(options.url, "load", Path(options.folder))
        with closing(study):
            return work(study, Identity(f"worker {options.slot}", options.slot), executor(0), say=silent)
    reason = missing()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures: dict[str, Any] = {"epochs": EPOCHS, "budget_share": BUDGET}
        figures["overhead_sqlite"] = overhead(f"sqlite:///{folder / 'study.db'}", folder / "sqlite")
        if reason is None:
            with server() as postgres:
                figures["overhead_postgresql"] = overhead(postgres.new_database(), folder / "postgresql")
                figures["load"] = load(postgres.new_database(), folder / "load", options.trials, options.workers)
        else:
            figures["skipped"] = reason
    shares = [part["share_of_a_minute"] for key, part in figures.items() if key.startswith("overhead")]
    whole = "load" not in figures or figures["load"]["states"] == {"COMPLETE": options.trials}
    report("search_load", {**figures, "over_budget": max(shares) > BUDGET, "lost_none": whole})
    return 0 if whole and max(shares) <= BUDGET else 1


if __name__ == "__main__":
    raise SystemExit(main())
