"""Whether a run would have written the records of another one: its own policy, asked at every moment of their history.

Policies and passes are functions of the spec, the seed and the records so far; training is a function of the network,
the plan of the phase and the seed. So a run that agrees on everything static (`identity.static_digest`), on the
training of each phase begun, and on every decision, terms included, is in the same state, bit for bit.

A chain of digests says so: the digest of epoch e covers the static inputs, the training of all phases begun, and all
records and terms of decisions up to the record of that epoch, but none of the decisions after it. Times are left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from nasir.files import canonical_json
from nasir.growing import GrowingSequence
from nasir.ir import Graph
from nasir.policy import Decision, EndPhase, PhasePlan, PhaseProgress, decisions_of
from nasir.records import (
    CheckpointRecord,
    CompilationRecord,
    DecisionRecord,
    EndRecord,
    EpochRecord,
    NetworkRecord,
    PhaseRecord,
    PrefixRecord,
    Record,
    ResumeRecord,
    StartRecord,
)
from nasir.running.decisions import view
from nasir.running.prefixes.identity import has_foreign_code, length_matters, plain, training_digest
from nasir.spec import Spec, make_policy

# what says nothing about the state
APART = StartRecord | CompilationRecord | CheckpointRecord | ResumeRecord | PrefixRecord | EndRecord
CIRCUMSTANCES = frozenset({"n", "time", "seconds", "cpu_seconds", "compiled_graphs", "manifest"})


class Walk:
    """A spec's way through a history. `history`: the records it agrees on, the run's own start first, as it would have
    written them; `chain`: the digest after each epoch; `graphs`: gives a network by the digest of its blob.
    """

    def __init__(self, spec: Spec, static: str, start: StartRecord, graphs: Callable[[str], Graph]) -> None:
        self.spec = spec
        self.plans: tuple[PhasePlan, ...] = tuple(phase.plan() for phase in spec.phases)
        self.graphs = graphs
        self.history: GrowingSequence[Record] = GrowingSequence([start])
        self.chain: list[str] = []
        self.phase = -1  # index of the one that has begun
        self._static = self._tip = static  # `_tip`: digest of everything so far
        self._graph = start.graph
        self._trainings = tuple(phase.training(spec) for phase in spec.phases)
        self._foreign = has_foreign_code(spec)
        self._marks = [(1, self._graph, -1)]  # after so many epochs: number of records, graph, phase
        self._batch: list[Decision] = []  # decided, not seen in the history yet
        self._open = False  # the policy may have more to say at this moment

    def at(self, epochs: int) -> Walk:
        """The walk as it was after the record of that epoch, or at the start of the run."""
        other = object.__new__(Walk)
        other.__dict__.update(self.__dict__)
        count, other._graph, other.phase = self._marks[epochs]
        other.history, other.chain = self.history.upto(count), self.chain[:epochs]
        other._marks = self._marks[: epochs + 1]
        other._tip = self.chain[epochs - 1] if epochs else self._static
        other._batch, other._open = [], bool(epochs)
        return other

    def follow(self, records: Iterable[Record]) -> bool:
        """Follow while the run would have written the same; False at the first record that it would not have."""
        return all(isinstance(record, APART) or self._step(record) for record in records)

    def pending(self) -> list[Decision]:
        """What is decided at this moment and not yet in the history; empty when nothing (more) is."""
        if not self._batch and self._open:
            plan = self.plans[self.phase]
            seen = view(self.graphs(self._graph), (plan,))
            self._batch = list(decisions_of(make_policy(plan, self.spec.seed), plan, self.history, seen))
            self._open = bool(self._batch)
        return self._batch

    def _step(self, record: Record) -> bool:
        if isinstance(record, PhaseRecord | EpochRecord):
            return self._goes_on(record)
        if isinstance(record, DecisionRecord):
            return self._decided(record)
        if isinstance(record, NetworkRecord):
            self._graph = record.graph
        self._add(record, _stable(record))
        return True

    def _goes_on(self, record: PhaseRecord | EpochRecord) -> bool:
        """Whether the next thing is to begin that phase, or to train that epoch."""
        if self.pending():
            return False
        progress = PhaseProgress.of(self.history, self.plans)
        index, begins = progress.phase_index, isinstance(record, PhaseRecord)
        if index is None or progress.begun is begins or record.phase != self.plans[index].name:
            return False
        facts = _stable(record)
        if isinstance(record, PhaseRecord):
            training, epochs = self._trainings[index], self.plans[index].epochs
            facts["training"] = training_digest(training)
            if self._foreign or length_matters(training):
                if record.epochs != epochs:
                    return False
            else:
                facts["epochs"], record = None, replace(record, epochs=epochs)
            self.phase = index
        self._open = True
        self._add(record, facts)
        if not begins:
            self.chain.append(self._tip)
            self._marks.append((len(self.history), self._graph, self.phase))
        return True

    def _decided(self, record: DecisionRecord) -> bool:
        """Whether the policy decides that next; the terms that its record leaves out go into the digest."""
        if not self.pending():
            return False
        decision = self._batch.pop(0)
        expected = json.loads(canonical_json(plain(decision.to_record())))
        told = record.to_json()
        if any(key not in told or told[key] != value for key, value in expected.items()):
            return False
        if isinstance(decision, EndPhase):
            self._batch, self._open = [], False
        self._add(record, {**_stable(record), "terms": plain(decision)})
        return True

    def _add(self, record: Record, facts: Mapping[str, Any]) -> None:
        self.history = self.history.grown(record)
        line = json.dumps(facts, sort_keys=True, separators=(",", ":"))  # a diverged loss is NaN
        self._tip = hashlib.sha256(f"{self._tip}{line}".encode()).hexdigest()


def _stable(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record.to_json().items() if key not in CIRCUMSTANCES}
