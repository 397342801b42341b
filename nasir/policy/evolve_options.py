"""The options of `policy: evolve`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Len, MinLen

from nasir.options import Checked, Remedy
from nasir.options.ranges import Count, Whole
from nasir.policy.evolve_rank import Objective

Tournament: TypeAlias = Annotated[Mapping[Literal["tournament"], Count], Len(1, 1), Remedy("write {tournament: 5}")]
Goal: TypeAlias = str | Annotated[Mapping[Literal["maximize", "minimize"], str], Len(1, 1)]
"""A metric whose direction is known, or one with its direction."""


@dataclass(frozen=True)
class EvolveOptions(Checked):
    """Options of the policy `evolve`; numbers are whole and at least 1 unless it is said otherwise.

    population   networks that live at a time
    offspring    children of a generation, all of parents of the generation before
    generations  after the population is full; None: until the phase ends by `epochs`, `until` or `budget`
    epochs       that each child is trained for
    initial      epochs that the start network is trained for; None: as `epochs`; 0: not at all, it is measured by the
                 last epoch of the phase before
    mutations    rewrites of each child
    attempts     most rewrites that are tried for a child, those that are declined included
    select       the parent of a child: the best, or the best of k drawn with replacement, {"tournament": k}
    replace      who leaves for the children: the oldest, the worst (children included), or all parents
    keep_parent  the first child of a generation is its parent as it is, trained on
    objectives   what to make large or small; several are compared by non-dominated sorting and crowding
    result       what the phase ends with: the best of its history or of the last population
    """

    population: Count = 10
    offspring: Count = 1
    generations: Count | None = None
    epochs: Count = 1
    initial: Whole | None = None
    mutations: Count = 1
    attempts: Count = 20
    select: Literal["best"] | Tournament = "best"
    replace: Literal["oldest", "worst", "parents"] = "oldest"
    keep_parent: bool = False
    objectives: Annotated[tuple[Goal, ...], MinLen(1), Remedy("write [val.accuracy]")] = ("val.accuracy",)
    result: Literal["history", "population"] = "history"

    def __post_init__(self) -> None:
        if self.attempts < self.mutations:
            raise ValueError(
                f"attempts: {self.attempts} are too few for {self.mutations} mutations; give at least them"
            )
        if self.replace == "parents" and self.offspring < self.population:
            raise ValueError(
                f"offspring: {self.offspring} children cannot replace all {self.population} parents; give at least as "
                "many, or `replace: oldest`"
            )
        metrics = [goal.metric for goal in self.goals]
        if len(set(metrics)) != len(metrics):
            raise ValueError(f"objectives: {', '.join(metrics)}: one of them is named twice; name each once")

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        """By the name of the policy."""
        return "policy evolve"

    @property
    def goals(self) -> tuple[Objective, ...]:
        """The objectives, parsed."""
        return tuple(Objective.parse(value) for value in self.objectives)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What the policy reads of an epoch or a cost."""
        return tuple(goal.metric for goal in self.goals)

    @property
    def sample(self) -> int | None:
        """How many are drawn of whom the best becomes a parent; None: the best of all does."""
        return self.select["tournament"] if isinstance(self.select, Mapping) else None

    @property
    def start_epochs(self) -> int:
        """Epochs that the start network is trained for."""
        return self.epochs if self.initial is None else self.initial
