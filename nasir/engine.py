"""The engine: trains phase by phase, lets policies decide, carries rewrites out, journals everything."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasir.backend import Effect, Session, Setup, Stretch
from nasir.errors import ClaimError, Decline, NasirError, Preempted, RunError
from nasir.evidence import Evidence
from nasir.ir import Graph
from nasir.journal import Journal, Record
from nasir.policy import Decision, PhasePlan, PhaseView, Progress
from nasir.registry import policies
from nasir.rewrite import Pass, Rewrite, Site, site_name
from nasir.rundir import RunDirectory
from nasir.spec import Spec, make_pass
from nasir.spec.model_network import ImportedNetwork

EXACT = 1e-4  # largest |delta logits| of an "exact" rewrite, relative to the largest logit (float32 rounding)


@dataclass(slots=True)
class Signals:
    """What the outside asks of a running engine; set by the signal handlers of the command line."""

    exit_code: int = 0  # 75 or 130 once a stop is wanted

    def wanted(self) -> bool:
        return self.exit_code != 0


class Engine:
    """One run in one directory. `execute` trains to the end, or raises Preempted after writing a checkpoint."""

    def __init__(
        self,
        spec: Spec,
        run: RunDirectory,
        journal: Journal,
        session: Session,
        signals: Signals,
        listener: Callable[[Record], None],
    ) -> None:
        self.spec = spec
        self.run = run
        self.journal = journal
        self.session = session
        self.signals = signals
        self.listener = listener
        self.plans: tuple[PhasePlan, ...] = tuple(phase.plan() for phase in spec.phases)
        self.graph: Graph
        self.stretch: Stretch | None = None  # of an epoch that was interrupted
        self.ordinal = 0  # rewrites so far
        self.begun: int | None = None  # index of the phase the session is set up for
        self.problems: tuple[str, ...] = ()  # damaged checkpoints that were passed over

    def write(self, kind: str, **fields: Any) -> Record:
        """Append a journal record and show it."""
        record = self.journal.append(kind, fields)
        self.listener(record)
        return record

    # -- the loop

    def execute(self) -> dict[str, float]:
        """Train through all phases; returns the final metrics."""
        while True:
            progress = Progress.of(self.journal.effective(), self.plans)
            if progress.phase_index is None:
                if self.begun is None:  # resumed between the last epoch and the end
                    last = self.spec.phases[-1]
                    self.session.begin_phase(last.training(self.spec), last.epochs, resumed=True)
                return self._finish()
            if self.begun != progress.phase_index:
                self._begin(progress)
                progress = Progress.of(self.journal.effective(), self.plans)
            self._epoch(progress)

    def _begin(self, progress: Progress) -> None:
        assert progress.phase_index is not None
        phase = self.spec.phases[progress.phase_index]
        fresh = not progress.begun
        self.session.begin_phase(phase.training(self.spec), phase.epochs, resumed=not fresh)
        self.begun = progress.phase_index
        if fresh:
            self.write("phase", phase=phase.name, epoch=progress.total_epochs, epochs=phase.epochs)

    def _epoch(self, progress: Progress) -> None:
        assert progress.phase_index is not None
        started, cpu_started = time.monotonic(), time.process_time()
        phase = self.plans[progress.phase_index]
        epoch, phase_epoch = progress.total_epochs, progress.phase_epoch
        self.stretch = self.session.train(epoch, phase_epoch, self.stretch, self.signals.wanted)
        if not self.stretch.finished:
            self._preempt(epoch)
        metrics = {**self.stretch.metrics, **self.session.evaluate("val")}
        self.stretch = None
        cost = self.graph.cost()
        self.write(
            "epoch",
            phase=phase.name,
            epoch=epoch + 1,
            phase_epoch=phase_epoch + 1,
            metrics=metrics,
            lr=self.session.learning_rate(phase_epoch),
            seconds=round(time.monotonic() - started, 3),
            cpu_seconds=round(time.process_time() - cpu_started, 3),
            params=cost.params,
            macs=cost.macs,
            depths=self.graph.depths(),
            **self.session.notes(),
        )
        self._decide(phase, epoch + 1)
        every = self.spec.checkpoint.every
        over = Progress.of(self.journal.effective(), self.plans).phase_index is None
        if (epoch + 1) % every == 0 or over or self.signals.wanted():
            self.save(epoch + 1)
        if self.signals.wanted():
            raise self._stopped(epoch + 1)

    def _preempt(self, epoch: int) -> None:
        self.save(epoch)
        raise self._stopped(epoch)

    def _stopped(self, epoch: int) -> Preempted:
        where = f"after {epoch} epochs" + (f" and {self.stretch.steps} steps" if self.stretch else "")
        return Preempted(f"stopped {where}; `nasir resume {self.run.path}` goes on from here", self.signals.exit_code)

    def _finish(self) -> dict[str, float]:
        metrics = {**self.session.evaluate("test"), **self.session.evaluate("val")}
        cost = self.graph.cost()
        done = [r for r in self.journal.effective() if r["kind"] == "epoch"]
        self.write(
            "end",
            status="done",
            metrics=metrics,
            cost={"params": cost.params, "macs": cost.macs},
            depths=self.graph.depths(),
            seconds=round(sum(record["seconds"] for record in done), 3),
            graph=self.run.put_blob(self.graph.to_json()),
        )
        return metrics

    # -- decisions

    def _decide(self, phase: PhasePlan, epoch: int) -> None:
        policy = policies.get("rules")(phase, self.spec.seed)
        for _ in range(1000):  # decide() is asked again after declined rewrites; a policy that never ends is a bug
            decisions = policy.decide(self.journal.effective(), view(self.graph, self.plans))
            if not decisions:
                return
            for decision in decisions:
                self._carry_out(decision, phase, epoch)
                if decision.action == "end_phase":
                    return
        raise RunError(f"phase '{phase.name}': the policy made 1000 rounds of decisions after epoch {epoch}; it loops")

    def _carry_out(self, decision: Decision, phase: PhasePlan, epoch: int) -> None:
        place = {"epoch": epoch, "phase": phase.name}
        fields = {key: value for key, value in decision.to_record().items() if key != "kind"}
        self.write("decision", **place, **fields)
        if decision.action != "rewrite":
            return
        started = time.monotonic()
        named = {"pass": decision.pass_name, "options": dict(decision.options), "site": decision.site}
        try:
            rewrite, effect = self._propose(decision)
        except Decline as refusal:
            self.write("declined", **place, **named, reason=str(refusal))
            return
        except NasirError as error:
            error.add_note(f"in {decision.pass_name} at {decision.site}, after epoch {epoch} of phase '{phase.name}'")
            raise
        self.session.accept()
        self.graph = rewrite.graph
        self.ordinal += 1
        settled = self._settle(rewrite) if rewrite.settle else None
        cost = self.graph.cost()
        self.write(
            "rewrite",
            **place,
            **named,
            ordinal=self.ordinal,
            before=rewrite.before.digest,
            after=rewrite.graph.digest,
            graph=self.run.put_blob(rewrite.graph.to_json()),
            plan=self.run.put_blob(rewrite.plan.to_json()),
            preserves=rewrite.preserves,
            delta_logits=effect.delta_logits,
            depths=self.graph.depths(),
            cost={"params": cost.params, "macs": cost.macs},
            seconds=round(time.monotonic() - started, 4),
            settle=settled,
        )

    def _propose(self, decision: Decision) -> tuple[Rewrite, Effect]:
        change = make_pass(decision.pass_name, decision.options)
        seen = self.session.observe(change.needs) if change.needs else Evidence()
        seen = Evidence(seen.measured, self.journal.effective())
        rewrite = change.attempt(self.graph, find_site(change, self.graph, str(decision.site)), seen)
        if decision.budget is not None:
            cost = rewrite.graph.cost()
            excess = decision.budget.excess(params=cost.params, macs=cost.macs)
            if excess:
                raise Decline(f"past the budget: {excess}")
        effect = self.session.propose(rewrite)
        if rewrite.preserves == "exact" and not effect.delta_logits <= EXACT * max(1.0, effect.scale):
            raise ClaimError(
                f"{decision.pass_name} at {rewrite.site} claims to be exact, but changes the logits of the probe batch "
                f"by up to {effect.delta_logits:.3g} (largest logit {effect.scale:.3g}); claim approximate, or mend it"
            )
        return rewrite, effect

    def _settle(self, rewrite: Rewrite) -> Mapping[str, Any]:
        assert rewrite.settle is not None
        epochs = [record for record in self.journal.effective() if record["kind"] == "epoch"]
        before = epochs[-1]["metrics"]["train.accuracy"] if epochs else 0.0
        settled = self.session.settle(rewrite.settle, before - rewrite.settle.tolerance, self.signals.wanted)
        if settled is None:
            raise Preempted(
                f"stopped while a new block settled; `nasir resume {self.run.path}` goes on from the last checkpoint",
                self.signals.exit_code,
            )
        return settled

    # -- checkpoints

    def save(self, epoch: int) -> None:
        """Write a checkpoint of everything the next process needs, then journal it."""
        stretch = self.stretch
        meta = {
            "n": len(self.journal),
            "epoch": epoch,
            "graph": self.run.put_blob(self.graph.to_json()),
            "ordinal": self.ordinal,
            "stretch": None if stretch is None else {"steps": stretch.steps, "sums": dict(stretch.sums)},
        }
        path = self.session.save(self.run.checkpoints, len(self.journal), meta, self.spec.checkpoint.keep)
        self.write("checkpoint", step=len(self.journal), epoch=epoch, path=str(path.relative_to(self.run.path)))

    def restore(self) -> bool:
        """Load the newest checkpoint and void the records after it; False when there is none."""
        meta = self.session.load(self.run.checkpoints, lambda found: Graph.from_json(self.run.get_blob(found["graph"])))
        n = 1 if meta is None else int(meta["n"])  # record 0 is the start
        records = self.journal.records()
        if meta is not None:
            self.graph = Graph.from_json(self.run.get_blob(meta["graph"]))
            self.ordinal = int(meta["ordinal"])
            if meta["stretch"] is not None:
                self.stretch = Stretch({}, False, meta["stretch"]["steps"], meta["stretch"]["sums"])
            if n < len(records) and records[n]["kind"] == "checkpoint":
                n += 1
        self.write("resume", supersedes_from=n, checkpoint_step=None if meta is None else meta["n"])
        self.problems = () if meta is None else tuple(meta["problems"])
        return meta is not None


def find_site(change: Pass, graph: Graph, name: str) -> Site:
    """The site of a pass that goes by `name`; Decline when it has none of that name now."""
    for site in change.sites(graph):
        if site_name(site) == name:
            return site
    raise Decline(f"{change.name} has no site '{name}' in the network as it is now")


def view(graph: Graph, phases: Sequence[PhasePlan]) -> PhaseView:
    """What a policy sees of a graph: stages, and for rules whose pass acts elsewhere the names of its sites."""
    cost = graph.cost()
    stages = tuple(stage.path for stage in graph.stages)
    sites = {}
    for rule in (rule for phase in phases for rule in phase.rules):
        names = tuple(site_name(site) for site in make_pass(rule.pass_name, rule.options).sites(graph))
        wanted = rule.where.stages
        elsewhere = any(name not in graph.regions for name in names)  # channel spaces
        if elsewhere or any(place in names and place not in stages for place in wanted):
            sites[rule.name] = names
    return PhaseView(stages, graph.depths(), cost.params, cost.macs, sites)


def setup_of(spec: Spec, base: Path) -> Setup:
    """The session settings that a spec asks for."""
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
    )


def _published(spec: Spec) -> tuple[str, str] | None:
    network = spec.network
    if isinstance(network, ImportedNetwork) and network.weights is not None:
        return network.model, network.weights
    return None
