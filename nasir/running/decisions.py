"""Decisions carried out: a rewrite is proposed, measured, adopted and journaled, or declined; trials pick the best."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nasir.counted import counted
from nasir.errors import ClaimError, Decline, NasirError, NotFinite, OutOfMemory, Preempted, RunError
from nasir.ir import Graph
from nasir.journal.directory import RunDirectory
from nasir.journal.log import Journal, lineage
from nasir.policy import (
    DropIndividual,
    EndPhase,
    FreezeSite,
    KeepIndividual,
    PhasePlan,
    PhaseView,
    RecallIndividual,
    RewriteSite,
    Rounds,
    RulePlan,
    TrySites,
    decisions_of,
)
from nasir.policy.conditions import metric_values
from nasir.records import (
    DeclinedRecord,
    DroppedRecord,
    EpochRecord,
    KeptRecord,
    PhaseRecord,
    RecalledRecord,
    Record,
    RewriteRecord,
    TrialRecord,
    from_json,
    last_of,
)
from nasir.registry import policies
from nasir.rewriting.evidence import Evidence, Need
from nasir.rewriting.propose import make_pass, propose
from nasir.rewriting.rewrite import WHOLE, Rewrite, site_name
from nasir.running.population import Individuals
from nasir.running.state import RunState
from nasir.spec import make_policy
from nasir.training.backend import Effect, Session

EXACT = 1e-4  # largest |delta logits| of an "exact" rewrite, relative to the largest logit (float32 rounding)
TRIAL_EPOCHS = 2 * 10**12  # data order of trials: far from those of ordinary epochs
PER_REWRITE = 10**6  # epochs of trials before one rewrite, at most


@dataclass(slots=True)
class Signals:
    """Requests to a running engine from outside; set by the signal handlers of the command line."""

    exit_code: int = 0  # 75 or 130 once a stop is wanted

    def wanted(self) -> bool:
        return self.exit_code != 0


class Decisions:
    """Asks the policy and does what it says, on one session; `state` is that of the engine."""

    def __init__(
        self,
        seed: int,
        state: RunState,
        run: RunDirectory,
        journal: Journal,
        session: Session,
        signals: Signals,
        write: Callable[[Record], Record],
    ) -> None:
        self.seed = seed
        self.state = state
        self.run = run
        self.journal = journal
        self.session = session
        self.signals = signals
        self.write = write
        self.individuals = Individuals(run, session)

    def make(self, phase: PhasePlan, epoch: int, phase_epoch: int) -> bool:
        """Ask the policy until it has nothing to add, and carry out what it decides.

        False: a stop was asked for in between; what was decided so far is carried out, so that the policy can be asked
        on from there. Raises Preempted where the stop comes between decisions that were made together.
        `epoch` and `phase_epoch`: epochs done in the run and in the phase.
        """
        policy = make_policy(phase, self.seed)
        place: dict[str, Any] = {"epoch": epoch, "phase": phase.name}
        rounds, outlives = Rounds(phase, epoch), outlives_divergence(phase)
        while not (rounds.count and self.signals.wanted()):  # asked again after declined rewrites
            now = view(self.state.graph, (phase,))
            decisions = decisions_of(policy, phase, self.journal.effective(), now)
            if not decisions:
                return True
            rounds.check(decisions, now, self.state.graph.digest)
            for number, decision in enumerate(decisions):
                if number and self.signals.wanted():
                    raise self.stopped("decisions were carried out")
                self.write(from_json({**place, **decision.to_record()}))
                match decision:
                    case RewriteSite():
                        self._rewrite(decision, place, outlives)
                    case TrySites():
                        self._try(decision, place, phase_epoch)
                    case KeepIndividual():
                        self._keep(decision.individual, place)
                    case RecallIndividual():
                        self._recall(decision.individual, place)
                    case DropIndividual():
                        self.write(DroppedRecord(**place, individual=decision.individual))
                    case FreezeSite():
                        pass  # the policy reads it in the record
                    case EndPhase():
                        return True
        return False

    # -- one rewrite

    def _rewrite(self, decision: RewriteSite, place: Mapping[str, Any], outlives: bool = False) -> None:
        started = time.monotonic()
        try:
            rewrite, effect = self._propose(decision, place)
        except Decline as refusal:
            self._decline(decision, place, refusal)
            return
        except NotFinite:
            if not outlives:
                raise
            self._decline(decision, place, Decline("the rewritten network gives logits that are not finite"))
            return
        for array in rewrite.blobs.values():  # now: later they may be trained in place
            self.run.put_array(array)
        self.session.accept()
        before, self.state.graph = self.state.graph, rewrite.graph
        self.state.ordinal += 1
        settled, refreshed = self._after(rewrite)
        cost = self.state.graph.cost()
        self.write(
            RewriteRecord(
                **place,
                **_named(decision),
                site=decision.site,
                ordinal=self.state.ordinal,
                before=rewrite.before.digest,
                after=rewrite.graph.digest,
                graph=self.run.put_blob(rewrite.graph.to_json()),
                plan=self.run.put_blob(rewrite.plan.to_json()),
                preserves=rewrite.preserves,
                delta_logits=effect.delta_logits,
                delta_logits_averaged=None if effect.averaged is None else effect.averaged.delta_logits,
                depths=self.state.graph.depths(),
                added=[path for path in self.state.graph.regions if path not in before.regions],
                removed=[path for path in before.regions if path not in self.state.graph.regions],
                cost={"params": cost.params, "macs": cost.macs},
                seconds=round(time.monotonic() - started, 4),
                settle=settled,
                refresh=refreshed or None,
                noted=dict(rewrite.noted),
            )
        )

    def _decline(self, decision: RewriteSite, place: Mapping[str, Any], refusal: Decline) -> None:
        named, noted = _named(decision), dict(refusal.noted)
        self.write(DeclinedRecord(**place, **named, site=decision.site, reason=str(refusal), noted=noted))

    def _propose(self, decision: RewriteSite, place: Mapping[str, Any]) -> tuple[Rewrite, Effect]:
        """The rewrite of a decision and its measured effect; the network is not touched yet. Raises Decline."""
        try:
            rewrite = self._rewrite_of(decision)
            effect = self._effect(rewrite, decision, place)
            _check_claim(rewrite, effect)
        except Decline:
            raise
        except NasirError as error:
            where = f"after epoch {place['epoch']} of phase '{place['phase']}'"
            error.add_note(f"in {decision.pass_name} at {decision.site}, {where}")
            raise
        return rewrite, effect

    def _effect(self, rewrite: Rewrite, decision: RewriteSite, place: Mapping[str, Any]) -> Effect:
        try:
            return self.session.propose(rewrite)
        except (OutOfMemory, MemoryError) as error:
            sizes = error.sizes if isinstance(error, OutOfMemory) else ""
            raise OutOfMemory(
                f"{decision.pass_name} at {decision.site}, after epoch {place['epoch']} of phase '{place['phase']}': "
                f"the new network does not fit into memory beside the old one{sizes}; bound it by a `budget` of the "
                "rule, or make the step smaller",
                sizes,
            ) from error

    def _rewrite_of(self, decision: RewriteSite) -> Rewrite:
        rewrite = propose(decision, self.state.graph, self._observed)
        stored = {d: self.run.get_array(d) for d in rewrite.plan.digests() if d not in rewrite.blobs}
        return replace(rewrite, blobs={**rewrite.blobs, **stored})

    def _observed(self, needs: tuple[Need, ...]) -> Evidence:
        seen = self.session.observe(needs) if needs else Evidence()
        return replace(seen, history=self._own(), seed=self.seed, ordinal=self.state.ordinal + 1)

    def _after(self, rewrite: Rewrite) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Carry out what a rewrite asks the trainer for; `settle` and `refresh` of its record."""
        settled = refreshed = None
        if rewrite.settle is not None:
            before = self._latest().get("train.accuracy", 0.0)
            settled = self.session.settle(rewrite.settle, before - rewrite.settle.tolerance, self.signals.wanted)
            if settled is None:
                raise self.stopped("a new block settled")
        if rewrite.refresh is not None:
            refreshed = self.session.refresh(rewrite.refresh, self.signals.wanted)
            if refreshed is None:
                raise self.stopped("statistics were refreshed")
        return settled, refreshed

    def stopped(self, what: str) -> Preempted:
        """What a stop raises where no checkpoint can be written."""
        return Preempted(
            f"stopped while {what}; `nasir resume {self.run.path}` goes on from the last checkpoint",
            self.signals.exit_code,
        )

    # -- individuals

    def _keep(self, number: int, place: Mapping[str, Any]) -> None:
        """Store the network as it is now, and journal what it is worth: the metrics of its latest epoch."""
        records = self.journal.effective()
        graph, manifest = self.individuals.keep(number, self.state.graph, self.state.ordinal, records)
        cost = self.state.graph.cost()
        own = (record for record in reversed(self._own()) if isinstance(record, RecalledRecord | PhaseRecord))
        origin = next(own, None)
        self.write(
            KeptRecord(
                **place,
                individual=number,
                parent=origin.individual if isinstance(origin, RecalledRecord) else None,
                graph=graph,
                manifest=manifest,
                metrics=self._latest(),
                params=cost.params,
                macs=cost.macs,
                depths=self.state.graph.depths(),
            )
        )

    def _recall(self, number: int, place: Mapping[str, Any]) -> None:
        """Go on with a stored network; later rewrites draw new random numbers."""
        graph = self.individuals.recall(number, self.state.ordinal + 1, self.journal.effective())
        self.state.ordinal += 1
        self.state.graph = graph
        digest = self.run.put_blob(graph.to_json())
        depths = graph.depths()
        self.write(RecalledRecord(**place, individual=number, graph=digest, ordinal=self.state.ordinal, depths=depths))

    def _own(self) -> Sequence[Record]:
        """The journal of the network as it is now, without what happened to others."""
        return lineage(self.journal.effective())

    def _latest(self) -> Mapping[str, float]:
        """Metrics of the last epoch that the network as it is now was trained for; none before its first."""
        last = self._last_epoch()
        return {} if last is None else last.metrics

    def _last_epoch(self) -> EpochRecord | None:
        return last_of(self._own(), EpochRecord)

    # -- trials

    def _try(self, decision: TrySites, place: Mapping[str, Any], phase_epoch: int) -> None:
        """Train each candidate from the same state, put everything back, and adopt the best if it is good enough.

        A journal record `trial` says what came of each; `site` None is the network as it is.
        """
        trial = decision.trial
        saved = self.session.snapshot()
        if trial.baseline == "now":
            last = self._last_epoch()
            if last is None:
                raise RunError(f"rule {decision.rule}: `baseline: now` needs an epoch before; use `baseline: trained`")
            baseline = metric_values(trial.metric, [last])[0]
        else:
            baseline = self._trial(decision, None, place, phase_epoch)
            self.session.restore(saved)
        gains: dict[str, float] = {}
        for site in decision.sites:
            candidate = decision.at(site)
            try:
                rewrite, _ = self._propose(candidate, place)
                self.session.accept()
                self._after(rewrite)
                gains[site] = trial.gain(self._trial(decision, rewrite, place, phase_epoch), baseline)
            except (Decline, RunError) as refusal:  # one that diverges is no candidate
                refusal = refusal if isinstance(refusal, Decline) else Decline(str(refusal))
                self._decline(candidate, place, refusal)
            self.session.restore(saved)
        best = max(gains, key=lambda site: gains[site], default=None)
        if best is not None and gains[best] > trial.min_gain:
            self._rewrite(decision.at(best), place)
            return
        for site in gains:
            reason = (
                f"the best candidate, {best}, gains {gains[str(best)]:.6g} of {trial.metric} over {baseline:.6g} in "
                f"{counted(trial.epochs, 'epoch')}, not more than {trial.min_gain:.6g}"
            )
            self._decline(decision.at(site), place, Decline(reason))

    def _trial(self, decision: TrySites, rewrite: Rewrite | None, place: Mapping[str, Any], phase_epoch: int) -> float:
        """Train the session's network for a trial and journal the outcome; returns its value of the metric.

        `rewrite` made it, None: it is the network as it is.
        """
        trial = decision.trial
        started = time.monotonic()
        trained: Mapping[str, float] = {}
        for number in range(trial.epochs):
            epoch = TRIAL_EPOCHS + PER_REWRITE * self.state.ordinal + number
            stretch = self.session.train(epoch, phase_epoch + number, None, self.signals.wanted)
            if not stretch.finished or self.signals.wanted():
                raise self.stopped("candidates were tried")
            trained = stretch.metrics
        metrics = {**trained, **self.session.evaluate("val")}
        cost = (rewrite.graph if rewrite is not None else self.state.graph).cost()
        record = TrialRecord(
            **place,
            **_named(decision),
            site=rewrite.site if rewrite is not None else None,
            epochs=trial.epochs,
            metrics=metrics,
            params=cost.params,
            macs=cost.macs,
            seconds=round(time.monotonic() - started, 3),
        )
        self.write(record)
        return metric_values(trial.metric, [record])[0]


def outlives_divergence(phase: PhasePlan) -> bool:
    """Whether the run goes on after a divergence: see `nasir.policy.base.Policy`."""
    return bool(getattr(policies.get(phase.policy), "outlives_divergence", False))


def _check_claim(rewrite: Rewrite, effect: Effect) -> None:
    """ClaimError where a rewrite claims to be exact and is not, even if only for the averaged weights."""
    if rewrite.preserves != "exact":
        return
    for network, part in (("", effect), (" of the averaged weights", effect.averaged)):
        if part is not None and not part.delta_logits <= EXACT * max(1.0, part.largest_logit):
            raise ClaimError(
                f"{rewrite.made_by['pass']} at {rewrite.site} claims to be exact, but changes the logits{network} of "
                f"the probe batch by up to {part.delta_logits:.3g} (largest logit {part.largest_logit:.3g}); "
                "claim approximate, or mend it"
            )


def _named(decision: RewriteSite | TrySites) -> dict[str, Any]:
    return {"pass_name": decision.pass_name, "options": dict(decision.options)}


def view(graph: Graph, phases: Sequence[PhasePlan]) -> PhaseView:
    """What a policy sees of a graph: stages, and for rules whose pass acts elsewhere the names of its sites.

    A rule that says nothing of when it acts is drawn by its policy, and only sites that its pass has now are worth a
    draw: of those the stages, if there are any and the rule names no place itself.
    """
    cost = graph.cost()
    stages = tuple(stage.path for stage in graph.stages)
    sites = {}
    measuring = set()
    known: dict[str, tuple[str, ...]] = {}
    for rule in (rule for phase in phases for rule in phase.rules):
        key = _key(rule)
        if key not in known:
            change = make_pass(rule.pass_name, rule.options)
            known[key] = tuple(site_name(site) for site in change.sites(graph))
            if change.needs:
                measuring.add(key)
        names, wanted = known[key], rule.where.stages
        if rule.where.sites:
            sites[rule.name] = names
            continue
        if WHOLE in names and not wanted and rule.trial is None:
            sites[rule.name] = (WHOLE,)
            continue
        names = tuple(name for name in names if name != WHOLE)
        elsewhere = any(name not in graph.regions for name in names)  # channel spaces
        if rule.every is None and rule.when is None:
            sites[rule.name] = (not wanted and tuple(name for name in names if name in stages)) or names
        elif elsewhere or any(place in names and place not in stages for place in wanted):
            sites[rule.name] = names
    return PhaseView(
        stages,
        graph.depths(),
        cost.params,
        cost.macs,
        sites,
        frozenset(graph.regions),
        frozenset(rule.name for phase in phases for rule in phase.rules if _key(rule) in measuring),
        {stage.path: (*stage.parts, *graph.prefixes(stage.path)) for stage in graph.stages if stage.parts},
    )


def _key(rule: RulePlan) -> str:
    return f"{rule.pass_name} {rule.options}"
