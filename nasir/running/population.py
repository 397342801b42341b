"""Networks that a policy put aside: with weights, averages and optimizer state, in RUN/individuals/NUMBER/."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from nasir.errors import CheckpointError, RunError
from nasir.growing import GrowingMap, fold
from nasir.ir import Graph
from nasir.journal.directory import RunDirectory
from nasir.records import DroppedRecord, KeptRecord, Record
from nasir.training.backend import Session
from nasir.training.manifest import manifest_digest


class Individuals:
    """Individuals of one run; the journal's `kept` and `dropped` records say which of them exist."""

    def __init__(self, run: RunDirectory, session: Session) -> None:
        self.run = run
        self.session = session

    def _folder(self, number: int) -> Path:
        return self.run.individuals / str(number)

    def keep(self, number: int, graph: Graph, ordinal: int, records: Sequence[Record]) -> tuple[str, str]:
        """Store the session's network durably; returns the digests of its graph's blob and of its manifest.

        `ordinal`: rewrites and recalls so far; `records`: the journal. RunError for a number that is taken.
        """
        if number in fold(records, _Known()).kept:
            raise RunError(f"the policy keeps individual {number} twice; number each anew, on over the whole run")
        digest = self.run.put_blob(graph.to_json())
        stored = self.session.export(self._folder(number), 0, {"graph": digest, "ordinal": ordinal})
        return digest, manifest_digest(stored)

    def recall(self, number: int, ordinal: int, records: Sequence[Record]) -> Graph:
        """Make an individual the session's network, under the plan of the present phase; returns its graph.

        `ordinal`: rewrites and recalls so far, this one included. RunError where the policy never kept it or dropped
        it, CheckpointError where its files are missing or damaged.
        """
        known = fold(records, _Known())
        if not known.stores(number):
            others = ", ".join(map(str, sorted(stored(records)))) or "none"
            raise RunError(f"the policy recalls individual {number}, which is not stored; stored are {others}")
        saved = self.session.newest(self._folder(number))
        if saved is None:
            raise CheckpointError(f"{self._folder(number)}: missing; restore it from a copy, or start the run again")
        if known.kept[number] not in ("", manifest_digest(self._folder(number) / "step_0")):
            raise CheckpointError(
                f"{self._folder(number)}: not the individual that the journal says was kept; restore it from a copy, "
                "or start the run again"
            )
        graph = Graph.from_json(self.run.get_blob(saved.meta["graph"]))
        self.session.load(saved, graph, ordinal)
        return graph

    def sweep(self, records: Sequence[Record], over: bool = False) -> None:
        """Remove the files of individuals that nothing can recall any more; call it once a checkpoint was requested.

        A resume goes back to one of the checkpoints that lie in the directory, so what was dropped after the oldest of
        them stays, unless the run is `over`.
        """
        if not self.run.individuals.is_dir():
            return
        oldest = min(self.run.checkpoint_steps(), default=0)
        known = fold(records, _Known())
        for folder in self.run.individuals.iterdir():
            number = int(folder.name) if folder.name.isdecimal() else -1
            gone = number in known.dropped and (over or known.dropped[number] < oldest)
            if gone or number not in known.kept:  # or of a future that a resume made void
                shutil.rmtree(folder, ignore_errors=True)


def stored(records: Sequence[Record]) -> set[int]:
    """Numbers of the individuals that were kept and not dropped."""
    known = fold(records, _Known())
    return {number for number in known.kept if known.stores(number)}


@dataclass(frozen=True, slots=True)
class _Known:
    """Individuals by number, each of which is kept once and dropped at most once."""

    kept: GrowingMap[int, str] = field(default_factory=GrowingMap)  # with the digest of its manifest, if that is told
    dropped: GrowingMap[int, int] = field(default_factory=GrowingMap)  # with the ordinal of the record

    def after(self, record: Record) -> Self:
        match record:
            case KeptRecord():
                return replace(self, kept=self.kept.grown(record.individual, record.manifest))
            case DroppedRecord():
                return replace(self, dropped=self.dropped.grown(record.individual, record.n))
        return self

    def stores(self, number: int) -> bool:
        return number in self.kept and number not in self.dropped
