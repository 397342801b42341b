"""The engine: trains phase by phase, lets policies decide, carries rewrites out, journals everything."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from nasir.counted import counted
from nasir.errors import CheckpointError, Diverged, NasirError, Preempted, RunError
from nasir.ir import Graph
from nasir.ir.regions import closest
from nasir.journal.directory import RunDirectory
from nasir.journal.log import Journal
from nasir.policy import PhasePlan, PhaseProgress
from nasir.records import (
    CheckpointRecord,
    EndRecord,
    EpochRecord,
    PhaseRecord,
    Record,
    ResumeRecord,
    from_json,
    last_of,
)
from nasir.running.decisions import Decisions, outlives_divergence
from nasir.running.decisions import Signals as Signals
from nasir.running.state import RunState
from nasir.spec import Spec
from nasir.spec.inherit import Inherited
from nasir.spec.model_source import ImportedNetwork, RunNetwork
from nasir.training.backend import Session, Setup, Start
from nasir.training.modules import ImportedModule
from nasir.training.penalties import INITIAL

R = TypeVar("R", bound=Record)


class Engine:
    """One run in one directory. `execute` trains to the end, or raises Preempted after writing a checkpoint."""

    def __init__(
        self,
        spec: Spec,
        state: RunState,
        run: RunDirectory,
        journal: Journal,
        session: Session,
        signals: Signals,
        listener: Callable[[Record], None],
    ) -> None:
        self.spec = spec
        self.state = state
        self.run = run
        self.journal = journal
        self.session = session
        self.signals = signals
        self.listener = listener
        self.plans: tuple[PhasePlan, ...] = tuple(phase.plan() for phase in spec.phases)
        self.decisions = Decisions(spec.seed, state, run, journal, session, signals, self.write)
        self.begun: int | None = None  # index of the phase the session is set up for
        self.problems: tuple[str, ...] = ()  # damaged checkpoints that were passed over
        self._before_decisions: Callable[[int], None] = lambda epoch: None

    def hear_before_decisions(self, hear: Callable[[int], None]) -> None:
        """Have `hear` called after each epoch, with the number of epochs done, before the policy is asked."""
        self._before_decisions = hear

    def write(self, record: R) -> R:
        """Append a journal record and show it, as it was written."""
        written = self.journal.append(record)
        self.listener(written)
        return written

    # -- the loop

    def execute(self) -> dict[str, float]:
        """Train through all phases; returns the final metrics."""
        if self.state.undecided:
            self._decide_late()
        while True:
            progress = PhaseProgress.of(self.journal.effective(), self.plans)
            if progress.phase_index is None:
                if self.begun is None:  # resumed between the last epoch and the end
                    last = self.spec.phases[-1]
                    self.session.begin_phase(last.training(self.spec), last.epochs, resumed=True)
                return self._finish()
            if self.begun != progress.phase_index:
                self._begin(progress)
                progress = PhaseProgress.of(self.journal.effective(), self.plans)
            self._epoch(progress)

    def _begin(self, progress: PhaseProgress) -> None:
        assert progress.phase_index is not None
        phase = self.spec.phases[progress.phase_index]
        fresh = not progress.begun
        told = self.session.begin_phase(phase.training(self.spec), phase.epochs, resumed=not fresh)
        self.begun = progress.phase_index
        if fresh:
            self.write(PhaseRecord(phase=phase.name, epoch=progress.total_epochs, epochs=phase.epochs))
        for kind, fields in told.items():
            self.write(from_json({"kind": kind, "phase": phase.name, "epoch": progress.total_epochs, **fields}))
        if fresh:
            # a checkpoint is written after an epoch only: one from before the phase leads back to before these rewrites
            if not self.decisions.make(self.plans[progress.phase_index], progress.total_epochs, 0):
                raise self.decisions.stopped("a phase began")
        graph = self.state.graph
        for prefix in (phase.freeze or ()) if fresh else ():
            if not graph.holds(prefix):
                known = closest(prefix, [*graph.regions, *graph.labels])
                raise RunError(f"phase '{phase.name}': freeze: nothing is labelled '{prefix}' or below it; {known}")

    def _epoch(self, progress: PhaseProgress) -> None:
        assert progress.phase_index is not None
        started, cpu_started = time.monotonic(), time.process_time()
        phase = self.plans[progress.phase_index]
        epoch, phase_epoch = progress.total_epochs, progress.phase_epoch
        outlives = outlives_divergence(phase)
        try:
            self.state.stretch = self.session.train(epoch, phase_epoch, self.state.stretch, self.signals.wanted)
            if not self.state.stretch.finished:
                self._preempt(epoch)
            metrics = {**self.state.stretch.metrics, **self.session.evaluate("val")}
        except Diverged as error:
            if not outlives:
                raise
            metrics = {**error.metrics, **self.session.evaluate("val")}
        except NasirError as error:
            if not isinstance(error, RunError | Preempted):  # which name the epoch themselves
                error.add_note(f"in epoch {epoch + 1}, of phase '{phase.name}'")
            raise
        if outlives and not all(map(math.isfinite, metrics.values())):  # after the last step too, unseen by its loss
            metrics = dict.fromkeys(metrics, math.nan)
        self.state.stretch = None
        cost = self.state.graph.cost()
        record = EpochRecord(
            phase=phase.name,
            epoch=epoch + 1,
            phase_epoch=phase_epoch + 1,
            metrics=metrics,
            lr=self.session.learning_rate(phase_epoch),
            seconds=round(time.monotonic() - started, 3),
            cpu_seconds=round(time.process_time() - cpu_started, 3),
            params=cost.params,
            macs=cost.macs,
            depths=self.state.graph.depths(),
        )
        self.write(from_json({**record.to_json(), **self.session.notes()}))
        self.state.undecided = True
        self._before_decisions(epoch + 1)
        self._decide(phase, epoch + 1, phase_epoch + 1)

    def _decide(self, phase: PhasePlan, epoch: int, phase_epoch: int) -> None:
        """What follows an epoch; `epoch` and `phase_epoch` count those done."""
        if self.signals.wanted() or not self.decisions.make(phase, epoch, phase_epoch):
            self._preempt(epoch)  # the checkpoint says that the policy is to be asked again
        self.state.undecided = False
        every = self.spec.checkpoint.every
        over = PhaseProgress.of(self.journal.effective(), self.plans).phase_index is None
        if epoch % every == 0 or over or self.signals.wanted():
            self.save(epoch)
        if self.signals.wanted():
            raise self._stopped(epoch)

    def _decide_late(self) -> None:
        """Catch up on the decisions after the last epoch, in its phase even if that is over."""
        records = self.journal.effective()
        last = next(record for record in reversed(records) if isinstance(record, EpochRecord))
        self.begun = sum(isinstance(record, PhaseRecord) for record in records) - 1
        phase = self.spec.phases[self.begun]
        self.session.begin_phase(phase.training(self.spec), phase.epochs, resumed=True)
        self._decide(self.plans[self.begun], last.epoch, last.phase_epoch)

    def _preempt(self, epoch: int) -> None:
        self.save(epoch)
        raise self._stopped(epoch)

    def _stopped(self, epoch: int) -> Preempted:
        where = f"after {counted(epoch, 'epoch')}"
        where += f" and {counted(self.state.stretch.steps, 'step')}" if self.state.stretch else ""
        return Preempted(f"stopped {where}; `nasir resume {self.run.path}` goes on from here", self.signals.exit_code)

    def _finish(self) -> dict[str, float]:
        tested, confusion = self.session.evaluate_classes("test")
        metrics = {**tested, **self.session.evaluate("val")}
        self.session.flush()  # a run that reports that it is done has its last weights on disk
        cost = self.state.graph.cost()
        seconds = sum(record.seconds for record in self.journal.effective(EpochRecord))
        self.write(
            EndRecord(
                status="done",
                metrics=metrics,
                cost={"params": cost.params, "macs": cost.macs},
                depths=self.state.graph.depths(),
                seconds=round(seconds, 3),
                graph=self.run.put_blob(self.state.graph.to_json()),
                confusion=self.run.put_array(confusion),
            )
        )
        self.decisions.individuals.sweep(self.journal.effective(), over=True)
        return metrics

    # -- checkpoints

    def save(self, epoch: int) -> None:
        """Write a checkpoint of everything the next process needs, then journal it."""
        graph = self.run.put_blob(self.state.graph.to_json())
        meta = {**self.journal.chain.mark(), "epoch": epoch, **self.state.to_meta(graph)}
        path = self.session.save(self.run.checkpoints, len(self.journal), meta, self.spec.checkpoint.keep)
        if last_of(self.journal.effective(), CheckpointRecord) is None:
            self.session.flush()  # so where the journal tells of one and none is there, they were lost
        where = str(path.relative_to(self.run.path))
        self.write(CheckpointRecord(step=len(self.journal), epoch=epoch, path=where))
        self.decisions.individuals.sweep(self.journal.effective())

    def restore(self, environment: str | None = None, anew: bool = False) -> bool:
        """Load the newest checkpoint and void the records after it; False when there is none, or with `anew`.

        `environment`: digest of the one at hand, where states are shared. Raises CheckpointError where there were
        checkpoints and they are gone, unless `anew`; JournalError for one of another journal.
        """
        saved = None if anew else self.session.newest(self.run.checkpoints)
        n, step = 1, None  # record 0 is the start
        if saved is not None:
            step = n = int(saved.meta["n"])
            self.journal.chain.check(saved.meta, self.run.checkpoint(step))
            graph = Graph.from_json(self.run.get_blob(saved.meta["graph"]))
            self.session.load(saved, graph)
            self.state.go_back(saved.meta, graph)
            records = self.journal.records()
            if n < len(records) and isinstance(records[n], CheckpointRecord):
                n += 1
            self.problems = saved.problems
        elif not anew and (lost := last_of(self.journal.effective(), CheckpointRecord)) is not None:
            raise CheckpointError(
                f"{self.run.checkpoints}: no checkpoint is here, and the journal tells of one of epoch {lost.epoch}; "
                f"restore them from a copy, or train from the first epoch again: "
                f"`nasir resume {self.run.path} --from-start`"
            )
        self.write(ResumeRecord(supersedes_from=n, checkpoint_step=step, environment=environment))
        return saved is not None


def setup_of(spec: Spec, base: Path, module: ImportedModule | None = None) -> Setup:
    """The session settings that a spec asks for; `module`: what its network is imported from."""
    return Setup(
        data=spec.data.plan(),
        base=base,
        seed=spec.seed,
        device=spec.device,
        precision=spec.precision,
        channels_last=spec.channels_last,
        compile=spec.compile,
        deterministic=spec.deterministic,
        probe=spec.probe,
        weights=_published(spec),
        module=module,
        initial_teacher=any(
            penalty.plan().taught_by == INITIAL for phase in spec.phases for penalty in phase.regularize
        ),
    )


def start_of(spec: Spec, source: Inherited | None) -> Start | None:
    """The weights of another run that the network of a spec starts from, None for all other networks."""
    network = spec.network
    if source is None or source.checkpoint is None or not isinstance(network, RunNetwork):
        return None
    return Start(source.checkpoint, network.weights == "average", source.renewed)


def _published(spec: Spec) -> tuple[str, str] | None:
    network = spec.network
    if isinstance(network, ImportedNetwork) and network.is_preset and network.weights is not None:
        return network.model, network.weights
    return None
