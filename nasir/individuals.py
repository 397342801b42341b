"""Networks that a policy put aside: with weights, averages and optimizer state, in RUN/individuals/NUMBER/."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nasir.backend import Session
from nasir.errors import CheckpointError, RunError
from nasir.ir import Graph
from nasir.journal import Record
from nasir.rundir import RunDirectory


class Individuals:
    """Individuals of one run; which of them exist is told by the journal's `kept` and `dropped` records."""

    def __init__(self, run: RunDirectory, session: Session) -> None:
        self.run = run
        self.session = session

    def _folder(self, number: int) -> Path:
        return self.run.individuals / str(number)

    def keep(self, number: int, graph: Graph, ordinal: int, records: Sequence[Record]) -> str:
        """Store the session's network durably; returns the digest of its graph's blob.

        `ordinal`: rewrites and recalls so far; `records`: the journal. RunError for a number that is taken.
        """
        if any(record["kind"] == "kept" and record["individual"] == number for record in records):
            raise RunError(f"the policy keeps individual {number} twice; number each anew, on over the whole run")
        digest = self.run.put_blob(graph.to_json())
        self.session.export(self._folder(number), 0, {"graph": digest, "ordinal": ordinal})
        return digest

    def recall(self, number: int, ordinal: int, records: Sequence[Record]) -> Graph:
        """Make an individual the session's network, under the plan of the present phase; returns its graph.

        `ordinal`: rewrites and recalls so far, this one included. RunError where the policy never kept it or dropped
        it, CheckpointError where its files are missing or damaged.
        """
        if number not in stored(records):
            known = ", ".join(map(str, sorted(stored(records)))) or "none"
            raise RunError(f"the policy recalls individual {number}, which is not stored; stored are {known}")
        graph: list[Graph] = []

        def restore(meta: Mapping[str, Any]) -> Graph:
            graph.append(Graph.from_json(self.run.get_blob(meta["graph"])))
            return graph[0]

        if self.session.load(self._folder(number), restore, ordinal) is None:
            raise CheckpointError(f"{self._folder(number)}: missing; restore it from a copy, or start the run again")
        return graph[0]

    def sweep(self, records: Sequence[Record], over: bool = False) -> None:
        """Remove the files of individuals that nothing can ask for any more; call it once a checkpoint is asked for.

        A resume goes back to one of the checkpoints that lie in the directory, so what was dropped after the oldest of
        them stays, unless the run is `over`.
        """
        if not self.run.individuals.is_dir():
            return
        oldest = min(self.run.checkpoint_steps(), default=0)
        kept = {record["individual"] for record in records if record["kind"] == "kept"}
        gone = {r["individual"] for r in records if r["kind"] == "dropped" and (over or r["n"] < oldest)}
        for folder in self.run.individuals.iterdir():
            number = int(folder.name) if folder.name.isdecimal() else None
            if number in gone or number not in kept:  # or of a future that a resume made void
                shutil.rmtree(folder, ignore_errors=True)


def stored(records: Sequence[Record]) -> set[int]:
    """Numbers of the individuals that were kept and not dropped."""
    found: set[int] = set()
    for record in records:
        if record["kind"] == "kept":
            found.add(record["individual"])
        elif record["kind"] == "dropped":
            found.discard(record["individual"])
    return found
