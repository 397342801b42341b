"""Which stored states a run would reach by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from nasir.errors import CheckpointError, NasirError
from nasir.ir import Graph
from nasir.records import EpochRecord, Record
from nasir.running.prefixes.store import State
from nasir.running.prefixes.walk import Walk


@dataclass(slots=True)
class Matcher:
    """Compares states with the way of one run. A part of a history that several states share is walked once.

    `unusable` hears of a state whose files are damaged or gone.
    """

    trunk: Walk  # the longest way agreed on so far; at first, the start of the run
    unusable: Callable[[State, Exception], None]
    _strayed: set[str] = field(default_factory=set)  # digests that the run does not reach
    _graphs: dict[str, Graph] = field(default_factory=dict)

    def matches(self, states: list[State]) -> Iterator[tuple[Walk, State]]:
        """Those of `states` that the run reaches, in their order, each with the walk that ends there."""
        for state in states:
            if not self._strayed.isdisjoint(state.chain):
                continue
            try:
                walk = self._along(state)
            except CheckpointError as error:
                self.unusable(state, error)
                continue
            if len(walk.chain) == state.epochs:
                yield walk, state
            else:
                self._strayed.add(state.chain[len(walk.chain)])
            if len(walk.chain) > len(self.trunk.chain):
                self.trunk = walk

    def _along(self, state: State) -> Walk:
        """The way of the run as far as it is that of the state; goes on from what is known of it."""
        pairs = zip(self.trunk.chain, state.chain, strict=False)
        done = next((i for i, (own, stored) in enumerate(pairs) if own != stored), None)
        walk = self.trunk.at(min(len(self.trunk.chain), state.epochs) if done is None else done)
        walk.graphs = lambda digest: self._graph(state, digest)
        records = state.records()
        ends = [0, *(i + 1 for i, record in enumerate(records) if isinstance(record, EpochRecord))]
        while len(walk.chain) < state.epochs:
            done = len(walk.chain)
            if not self._agrees(walk, records[ends[done] : ends[done + 1]]) or walk.chain[-1] != state.chain[done]:
                return walk.at(done)
        return walk

    def _agrees(self, walk: Walk, records: list[Record]) -> bool:
        try:
            return walk.follow(records)
        except CheckpointError:
            raise
        except Exception:  # policies, including those of plugins, may refuse a history that is not theirs
            return False

    def _graph(self, state: State, digest: str) -> Graph:
        if digest not in self._graphs:
            try:
                self._graphs[digest] = Graph.from_json(state.directory.get_blob(digest))
            except NasirError as error:
                raise CheckpointError(str(error)) from error
        return self._graphs[digest]
