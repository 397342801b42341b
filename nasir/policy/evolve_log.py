"""What the records of a phase say about its evolution: who was kept, who lives, and what is being made now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Self

from nasir.policy.base import History, Record
from nasir.policy.evolve_options import EvolveOptions
from nasir.policy.evolve_rank import Individual, best_of, ranked
from nasir.policy.phase_log import PhaseLog, current_phase

Members = tuple[Individual, ...]


@dataclass(slots=True)
class EvolutionLog:
    """The current phase, folded. The network in training is the next individual, from `parent` (None: the start)."""

    options: EvolveOptions
    phase: PhaseLog
    last: int = 0  # number of the newest individual of the run; numbers begin at 1
    kept: list[Individual] = field(default_factory=list)  # in the phase, in order of birth
    stored: set[int] = field(default_factory=set)  # kept and not dropped
    making: bool = True  # the next individual is there, trained or not; else the last one was kept just now
    parent: int | None = None
    trained: int = 0  # epochs of the next individual
    attempts: int = 0  # rewrites decided on for it
    mutations: int = 0  # those that were adopted
    declined: set[tuple[str, str]] = field(default_factory=set)  # (rule, site) of it

    @classmethod
    def of(cls, history: History, options: EvolveOptions) -> Self:
        """Fold a history; linear in its length."""
        numbers = [record["individual"] for record in history if record["kind"] == "kept"]
        log = cls(options, PhaseLog.of(history))
        rule = ""
        for record in current_phase(history):
            rule = log._add(record, rule)
        log.last = max(numbers, default=0)
        return log

    def _add(self, record: Record, rule: str) -> str:
        """Fold one record; returns the rule of the last rewrite that was decided on."""
        kind = record["kind"]
        if kind == "epoch":
            self.trained += 1
        elif kind == "kept":
            values = tuple(goal.value(record) for goal in self.options.goals)
            self.kept.append(Individual(record["individual"], values))
            self.stored.add(record["individual"])
            self.making = False
        elif kind == "recalled":
            self.making, self.parent = True, record["individual"]
            self.trained = self.attempts = self.mutations = 0
            self.declined = set()
        elif kind == "dropped":
            self.stored.discard(record["individual"])
        elif kind == "decision" and record["action"] == "rewrite":
            self.attempts += 1
            return str(record["rule"])
        elif kind == "rewrite":
            self.mutations += 1
        elif kind == "declined":
            self.declined.add((rule, record["site"]))
        return rule

    @property
    def next(self) -> int:
        """The number of the next individual."""
        return self.last + 1

    @property
    def generations(self) -> int:
        """Complete ones, after the population was full."""
        return max(0, len(self.kept) - self.options.population) // self.options.offspring

    @property
    def siblings(self) -> Members:
        """Those kept so far of the generation that is being made."""
        size = self.options.population
        done = size + self.generations * self.options.offspring
        return tuple(self.kept[done:]) if len(self.kept) > size else ()

    @property
    def founding(self) -> bool:
        """Whether the population is not full yet."""
        return len(self.kept) < self.options.population

    def population(self) -> Members:
        """Those that live, after the generations that are complete; the siblings being made are not among them."""
        size, offspring = self.options.population, self.options.offspring
        if self.options.replace == "oldest":
            return tuple(one for one in self.kept[: size + self.generations * offspring] if one.sound)[-size:]
        members = tuple(one for one in self.kept[:size] if one.sound)
        for generation in range(self.generations):
            first = size + generation * offspring
            members = survivors(members, tuple(self.kept[first : first + offspring]), self.options.replace, size)
        return members

    def best(self, population: Members) -> list[Individual]:
        """What the phase would end with now: the best one first, with several objectives the whole front."""
        candidates = population if self.options.result == "population" else [one for one in self.kept if one.sound]
        return best_of(candidates)


@lru_cache(maxsize=4096)  # asked again for the same generations at every decision of a run
def survivors(members: Members, children: Members, replace: str, size: int) -> Members:
    """The population after a generation of which the worst or all parents leave, in order of birth; children whose
    training diverged do not join it."""
    sound = tuple(one for one in children if one.sound)
    if replace == "parents":
        return in_order(ranked(sound)[:size]) or members
    return in_order(ranked((*members, *sound))[:size])


def in_order(members: Sequence[Individual]) -> Members:
    """By birth."""
    return tuple(sorted(members, key=lambda one: one.number))
