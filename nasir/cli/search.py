"""`nasir search`: its options, and what it prints. Optuna is loaded only when a search is made or looked at."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasir.counted import counted
from nasir.errors import NasirError, UsageError, printable
from nasir.files import write_atomically

if TYPE_CHECKING:
    from nasir.report.study_facts import StudyFacts, Totals
    from nasir.search.locate import Whereabouts
    from nasir.search.study import Study
    from nasir.search.supervisor import Launcher
    from nasir.spec.search import SearchSpec

WORKERS = ("workers", "workers_per_device")
STOPPING = "stopping: each worker writes a checkpoint first; once more to stop at once"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The command's own options."""
    parser.add_argument("what", nargs="?", metavar="SPEC|DIR", help="a spec with choices, or the folder of a search")
    parser.add_argument(
        "--trials", type=_count, metavar="N", help="total number of trials (default: search.trials of the spec)"
    )
    parser.add_argument("--workers", type=_count, metavar="K", default=1, help="worker processes (default %(default)s)")
    parser.add_argument(
        "--workers-per-device",
        type=_count,
        metavar="N",
        help="maximum number of workers per CUDA device (default 1)",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="T",
        help="start no trial after this time: seconds, or a text such as '2 hours'",
    )
    parser.add_argument(
        "--storage", metavar="URL", help="database of the study (default: $NASIR_STORAGE, else SQLite in its folder)"
    )
    parser.add_argument("--study", metavar="NAME", help="name of the study in the database (default: that of the spec)")
    parser.add_argument("--out", metavar="DIR", help="folder of the study (default: studies/NAME)")
    parser.add_argument("--worker", action="store_true", help="run one worker for the study in --storage")
    parser.add_argument("--report", action="store_true", help="write the report of the search in DIR and exit")
    parser.add_argument("--export", choices=("csv",), help="print the trials of the search in DIR and exit")
    parser.add_argument("--to", metavar="FILE", help="with --export: write the trials to FILE")
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="start the workers on a Ray cluster: an address, auto or local"
    )
    parser.add_argument("--ray-cpus", type=_count, metavar="N", help="cores per Ray worker (default: an equal share)")
    parser.add_argument(
        "--ray-gpus",
        type=_gpus,
        metavar="X",
        help="GPUs per Ray worker, or a fraction of one (default: 1 if there are any)",
    )
    parser.add_argument("--identity", help=argparse.SUPPRESS)  # what a supervisor calls its worker
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)  # when it begins no trial any more, Unix seconds
    parser.add_argument("--slot", help=argparse.SUPPRESS)  # which of its workers, and after how many restarts


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a number from 1 is expected")
    return int(text)


def _gpus(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not (0 <= share <= 1 or (share > 1 and share.is_integer())):
        raise argparse.ArgumentTypeError(f"{text!r}: a share from 0 to 1, or a whole number of GPUs is expected")
    return share


def _seconds(text: str) -> float:
    from pydantic import TypeAdapter, ValidationError

    from nasir.spec.amounts import Seconds

    plain = text.replace(".", "", 1).isdecimal()
    try:
        return TypeAdapter(Seconds).validate_python(float(text) if plain else text)
    except ValidationError:
        wanted = "seconds above 0, or '90 seconds', '30 minutes', '2 hours', '1 day'"
        raise argparse.ArgumentTypeError(f"{text!r}: {wanted} is expected") from None


def run(options: argparse.Namespace) -> int:
    """Search, work for a search, or show one; raises NasirError."""
    from nasir.search import require

    require()
    if options.to and not options.export:
        raise UsageError("--to names the file of --export csv; add that")
    if options.ray is None and (options.ray_cpus or options.ray_gpus is not None):
        raise UsageError("--ray-cpus and --ray-gpus are for workers on a Ray cluster; add --ray ADDRESS")
    if options.ray is not None and options.workers_per_device:
        raise UsageError("--workers-per-device is for workers of this machine; on a Ray cluster use --ray-gpus 0.5")
    if options.worker:
        return _work(options)
    if options.what is None:
        raise UsageError("name a spec with choices, or the folder of a search to continue; --worker needs neither")
    if options.report or options.export:
        name = "--report" if options.report else "--export"
        _refuse(options, f"{name} only looks at a search", ("trials", *WORKERS, "timeout", "ray", "out"))
        return _show(options)
    return _search(options)


def _refuse(options: argparse.Namespace, why: str, names: Sequence[str]) -> None:
    """Raise UsageError for an option that would not be heeded; `--set` never is."""
    for name in names:
        if getattr(options, name) and (name != "workers" or options.workers > 1):
            raise UsageError(f"{why}; leave --{name.replace('_', '-')} out")
    if options.overrides:
        raise UsageError(f"{why}; leave --set out")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# -- the search


def _search(options: argparse.Namespace) -> int:
    from nasir.running.interrupts import stop_on_signals
    from nasir.search.board import StudyBoard
    from nasir.search.summary import study_facts
    from nasir.search.supervisor import Supervisor
    from nasir.search.watch import Watch

    with ExitStack() as stack:
        study, where, host = _study(options, stack)
        facts = study_facts(study.optuna)
        left = _left(study)
        trials = counted(facts.totals.points, "trial")
        trials += f", {facts.totals.done} of them done" if facts.totals.done else ""
        _say(f"study {study.name} in {study.folder}: {trials}; storage {study.storage.place}")
        if options.trials is not None and options.trials < facts.totals.points:
            _say(f"--trials {options.trials}: the study has {facts.totals.points} already and takes none back")
        if not left or host is None:
            return _finish(study, 0, options)
        workers = min(options.workers, left)
        place = _place(options, study, where, host, workers, facts.totals, stack)
        board = StudyBoard(study, Watch(study.trials(), facts.objectives, study.spec.search.retries, _say))
        supervisor: Supervisor

        def at_once(code: int) -> None:
            supervisor.kill = True

        signals = stop_on_signals(STOPPING, at_once)  # after Ray, which sets its own
        supervisor = Supervisor(workers, place, board, signals, _say)
        try:
            supervisor.run()
        except NasirError:
            with suppress(NasirError, OSError):  # what ended the search matters more
                _say(f"report: {_written(study)[1]}")
            raise
        return _finish(study, signals.exit_code, options)


def _left(study: Study) -> int:
    """Trials that are still to be done."""
    return sum(point.open for point in study.points().points.values())


def _complete(study: Study, trials: int) -> bool:
    """Whether nothing is left to do, also when the study is to have so many trials."""
    ledger = study.points()
    return ledger.finished and len(ledger.points) >= trials


def _study(options: argparse.Namespace, stack: ExitStack) -> tuple[Study, Whereabouts, Host | None]:
    """The study to work on, made or opened, where it lies, and what will run it (None: nothing is left to do).

    What the workers cannot have is refused before the study is made or gets more trials.
    """
    from nasir.search.locate import find
    from nasir.search.study import Study
    from nasir.spec.search import load_search

    what = Path(options.what)
    if what.is_dir():
        for option, given in (("--out", options.out), ("--set", options.overrides)):
            if given:
                raise UsageError(f"{what}: {option} is only for a new search, and this continues one; leave it out")
        where = find(what, options.storage, options.study)
        study = stack.enter_context(closing(Study.open(where.url, where.name, where.folder, patience=0, say=_say)))
        host = None if _complete(study, options.trials or 0) else _host(options, study.spec, False, where, stack)
        if options.trials is not None:
            study.add_points(options.trials)
        return study, where, host
    spec = load_search(what, options.overrides)
    for note in spec.notes:
        _say(f"note: {printable(note)}")
    name = options.study or spec.name
    where = find(Path(options.out or Path("studies") / name), options.storage, name)
    complete = False
    if where.known:  # by its card: where the database has moved to, there must be this study
        with closing(Study.open(where.url, where.name, where.folder, writes=False, patience=0)) as known:
            complete = _complete(known, options.trials or spec.trials)
    host = None if complete else _host(options, spec, True, where, stack)
    if where.url.startswith("sqlite"):
        where.folder.mkdir(parents=True, exist_ok=True)  # SQLite makes none
    study = Study.create(spec, where.url, where.name, where.folder, options.trials, patience=0, say=_say)
    return stack.enter_context(closing(study)), where, host


@dataclass(frozen=True, slots=True)
class Host:
    """What runs the workers: a Ray cluster by its module, or this machine (None); and the devices that each gets."""

    ray: Any
    devices: tuple[str, ...] = ()
    gpus: float = 0.0


def _host(options: argparse.Namespace, spec: SearchSpec, written: bool, where: Whereabouts, stack: ExitStack) -> Host:
    """Raises UsageError where the workers asked for cannot have the devices that the spec asks for, or a Ray cluster
    cannot run them at all.

    `written`: the spec was read from its file just now.
    """
    from nasir.search.devices import demand_of, divide, gpu_share, visible

    demand = demand_of(spec, written)
    if options.ray is None:
        asked = demand.may and (options.workers > 1 or demand.must is not None)
        seen = visible(backend=spec.base.backend) if asked else ()
        division = divide(demand, seen, options.workers, options.workers_per_device or 1)
        host, notes = Host(None, devices=division.devices), division.notes
    else:
        from nasir.search.ray_workers import check_cluster, connect, gpus_of
        from nasir.search.urls import masked, parse

        ray = connect(None if options.ray == "local" else options.ray)
        stack.callback(ray.shutdown)
        file = masked(parse(where.url)) if where.url.startswith("sqlite") else None
        check_cluster(ray, options.ray_cpus, file)
        share = gpu_share(demand, options.ray_gpus, options.workers, *gpus_of(ray))
        host, notes = Host(ray, gpus=share.gpus), share.notes
    for note in notes:
        _say(f"note: {printable(note)}")
    return host


def _place(
    options: argparse.Namespace,
    study: Study,
    where: Whereabouts,
    host: Host,
    workers: int,
    totals: Totals,
    stack: ExitStack,
) -> Launcher:
    """Processes of this machine, or a Ray cluster, with all that a worker is told."""
    from nasir.search.processes import Processes, worker_command

    folder = study.folder.resolve()
    command = worker_command(study.name, folder)
    seconds = study.spec.search.timeout if options.timeout is None else options.timeout
    if seconds is not None:
        command += ["--until", f"{time.time() + seconds:.3f}"]
    environment = {"NASIR_STORAGE": where.url}  # arguments are seen by other users, and a URL may have a password
    if host.ray is None:
        origin = str(sum(totals.outcomes.values()) - totals.outcomes.get("waiting", 0))  # trials that were begun before
        if not where.url.startswith("sqlite"):
            origin += f".{socket.gethostname()}.{folder.resolve()}"  # others may search at the same time
        own = {**os.environ, **environment}
        return stack.enter_context(closing(Processes(command, own, folder / "workers", workers, origin, host.devices)))
    from nasir.search.ray_workers import RayCluster

    cluster = RayCluster(host.ray, command, environment, folder / "workers", workers)
    cluster.reserve(options.ray_cpus, host.gpus)
    return cluster


def _finish(study: Study, asked: int, options: argparse.Namespace) -> int:
    """Write the report and say what came out; the exit code."""
    from nasir.search.watch import result_lines

    facts, report = _written(study)
    left = _left(study)
    if options.json:
        _print(_as_json(study, facts, report))
    else:
        for line in result_lines(facts):
            print(line)
        if facts.front:
            several = " --trial N" if len(facts.objectives) > 1 else ""
            print(f"train the best again: nasir run --best {study.folder}{several}")
        print(f"report: {report}")
    if left:
        _say(f"{counted(left, 'trial')} left; `nasir search {study.folder}` goes on")
    return asked if asked and left else 0 if facts.totals.done else 1


def _written(study: Study) -> tuple[StudyFacts, Path]:
    """What the study says now, and its report."""
    from nasir.report.study_page import write_study_report
    from nasir.search.summary import study_facts

    facts = study_facts(study.optuna)
    return facts, write_study_report(facts, study.folder)


def _as_json(study: Study, facts: StudyFacts, report: Path) -> dict[str, Any]:
    best = [trial for number in facts.front if (trial := facts.trial(number)) is not None]
    return {
        "study": study.name,
        "folder": str(study.folder),
        "storage": study.storage.place,
        "report": str(report),
        "points": facts.totals.points,
        "done": facts.totals.done,
        "outcomes": dict(facts.totals.outcomes),
        "epochs": facts.totals.epochs,
        "epochs_saved": facts.totals.epochs_saved,
        "best": [
            {
                "trial": trial.number,
                "values": {aim.metric: value for aim, value in zip(facts.objectives, trial.values, strict=True)},
                "choices": dict(trial.params),
                "run": trial.run,
            }
            for trial in best
        ],
    }


def _print(data: Any) -> None:
    print(json.dumps(data, indent=2, sort_keys=True))


# -- one worker


def _work(options: argparse.Namespace) -> int:
    from nasir.running.interrupts import stop_on_signals
    from nasir.search.locate import given_storage, only_study
    from nasir.search.processes import stop_without_supervisor
    from nasir.search.study import Study
    from nasir.search.worker import Identity, work

    if options.what is not None:
        raise UsageError("--worker takes its spec from --storage; leave the spec out")
    unfit = ("trials", *WORKERS, "ray", "report", "export")
    _refuse(options, "--worker joins an existing search", unfit)
    url = given_storage(options.storage)
    if url is None:
        raise UsageError("--worker needs the database of the study: --storage URL, or NASIR_STORAGE")
    signals = stop_on_signals()
    if options.slot is not None:
        stop_without_supervisor(signals)
    name = options.identity or f"{socket.gethostname()}-{uuid.uuid4().hex[:6]}"
    chosen = options.study or only_study(url)
    until = options.until if options.timeout is None else time.time() + options.timeout
    study = Study.open(url, chosen, Path(options.out or Path("studies") / chosen), say=_say)
    with closing(study):
        return work(study, Identity(name, options.slot), signals=signals, until=until, say=_say)


# -- looking at a search


def _show(options: argparse.Namespace) -> int:
    """Write the report of a search, or its trials as a table."""
    from nasir.search.export import to_csv
    from nasir.search.locate import open_study
    from nasir.search.summary import study_facts

    with closing(open_study(Path(options.what), options.storage, options.study)) as study:
        if options.export:
            return _export(to_csv(study_facts(study.optuna)), options.to)
        facts, report = _written(study)
        if options.json:
            _print(_as_json(study, facts, report))
        else:
            print(f"report: {report}")
    return 0


def _export(text: str, file: str | None) -> int:
    if file is None:
        sys.stdout.write(text)
    else:
        write_atomically(Path(file), text.encode("utf-8"))
        _say(f"wrote {file}")
    return 0
