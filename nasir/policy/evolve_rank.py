"""Which of several individuals is better: by one objective, or by non-dominated sorting and crowding (NSGA-II)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nasir.records import KeptRecord

METRICS = ("train.loss", "train.accuracy", "val.loss", "val.accuracy", "params", "macs")
COSTS = ("params", "macs")
"""Objectives that a `kept` record holds beside its metrics: whole numbers, less is better."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A number to make large (`sign` 1) or small (-1)."""

    metric: str
    sign: int

    @classmethod
    def parse(cls, value: str | Mapping[Literal["maximize", "minimize"], str]) -> Objective:
        """`val.accuracy`, whose direction is known, or {"maximize": NAME} or {"minimize": NAME}; else ValueError."""
        if isinstance(value, str):
            name, direction = value, "minimize" if value in COSTS or value.endswith("loss") else "maximize"
        elif isinstance(value, Mapping) and len(value) == 1:
            [(direction, name)] = value.items()
        else:
            raise ValueError(f"objectives: {value!r} is none; write `val.accuracy` or `{{minimize: macs}}`")
        if name not in METRICS:
            raise ValueError(f"objectives: unknown metric {name!r}; known: {', '.join(METRICS)}")
        if direction not in ("maximize", "minimize"):
            raise ValueError(f"objectives: {direction!r} is no direction; write `maximize` or `minimize`")
        return cls(name, 1 if direction == "maximize" else -1)

    def value(self, record: KeptRecord) -> float:
        """The number in a `kept` record, signed so that more is better; NaN after a divergence."""
        number = getattr(record, self.metric) if self.metric in COSTS else record.metrics[self.metric]
        return self.sign * float(number)

    def show(self, value: float) -> str:
        """ "val.accuracy 0.91", "macs 12,345"; `value` is signed."""
        plain = self.sign * value
        return f"{self.metric} {plain:,.0f}" if self.metric in COSTS else f"{self.metric} {plain:.4g}"


@dataclass(frozen=True, slots=True)
class Individual:
    """A stored network: its number in the run, in order of birth, and the signed values of the objectives."""

    number: int
    values: tuple[float, ...]
    sound: bool = True  # whether its training did not diverge: costs alone do not show that

    @classmethod
    def of(cls, record: KeptRecord, goals: Sequence[Objective]) -> Individual:
        """What a `kept` record says of it; a training that diverged has metrics that are NaN."""
        sound = not any(math.isnan(value) for value in record.metrics.values())
        return cls(record.individual, tuple(goal.value(record) for goal in goals), sound)


def dominates(first: Individual, second: Individual) -> bool:
    """Whether the first is better in an objective and worse in none."""
    pairs = list(zip(first.values, second.values, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def fronts(members: Sequence[Individual]) -> list[list[Individual]]:
    """Non-dominated sorting: the first front is dominated by nobody, the next only by those before it, and so on."""
    by_rank: list[list[Individual]] = []
    rest = list(members)
    while rest:
        front = [member for member in rest if not any(dominates(other, member) for other in rest)]
        by_rank.append(front)
        rest = [member for member in rest if member not in front]
    return by_rank


def crowding(front: Sequence[Individual]) -> dict[int, float]:
    """By number, the distance between the neighbours in each objective, as a share of its span, summed (Deb et al.
    2002, section III-B); infinite at the ends."""
    distance = dict.fromkeys((member.number for member in front), 0.0)
    for axis in range(len(front[0].values)):
        ordered = sorted(front, key=lambda member: (member.values[axis], member.number))
        span = ordered[-1].values[axis] - ordered[0].values[axis]
        distance[ordered[0].number] = distance[ordered[-1].number] = math.inf
        for before, member, after in zip(ordered, ordered[1:], ordered[2:], strict=False):
            distance[member.number] += (after.values[axis] - before.values[axis]) / span if span else 0.0
    return distance


def ranked(members: Sequence[Individual]) -> list[Individual]:
    """Best first. One objective: by its value. Several: by front, then the least crowded. Ties: the older one."""
    if not members or len(members[0].values) == 1:
        return sorted(members, key=lambda member: (-member.values[0], member.number))
    ordered: list[Individual] = []
    for front in fronts(members):
        distance = crowding(front)
        ordered += sorted(front, key=lambda member: (-distance[member.number], member.number))
    return ordered


def with_one(best: Sequence[Individual], individual: Individual) -> tuple[Individual, ...]:
    """What `best_of` gives of some individuals and one more, from what it gives without that one."""
    if len(individual.values) == 1:
        return tuple(ranked([*best, individual])[:1])
    if any(dominates(other, individual) for other in best):
        return tuple(best)
    return tuple(by_first_objective([*(other for other in best if not dominates(individual, other)), individual]))


def best_of(members: Sequence[Individual]) -> list[Individual]:
    """The first front, by the first objective; with one objective, the best one alone."""
    if len(members[0].values) == 1:
        return ranked(members)[:1]
    return by_first_objective(fronts(members)[0])


def by_first_objective(front: Sequence[Individual]) -> list[Individual]:
    """Best first; of equal ones the older."""
    return sorted(front, key=lambda member: (-member.values[0], member.number))
