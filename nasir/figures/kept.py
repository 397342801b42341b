"""The checkpoints that a run kept, each with its network and the numbers of its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nasir.errors import UsageError
from nasir.ir import Graph
from nasir.journal.directory import RunDirectory
from nasir.journal.log import effective, lineage
from nasir.records import CheckpointRecord, EpochRecord, RewriteRecord, StartRecord
from nasir.training.backend import Backend
from nasir.transfer import Coordinates, Key, TransferPlan

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint of a run. `epoch`: epochs done; `numbers`: those of its learned weights among all of the run.

    `rewrites`: those between the checkpoint before it and this one.
    """

    epoch: int
    phase: str
    path: Path
    graph: Graph
    numbers: Coordinates
    rewrites: tuple[RewriteRecord, ...] = ()

    def name(self, key: Key) -> str:
        """How checkpoints call a weight."""
        return f"{self.graph.nodes[key.node].label}.{key.slot}"

    def names(self) -> dict[str, Key]:
        """Every learned weight by that."""
        return {self.name(key): key for key in self.numbers.of}

    def read(self, backend: Backend, average: bool) -> Arrays:
        """Its weights, or their moving average, by LABEL.SLOT."""
        return backend.stored_weights(self.path, average).weights


def kept_checkpoints(run: RunDirectory) -> tuple[Kept, ...]:
    """Those of the network's own past, in order of training; networks that a policy went away from have none here.

    Raises JournalError where a network or a plan is missing.
    """
    return tuple(_kept(run))


def _kept(run: RunDirectory) -> Iterator[Kept]:
    present = set(run.checkpoint_steps())
    graph: Graph | None = None
    numbers = Coordinates({}, 0)
    phase = ""
    rewrites: list[RewriteRecord] = []
    contents = run.contents().sound()
    for record in lineage(effective(contents.records)):
        match record:
            case StartRecord():
                graph = Graph.from_json(run.get_blob(record.graph))
                numbers = Coordinates.first(graph)
            case RewriteRecord():
                graph = Graph.from_json(run.get_blob(record.graph))
                numbers = numbers.after(TransferPlan.from_json(run.get_blob(record.plan)), graph)
                rewrites.append(record)
            case EpochRecord():
                phase = record.phase
            case CheckpointRecord() if record.step in present and graph is not None:
                path = run.checkpoint(record.step)
                run.check_checkpoint(record.step, contents)
                yield Kept(record.epoch, phase, path, graph, numbers, tuple(rewrites))
                rewrites.clear()


def checkpoint_after(run: RunDirectory, epoch: int | None) -> Kept:
    """The last checkpoint after `epoch` epochs, the newest for None; UsageError names those that there are."""
    checkpoints = kept_checkpoints(run)
    if not checkpoints:
        raise UsageError(f"{run.path}: the run has no checkpoint yet; wait for its first one")
    chosen = [checkpoint for checkpoint in checkpoints if epoch is None or checkpoint.epoch == epoch]
    if not chosen:
        known = ", ".join(str(checkpoint.epoch) for checkpoint in checkpoints[-12:])
        raise UsageError(
            f"{run.path}: no checkpoint after epoch {epoch} was kept; there are some after epochs {known}; "
            "for more, train with `checkpoint: {every: 1, keep: 1000}`"
        )
    return chosen[-1]
