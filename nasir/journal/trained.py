"""The network that a run has come to, for what starts from it or learns from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nasir.ir import Graph
from nasir.journal.directory import RunDirectory
from nasir.journal.log import effective
from nasir.records import CheckpointRecord, NetworkRecord, Record
from nasir.training.manifest import MANIFEST, manifest_digest, read_manifest


@dataclass(frozen=True, slots=True)
class Trained:
    """The graph of a run's newest checkpoint, the folder of that, and the SHA-256 of its manifest."""

    graph: Graph
    checkpoint: Path
    manifest: str


def trained_network(run: RunDirectory) -> Trained | None:
    """The newest checkpoint that is there, None where there is none; CheckpointError where it is of another journal."""
    contents = run.contents().sound()
    checkpoint = of_newest = digest = None
    for record in effective(contents.records):
        if isinstance(record, NetworkRecord):
            of_newest = record.graph
        elif isinstance(record, CheckpointRecord) and (run.path / record.path / MANIFEST).is_file():
            checkpoint, digest = run.path / record.path, of_newest
    if checkpoint is None or digest is None:
        return None
    contents.chain.check(read_manifest(checkpoint)["meta"], checkpoint)
    return Trained(Graph.from_json(run.get_blob(digest)), checkpoint, manifest_digest(checkpoint))


def newest_network(records: Iterable[Record]) -> str | None:
    """The blob of the network that a run has come to; None where it tells of none."""
    return next((r.graph for r in reversed(tuple(records)) if isinstance(r, NetworkRecord)), None)
