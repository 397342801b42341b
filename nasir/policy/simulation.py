"""Run policies over given metrics, without training: which rewrite would fire when."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
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


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """Rows of a CSV file with the columns `epoch` (1, 2, 3, ...) and metrics, such as `val.accuracy`.

    Accuracies are fractions 0..1; `nan` is a diverged metric; a column `seconds` is the duration of an epoch.
    Raises DataError with file:line:column for anything else.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a CSV file in UTF-8: {error}") from None
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise DataError(f"{path}:1:1: the file is empty; expected a header such as epoch,val.accuracy")
    names = _header(path, *lines[0])
    rows = [_row(path, number, line, names, epoch) for epoch, (number, line) in enumerate(lines[1:], 1)]
    if not rows:
        raise DataError(f"{path}:{lines[0][0]}:1: there are no epochs below the header")
    return rows


def _header(path: str | Path, number: int, line: str) -> list[str]:
    names = [cell.strip() for cell in _cells(line)]
    for index, name in enumerate(names):
        place = f"{path}:{number}:{_column(line, index)}"
        if not name:
            raise DataError(f"{place}: the column has no name; the header is such as epoch,val.accuracy")
        if name in names[:index]:
            raise DataError(f"{place}: column {name!r} occurs twice; remove one")
    if "epoch" not in names:
        raise DataError(f"{path}:{number}:1: no column 'epoch'; the columns are {', '.join(names)}")
    if set(names) <= {"epoch", "seconds"}:
        raise DataError(f"{path}:{number}:1: no metric beside 'epoch'; add a column such as val.accuracy")
    return names


def _row(path: str | Path, number: int, line: str, names: Sequence[str], epoch: int) -> dict[str, float]:
    cells = _cells(line)
    if len(cells) != len(names):
        column = _column(line, min(len(cells), len(names)) - 1)
        raise DataError(f"{path}:{number}:{column}: {len(cells)} values for {len(names)} columns ({', '.join(names)})")
    values = {}
    for index, (name, cell) in enumerate(zip(names, cells, strict=True)):
        place = f"{path}:{number}:{_column(line, index)}"
        values[name] = _value(place, name, cell)
        if name == "epoch" and values[name] != epoch:
            raise DataError(f"{place}: epoch {cell.strip()}, expected {epoch}; rows count the epochs 1, 2, 3, ...")
    del values["epoch"]
    return values


def _value(place: str, name: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        raise DataError(f"{place}: {name} is {cell.strip()!r}, which is not a number") from None
    if name.endswith("accuracy") and value > 1:
        raise DataError(f"{place}: {name} is {cell.strip()}; accuracies are fractions 0..1, so divide per cent by 100")
    if name == "seconds" and not value >= 0:
        raise DataError(f"{place}: seconds is {cell.strip()}; it must be at least 0")
    return value


def _cells(line: str) -> list[str]:
    return next(csv.reader([line]))


def _column(line: str, index: int) -> int:
    """Character column, from 1, of a cell; exact for cells without quotes."""
    return sum(len(cell) + 1 for cell in _cells(line)[:index]) + 1
