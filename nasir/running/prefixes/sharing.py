"""One run and the store of prefixes: the state it begins with, and those it leaves for other runs."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Self

from nasir.counted import counted
from nasir.errors import CheckpointError, NasirError
from nasir.growing import GrowingSequence, fold
from nasir.ir import Graph
from nasir.journal.directory import share_file
from nasir.records import EpochRecord, NetworkRecord, PrefixRecord, Record, RewriteRecord, StartRecord, TrialRecord
from nasir.running.engine import Engine
from nasir.running.population import stored
from nasir.running.prefixes.identity import environments, static_digest
from nasir.running.prefixes.match import Matcher
from nasir.running.prefixes.store import PrefixStore, State, sha256_of
from nasir.running.prefixes.walk import APART, Walk


class Sharing:
    """Looks for a prefix of a run that begins, and stores states of it while it trains.

    A state is stored after an epoch and before its decisions: wherever the policy is about to decide something, at the
    last epoch of a phase, and every `every` epochs; not where storing it costs too much of the time since the one
    before. Whatever is wrong with the store, the run goes on without it, and `notice` hears of it.
    """

    def __init__(
        self,
        store: PrefixStore,
        engine: Engine,
        base: Path,
        env: Mapping[str, Any],
        notice: Callable[[str], None],
        every: int | None = None,
    ) -> None:
        self.store = store
        self.engine = engine
        self.notice = notice
        self.every = every
        self.static = ""
        self.walk: Walk | None = None  # None: nothing is shared (any more)
        self._cost = 0.0  # seconds that the last state took to store
        self._saved = 0  # epochs of the newest state of this run that is in the store
        try:
            self.store.clean()
            records = engine.journal.records()
            start, known = records[0], environments(env.get("environment"), records)
            environment = known.pop()
            assert isinstance(start, StartRecord)
            if known or environment is None:
                self._stop("this run was elsewhere, or without a store, before, so nothing of it is shared")
                return
            self.static = static_digest(engine.spec, start, self._graph(start.graph), base, environment, env["plugins"])
            self.walk = Walk(engine.spec, self.static, start, self._graph)
            engine.hear_before_decisions(self._before_decisions)
        except Exception as error:  # plugins take part in it
            self._stop(f"this run has no prefix in common with others: {error}")

    # -- taking over

    def begin(self, renew: Callable[[], None]) -> int:
        """Begin a fresh run with the deepest state it would reach by itself; the number of epochs taken over.

        `renew` makes the network of the session anew, after states that proved unusable.
        """
        touched = False
        for walk, state in Matcher(self.walk, self._unusable).matches(self._states()) if self.walk else ():
            touched = True
            try:
                meta, graph = self._load(state)
            except (NasirError, OSError, ValueError, KeyError) as error:
                self._unusable(state, error)
                continue
            self._take_over(walk, state, meta, graph)
            return state.epochs
        if touched:
            renew()
        return 0

    def _states(self) -> list[State]:
        try:
            return self.store.states(self.static)
        except OSError as error:
            self._stop(f"the stored prefixes cannot be read: {error}")
            return []

    def _unusable(self, state: State, error: Exception) -> None:
        if state.path.exists():  # else it was evicted meanwhile
            self.notice(f"a stored prefix of {counted(state.epochs, 'epoch')} was damaged and is removed: {error}")
            self.store.drop(state)

    def _load(self, state: State) -> tuple[Mapping[str, Any], Graph]:
        """Put the session into the state, and give the run what its records name; its facts and its network."""
        source, blobs = state.directory, self.engine.run.blobs
        shutil.rmtree(self.engine.run.individuals, ignore_errors=True)  # those of an abandoned beginning
        for name in state.blob_names:
            digest, _, suffix = name.partition(".")
            (source.get_blob if suffix == "json" else source.get_array)(digest)  # verified
            share_file(source.blobs / name, blobs / name)
        for name, expected in state.individuals.items():
            file, target = source.individuals / name, self.engine.run.individuals / name
            if sha256_of(file) != expected:
                raise CheckpointError(f"{file}: its sha256 differs from that in the header; it is damaged")
            target.parent.mkdir(parents=True, exist_ok=True)
            share_file(file, target)
        saved = self.engine.session.newest(state.path)
        if saved is None:
            raise CheckpointError(f"{state.path}: its checkpoint is missing")
        if saved.meta["key"] != state.key:
            raise CheckpointError(f"{state.path}: its checkpoint belongs to another state")
        graph = Graph.from_json(source.get_blob(saved.meta["graph"]))
        self.engine.session.load(saved, graph)
        return saved.meta, graph

    def _take_over(self, walk: Walk, state: State, meta: Mapping[str, Any], graph: Graph) -> None:
        self.store.used(state)
        engine = self.engine
        for record in walk.history[1:]:
            engine.write(record)
        engine.write(PrefixRecord(epochs=state.epochs, run=state.run, digest=state.key))
        engine.state.go_back({**meta, "decided": False}, graph)  # as all stored states, also those that do not say it
        engine.save(state.epochs)
        walk.graphs = self._graph
        self.walk, self._saved = walk, state.epochs

    # -- leaving states

    def _before_decisions(self, epoch: int) -> None:
        try:
            self._leave(epoch)
        except Exception as error:  # disks and plugins fail in many ways, none of which may end a run
            self._stop(f"no further states of this run are stored for others: {error}")

    def _leave(self, epoch: int) -> None:
        walk, engine = self.walk, self.engine
        if walk is None:
            return
        records = fold(engine.journal.effective(), _Telling()).records
        if not walk.follow(records[len(walk.history) - 1 :]):
            self._stop("the policy decides otherwise when it is asked again, so nothing of this run is shared")
            return
        last = records[-1]
        assert isinstance(last, EpochRecord)
        ends = walk.plans[walk.phase].epochs == last.phase_epoch
        if not (walk.pending() or ends or (self.every and epoch % self.every == 0)):
            return
        epochs = (record for record in reversed(records) if isinstance(record, EpochRecord))
        since = sum(record.seconds for record in takewhile(lambda record: record.epoch > self._saved, epochs))
        if self.store.holds(self.static, walk.chain):
            self._saved = epoch
        elif self._cost <= self.store.share * since:
            self._put(walk, epoch)

    def _put(self, walk: Walk, epoch: int) -> None:
        started, engine = time.monotonic(), self.engine
        graph = engine.run.put_blob(engine.state.graph.to_json())
        meta = {"epoch": epoch, "key": walk.chain[-1], **engine.state.to_meta(graph)}
        done = self.store.put(
            self.static,
            walk.chain,
            _cpu_seconds(walk.history),
            walk.history[1:],
            self._name(),
            engine.run.blobs,
            lambda folder: engine.session.export(folder, epoch, meta),
            [engine.run.individuals / str(number) for number in sorted(stored(walk.history))],
        )
        self._cost = time.monotonic() - started
        if done:
            self._saved = epoch

    def _name(self) -> str:
        """The run, as seen from the folder that the store lies in."""
        return os.path.relpath(self.engine.run.path.resolve(), self.store.folder.resolve().parent)

    def _graph(self, digest: str) -> Graph:
        """A network of this run; the one it has now is at hand."""
        records = self.engine.journal.effective()
        newest = next(record.graph for record in reversed(records) if isinstance(record, NetworkRecord))
        return self.engine.state.graph if digest == newest else Graph.from_json(self.engine.run.get_blob(digest))

    def _stop(self, text: str) -> None:
        self.walk = None
        self.notice(text)


@dataclass(frozen=True, slots=True)
class _Telling:
    """The records that say something about the state of a run."""

    records: GrowingSequence[Record] = field(default_factory=GrowingSequence)

    def after(self, record: Record) -> Self:
        return self if isinstance(record, APART) else replace(self, records=self.records.grown(record))


def _cpu_seconds(records: Sequence[Record]) -> list[float]:
    """CPU-seconds of training up to each epoch, rewrites and trials included."""
    spent, totals = 0.0, []
    for record in records:
        if isinstance(record, EpochRecord):
            spent += record.cpu_seconds or record.seconds
        elif isinstance(record, RewriteRecord | TrialRecord):
            spent += record.seconds or 0.0
        if isinstance(record, EpochRecord):
            totals.append(round(spent, 3))
    return totals
