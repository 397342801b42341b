"""Runs from Python: `run`, `resume` and the `Run` that they return."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nasir.errors import JournalError, RunError, UsageError, WeightsError
from nasir.ir import Graph
from nasir.journal.directory import RunDirectory
from nasir.journal.log import Journal
from nasir.journal.rescue import go_back
from nasir.records import EndRecord, EpochRecord, PrefixRecord, Record, StartRecord
from nasir.rewriting.propose import make_pass
from nasir.running.before import check_batches
from nasir.running.engine import Engine, Signals, setup_of, start_of
from nasir.running.modules import beginning, check_weights, module_again
from nasir.running.names import check_names
from nasir.running.prefixes import PrefixStore, Sharing, environment_digest
from nasir.running.reach import check_reach
from nasir.running.replay import compare, reopen
from nasir.running.resolution import summary_of
from nasir.running.state import RunState
from nasir.spec import Spec, hash_code, load_spec
from nasir.spec.given import Given
from nasir.spec.imported import facts_of
from nasir.spec.inherit import Inherited, inherited
from nasir.spec.model_source import RunNetwork
from nasir.spec.network import initial_plan
from nasir.training.backend import Session, make_backend
from nasir.version import VERSION


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory that came to its end."""

    path: Path
    graph: Graph
    metrics: dict[str, float]  # "test.accuracy", "test.loss", "val.accuracy", ...: accuracies are fractions
    journal: tuple[Record, ...] = field(repr=False)  # the records that count
    prefix_epochs: int = 0  # of them, taken over from another run (see `PrefixStore`)

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"


def _ignore(record: Record) -> None:
    """The default listener."""


def run(
    spec: Spec | Given,
    out: str | os.PathLike[str] | None = None,
    *,
    signals: Signals | None = None,
    listener: Callable[[Record], None] = _ignore,
    notice: Callable[[str], None] = lambda text: None,
    prefixes: PrefixStore | None = None,
    prefix_every: int | None = None,
    note_data: bool = False,
) -> Run:
    """Train what a spec describes, in the run directory `out` (default: runs/NAME, numbered when taken).

    `spec` is what `load_spec` takes: a path, YAML text or a Spec.

    Raises SpecError or UsageError for bad input, RunError when training fails, Preempted when `signals` asked to
    stop (a checkpoint is then written, and `resume` goes on). `listener` sees each journal record, `notice` remarks.

    With `prefixes` the run begins with the deepest state of other runs there that it would come to itself, and leaves
    its own before decisions and, if given, every `prefix_every` epochs. What comes out is the same, bit for bit.
    `note_data`: keep a digest of the data in env.json, as `data`.
    """
    spec = load_spec(spec)
    base = spec.source.resolve().parent
    begun = beginning(spec, notice)
    graph, module, source = begun.graph, begun.module, begun.source
    check_reach(spec, graph)
    check_names(spec, graph)
    check_batches(spec, graph)
    path = Path(out) if out is not None else _free(Path("runs") / spec.name)
    RunDirectory(path).check_vacant()
    session = make_backend(spec.backend).open(setup_of(spec, base, module))
    try:
        _build(session, graph, spec, source)
        for text in _width_advice(spec, session.preferred_multiple()):
            notice(text)
        for text in _average_advice(spec, session.steps_per_epoch()):
            notice(text)
        data = summary_of(spec, session.summary())
        check_batches(spec, graph, data.total("train"))
        for text in data.warnings:
            notice(f"data: {text}")
        directory = RunDirectory.create(path)  # only now, so that bad input leaves no directory behind
        with directory.lock():
            directory.check_vacant()  # another process may have run here since
            directory.write_spec(spec.to_yaml())
            env = {
                **_environment(),
                **session.describe(),
                "base": str(base),
                **_circumstances(session, prefixes, note_data),
            }
            env["plugins"] = {Path(code.path).name: code.sha256 for code in hash_code(spec)}
            directory.write_env(env)
            with directory.journal() as journal:
                engine = Engine(spec, RunState(graph), directory, journal, session, signals or Signals(), listener)
                cost = graph.cost()
                taken_from = isinstance(spec.network, RunNetwork) and source and source.record(spec.network)
                engine.write(
                    StartRecord(
                        name=spec.name,
                        spec_digest=spec.digest,
                        seed=spec.seed,
                        graph=directory.put_blob(graph.to_json()),
                        cost={"params": cost.params, "macs": cost.macs, "activation_bytes": cost.activation_bytes},
                        depths=graph.depths(),
                        nasir=VERSION,
                        inherited=taken_from or None,
                        imported=facts_of(spec, module) if module is not None and source is None else None,
                        data=data.to_json(),
                    )
                )
                if prefixes is not None:
                    sharing = Sharing(prefixes, engine, base, env, notice, prefix_every)
                    sharing.begin(lambda: _build(session, graph, spec, source))
                return _end(engine, directory)
    finally:
        session.close()


def resume(
    path: str | os.PathLike[str],
    *,
    signals: Signals | None = None,
    listener: Callable[[Record], None] = _ignore,
    notice: Callable[[str], None] = lambda text: None,
    prefixes: PrefixStore | None = None,
    prefix_every: int | None = None,
    note_data: bool = False,
    from_epoch: int | None = None,
    from_start: bool = False,
) -> Run:
    """Go on with a run that was killed or stopped, bit for bit where the environment is the same.

    A finished run is returned as it is. `notice` hears what differs from the environment the run began in. `prefixes`
    and `prefix_every` as for `run`; a run that has no checkpoint yet may begin with a stored state too.
    `note_data`: where the data are not those that the run noted when it began, note that it has had several.

    `from_epoch` goes back to the checkpoint of that epoch instead of the newest, `from_start` to the start of the run;
    either cuts a damaged journal before its damage (see `nasir.journal.rescue`). Raises JournalError where the journal
    is damaged, CheckpointError where the checkpoints are gone, and neither is given.
    """
    if from_epoch is not None and from_start:
        raise UsageError(f"resume {path}: from the start, or from epoch {from_epoch}? leave one of them out")
    directory = RunDirectory.open(path)
    with directory.lock(), ExitStack() as opened:
        if from_start or from_epoch is not None:
            go_back(directory, from_epoch, notice)
        journal = opened.enter_context(directory.journal())
        if journal.unprotected:
            notice(journal.chain.unprotected_text(journal.unprotected))
        records = journal.records()
        if not records:
            raise RunError(f"{directory.path}: killed before its first record; start it again with `nasir run`")
        ended = journal.effective(EndRecord)
        if ended:
            notice("this run is finished already")
            return finished(directory, journal)
        spec, env = reopen(directory)
        start = records[0]
        if not isinstance(start, StartRecord):
            raise JournalError(
                f"{directory.journal_path}:1: a {start.kind} record, not the start; restore it from a copy"
            )
        graph = Graph.from_json(directory.get_blob(start.graph))
        if spec.digest != start.spec_digest:
            raise JournalError(f"{directory.spec_path}: not the spec this run began with; restore it from a copy")
        module = module_again(spec, start, graph, notice)
        session = make_backend(spec.backend).open(setup_of(spec, Path(env["base"]), module))
        try:
            for text in _differences(env, {**_environment(), **session.describe()}):
                notice(f"resuming will not be bit-exact: {text}")
            engine = Engine(spec, RunState(graph), directory, journal, session, signals or Signals(), listener)
            circumstances = _circumstances(session, prefixes, note_data)
            if circumstances.pop("data", None) not in (None, env.get("data")) and env.get("data") is not None:
                notice("the data are not those that this run began with; its result will not count as that of either")
                directory.write_env({**env, "data": None})
            fresh = not engine.restore(**circumstances, anew=from_start)

            def build() -> None:
                check_weights(module, start)
                _build(session, graph, spec, _same_source(spec, start))

            if fresh:
                build()
            for text in engine.problems:
                notice(text)
            if prefixes is not None:
                sharing = Sharing(prefixes, engine, Path(env["base"]), env, notice, prefix_every)
                if fresh:
                    sharing.begin(build)
            return _end(engine, directory)
        finally:
            session.close()


def replay_training(directory: RunDirectory, out: Path) -> tuple[Run, list[str]]:
    """Train again from the seed into `out`; returns the new run and every difference of decisions and metrics."""
    spec, _ = reopen(directory)
    again = run(spec, out)
    return again, compare(directory.effective(), again.journal)


def _build(session: Session, graph: Graph, spec: Spec, source: Inherited | None) -> None:
    """Make the first network of a spec; raises SpecError at the line of `weights:` where those do not fit it."""
    try:
        session.build(graph, initial_plan(graph, spec), start_of(spec, source))
    except WeightsError as error:
        raise spec.problem(("network", "weights"), str(error)) from error


def _same_source(spec: Spec, start: StartRecord) -> Inherited | None:
    """The run that the network comes from, for a run that has no checkpoint of its own yet."""
    if not isinstance(spec.network, RunNetwork):
        return None
    source = inherited(spec)
    if source.manifest != (start.inherited or {}).get("manifest"):
        raise RunError(f"{spec.network.run}: went on since this run began from it; start this run again")
    return source


def finished(directory: RunDirectory, journal: Journal) -> Run:
    """The result of a run that ended."""
    end = journal.effective(EndRecord)[-1]
    graph = Graph.from_json(directory.get_blob(end.graph))
    taken = sum(record.epochs for record in journal.effective(PrefixRecord))
    return Run(directory.path, graph, dict(end.metrics), tuple(journal.effective()), taken)


def _end(engine: Engine, directory: RunDirectory) -> Run:
    from nasir.report import write_report

    try:
        engine.execute()
    except BaseException:
        with suppress(OSError):  # what stopped the run matters more, and so does its exit code
            if engine.journal.effective(EpochRecord):
                write_report(directory.path)
        raise
    write_report(directory.path)
    return finished(directory, engine.journal)


def _width_advice(spec: Spec, multiple: int) -> Iterator[str]:
    """A remark on each rule whose pass may leave a width at which the device is slow."""
    for number, phase in enumerate(spec.phases):
        for index, rule in enumerate(phase.plan().rules):
            step = getattr(make_pass(rule.pass_name, rule.options), "multiple_of", None)
            if step is not None and step % multiple:
                place = spec.locate(("phases", number, "rules", index, "do"))
                yield (
                    f"{place}: {rule.pass_name} has multiple_of {step}; this device computes widths that are multiples "
                    f"of {multiple} fastest: consider `multiple_of: {multiple}`"
                )


def _average_advice(spec: Spec, steps_per_epoch: int) -> Iterator[str]:
    """A remark on each phase whose average of the weights reaches back further than the phase is long."""
    for number, phase in enumerate(spec.phases):
        if phase.ema is None or phase.epochs is None:
            continue
        horizon, steps = 1 / (1 - phase.ema.decay), round(phase.epochs * steps_per_epoch)
        if horizon > steps:
            place = spec.locate(("phases", number, "ema", "decay"))
            least = 1 - 10 / max(steps, 20)
            effect = "only its warm-up keeps it near them" if phase.ema.warmup else "what is evaluated lags behind them"
            yield (
                f"{place}: the average of the weights reaches over about {horizon:.0f} steps (1 / (1 - decay)), and "
                f"phase '{phase.name}' has {steps}: {effect}; consider `decay: {least:.2g}`"
            )


def _free(path: Path) -> Path:
    """`path`, or the first numbered sibling that is not taken."""
    candidate, number = path, 2
    while candidate.exists() and any(candidate.iterdir()):
        candidate = path.with_name(f"{path.name}-{number}")
        number += 1
    return candidate


def _environment() -> dict[str, Any]:
    return {
        "nasir": VERSION,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _circumstances(session: Session, prefixes: PrefixStore | None, note_data: bool) -> dict[str, Any]:
    """What a run whose states or results others may take over has to note of where it is trained, and on which data."""
    data = session.fingerprint() if note_data or prefixes is not None else ""
    environment = {} if prefixes is None else {"environment": environment_digest(session, data)}
    return {**environment, "data": data} if note_data else environment


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs of the things that bit-exact resuming depends on."""
    keys = ("nasir", "torch", "device", "device_name", "threads", "precision", "channels_last", "deterministic")
    return [f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in keys if before.get(key) != now.get(key)]
