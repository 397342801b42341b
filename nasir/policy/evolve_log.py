"""What the records of a phase say about its evolution: who was kept, who lives, and what is being made now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from nasir.growing import fold
from nasir.policy.base import History
from nasir.policy.evolve_options import EvolveOptions
from nasir.policy.evolve_rank import Individual, best_of, ranked, with_one
from nasir.records import (
    DecisionRecord,
    DeclinedRecord,
    DroppedRecord,
    EpochRecord,
    KeptRecord,
    PhaseRecord,
    RecalledRecord,
    Record,
    RewriteRecord,
    typed,
)

Members = tuple[Individual, ...]


@dataclass(frozen=True, slots=True)
class Child:
    """The network in training, which is the next individual; of the start network `parent` is None."""

    parent: int | None = None
    trained: int = 0  # epochs
    attempts: int = 0  # rewrites decided on for it
    mutations: int = 0  # those that were adopted
    declined: frozenset[tuple[str, str]] = frozenset()  # (rule, site)
    rule: str = ""  # of the last rewrite decided on

    def after(self, record: Record) -> Self:
        """What one record more makes of it."""
        match record:
            case EpochRecord():
                return replace(self, trained=self.trained + 1)
            case DecisionRecord(action="rewrite"):
                return replace(self, attempts=self.attempts + 1, rule=record.rule)
            case RewriteRecord():
                return replace(self, mutations=self.mutations + 1)
            case DeclinedRecord():
                return replace(self, declined=self.declined | {(self.rule, record.site)})
        return self


@dataclass(frozen=True, slots=True)
class EvolutionLog:
    """The current phase, folded."""

    options: EvolveOptions = field(hash=False)
    last: int = 0  # number of the newest individual of the run; numbers begin at 1
    founder: Individual | None = None  # the first that was kept in the phase
    count: int = 0  # individuals kept in the phase
    population: Members = ()  # those that live, after the generations that are complete
    siblings: Members = ()  # those kept so far of the generation that is being made
    ever: Members = ()  # the best of all that were kept; with several objectives the first front, best first
    stored: Mapping[int, Individual] = field(default_factory=dict, hash=False)  # kept and not dropped, by number
    child: Child | None = Child()  # None: the last individual was kept just now

    @classmethod
    def of(cls, history: History, options: EvolveOptions) -> Self:
        """Fold a history."""
        return fold(typed(history), cls(options))

    def after(self, record: Record) -> Self:
        """The log with one record more."""
        match record:
            case PhaseRecord():
                return type(self)(self.options, self.last)
            case KeptRecord():
                return self._kept(Individual.of(record, self.options.goals))
            case RecalledRecord():
                return replace(self, child=Child(record.individual))
            case DroppedRecord(individual=gone):
                return replace(
                    self, stored={number: member for number, member in self.stored.items() if number != gone}
                )
        child = self.child and self.child.after(record)
        return self if child is self.child else replace(self, child=child)

    def _kept(self, individual: Individual) -> Self:
        log = replace(
            self,
            last=max(self.last, individual.number),
            founder=self.founder or individual,
            count=self.count + 1,
            ever=with_one(self.ever, individual) if individual.sound else self.ever,
            stored={**self.stored, individual.number: individual},
            child=None,
        )
        if self.founding:
            return replace(log, population=(*self.population, *sound([individual])))
        siblings = (*self.siblings, individual)
        if len(siblings) < self.options.offspring:
            return replace(log, siblings=siblings)
        return replace(log, siblings=(), population=survivors(self.population, siblings, self.options))

    @property
    def next(self) -> int:
        """The number of the next individual."""
        return self.last + 1

    @property
    def generations(self) -> int:
        """Complete ones, after the population was full."""
        return max(0, self.count - self.options.population) // self.options.offspring

    @property
    def founding(self) -> bool:
        """Whether the population is not full yet."""
        return self.count < self.options.population

    def best(self) -> Sequence[Individual]:
        """What the phase would end with now: the best one first, with several objectives the whole front."""
        return best_of(self.population) if self.options.result == "population" else self.ever


def survivors(members: Members, children: Members, options: EvolveOptions) -> Members:
    """The population after a generation, in order of birth; children whose training diverged do not join it."""
    size = options.population
    if options.replace == "oldest":
        return (*members, *sound(children))[-size:]
    if options.replace == "parents":
        return in_order(ranked(sound(children))[:size]) or members
    return in_order(ranked((*members, *sound(children)))[:size])


def sound(individuals: Sequence[Individual]) -> Members:
    """Those whose training did not diverge."""
    return tuple(individual for individual in individuals if individual.sound)


def in_order(members: Sequence[Individual]) -> Members:
    """By birth."""
    return tuple(sorted(members, key=lambda member: member.number))
