"""Run policies over given metrics, without training: which rewrite would fire when."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from nasir.errors import DataError, Decline, RunError
from nasir.growing import GrowingSequence
from nasir.policy.asking import Rounds, decisions_of
from nasir.policy.base import PhaseView, Policy
from nasir.policy.decision import (
    DropIndividual,
    EndPhase,
    FreezeSite,
    KeepIndividual,
    RecallIndividual,
    RewriteSite,
    TrySites,
)
from nasir.policy.plans import PhasePlan
from nasir.policy.rules import RulesPolicy
from nasir.policy.schedule import PhaseProgress
from nasir.records import EpochRecord, Record, from_json

Row = Mapping[str, float]
"""The values of one epoch by column name; `seconds` is the time the epoch takes, all others are metrics."""

Structural: TypeAlias = RewriteSite | KeepIndividual | RecallIndividual
Apply = Callable[[Structural], PhaseView | None]
"""Carries out a decision on structure alone and returns the new view. To decline a rewrite, return None or raise
Decline with the reason; one past its `budget` is to be declined, see `Budget.excess`."""

Make = Callable[[PhasePlan, int], Policy]
"""The policy of a phase, from its plan and the seed of the run."""

MAX_EPOCHS = 10_000


def simulate(
    phases: Sequence[PhasePlan],
    seed: int,
    rows: Sequence[Row],
    view: PhaseView,
    apply: Apply | None = None,
    max_epochs: int = MAX_EPOCHS,
    make: Make = RulesPolicy,
) -> list[Record]:
    """The records that a run with these metrics would write, without what needs training or weights.

    rows[e - 1] holds the metrics after epoch e of the run; when rows run out the last one is held. `view` is the
    network at the start. Without `apply` a rewrite only changes the depth of its stage by one (see `counted`).
    The last record is `end` with status "done", or "capped" when max_epochs were not enough.
    Raises DataError without rows, RunError where the policy names a stage or metric that is not there.
    """
    if not rows:
        raise DataError("a simulation needs the metrics of at least one epoch")
    return _Simulation(phases, seed, rows, view, apply, make).run(max_epochs)


def counted(view: PhaseView, decision: RewriteSite) -> PhaseView | None:
    """The toy rewrite: one block more in the stage, or one less for a pass called remove-...; costs stay."""
    site = decision.site
    if site not in view.depths:
        return view
    depth = view.depths[site] + (-1 if decision.pass_name.startswith("remove") else 1)
    return replace(view, depths={**view.depths, site: depth}) if depth >= 1 else None


class _Simulation:
    def __init__(
        self,
        phases: Sequence[PhasePlan],
        seed: int,
        rows: Sequence[Row],
        view: PhaseView,
        apply: Apply | None,
        make: Make,
    ) -> None:
        self.phases = phases
        self.seed = seed
        self.rows = rows
        self.view = view
        self.apply = apply
        self.make = make
        self.kept: dict[int, PhaseView] = {}
        self.records: GrowingSequence[Record] = GrowingSequence()
        self.rewrites = 0

    def run(self, max_epochs: int) -> list[Record]:
        while True:
            progress = PhaseProgress.of(self.records, self.phases)
            if progress.phase_index is None or progress.total_epochs >= max_epochs:
                break
            phase = self.phases[progress.phase_index]
            if not progress.begun:
                self._write("phase", phase=phase.name, epoch=progress.total_epochs)
                self._decide(phase, progress.total_epochs)
            self._epoch(phase, progress)
            self._decide(phase, progress.total_epochs + 1)
        status = "done" if progress.phase_index is None else "capped"
        self._write("end", status=status, epoch=progress.total_epochs, **self._structure())
        return list(self.records)

    def _write(self, kind: str, **fields: Any) -> None:
        self.records = self.records.grown(from_json({"kind": kind, "n": len(self.records), **fields}))

    def _structure(self) -> dict[str, Any]:
        return {"depths": dict(self.view.depths), "params": self.view.params, "macs": self.view.macs}

    def _epoch(self, phase: PhasePlan, progress: PhaseProgress) -> None:
        row = self.rows[min(progress.total_epochs, len(self.rows) - 1)]
        self._write(
            "epoch",
            phase=phase.name,
            epoch=progress.total_epochs + 1,
            phase_epoch=progress.phase_epoch + 1,
            metrics={name: value for name, value in row.items() if name != "seconds"},
            seconds=row.get("seconds", 0.0),
            **self._structure(),
        )

    def _decide(self, phase: PhasePlan, epoch: int) -> None:
        policy = self.make(phase, self.seed)
        rounds = Rounds(phase, epoch)
        while decisions := decisions_of(policy, phase, self.records, self.view):
            rounds.check(decisions, self.view, f"after {self.rewrites} rewrites")
            for decision in decisions:
                fields = {key: value for key, value in decision.to_record().items() if key != "kind"}
                self._write("decision", epoch=epoch, phase=phase.name, **fields)
                place = {"epoch": epoch, "phase": phase.name}
                match decision:
                    case RewriteSite():
                        self._rewrite(decision, place)
                    case TrySites():
                        self._try(decision, place)
                    case KeepIndividual():
                        self._keep(decision, place)
                    case RecallIndividual():
                        self._recall(decision, place)
                    case DropIndividual():
                        self._write("dropped", **place, individual=decision.individual)
                    case FreezeSite():
                        pass  # the policy reads it in the record
                    case EndPhase():
                        return

    def _keep(self, decision: KeepIndividual, place: Mapping[str, Any]) -> None:
        if self.apply:
            self.apply(decision)
        self.kept[decision.individual] = self.view
        last: Mapping[str, float] = next(
            (record.metrics for record in reversed(self.records) if isinstance(record, EpochRecord)), {}
        )
        self._write("kept", **place, individual=decision.individual, metrics=last, **self._structure())

    def _recall(self, decision: RecallIndividual, place: Mapping[str, Any]) -> None:
        if decision.individual not in self.kept:
            raise RunError(f"the policy recalls individual {decision.individual}, which it never kept")
        done = self.apply(decision) if self.apply else None
        self.view = done or self.kept[decision.individual]
        self.rewrites += 1
        structure = self._structure()
        self._write("recalled", **place, individual=decision.individual, ordinal=self.rewrites, **structure)

    def _try(self, decision: TrySites, place: Mapping[str, Any]) -> None:
        """A trial without training: the first site that does not decline is taken for the best."""
        for site in decision.sites:
            if self._rewrite(decision.at(site), place):
                return

    def _rewrite(self, decision: RewriteSite, place: Mapping[str, Any]) -> bool:
        """Whether it was adopted."""
        named = {"pass": decision.pass_name, "options": dict(decision.options), "site": decision.site}
        reason = "the pass refused"
        try:
            view = self.apply(decision) if self.apply else counted(self.view, decision)
        except Decline as refusal:
            view, reason = None, str(refusal)
        if view is None:
            self._write("declined", **place, **named, reason=reason)
            return False
        self.view = view
        self.rewrites += 1
        self._write("rewrite", **place, **named, ordinal=self.rewrites, seconds=0.0, **self._structure())
        return True
