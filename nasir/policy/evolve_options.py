"""The options of `policy: evolve`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from nasir.policy.evolve_rank import Objective


@dataclass(frozen=True)
class EvolveOptions:
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

    population: int = 10
    offspring: int = 1
    generations: int | None = None
    epochs: int = 1
    initial: int | None = None
    mutations: int = 1
    attempts: int = 20
    select: Literal["best"] | Mapping[str, int] = "best"
    replace: Literal["oldest", "worst", "parents"] = "oldest"
    keep_parent: bool = False
    objectives: tuple[str | Mapping[str, str], ...] = ("val.accuracy",)
    result: Literal["history", "population"] = "history"

    def __post_init__(self) -> None:
        for name in ("population", "offspring", "generations", "epochs", "mutations", "attempts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.initial is not None and self.initial < 0:
            raise ValueError(f"initial is {self.initial}; it must be at least 0")
        if self.attempts < self.mutations:
            raise ValueError(
                f"attempts: {self.attempts} are too few for {self.mutations} mutations; give at least them"
            )
        if self.select != "best":
            size = self.select.get("tournament") if isinstance(self.select, Mapping) and len(self.select) == 1 else None
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ValueError(
                    f"select: {self.select!r} is no way to choose a parent; write `best` or `{{tournament: 5}}`"
                )
        if self.replace == "parents" and self.offspring < self.population:
            raise ValueError(
                f"offspring: {self.offspring} children cannot replace all {self.population} parents; give at least as "
                "many, or `replace: oldest`"
            )
        if not self.objectives:
            raise ValueError("objectives: there is none; write [val.accuracy]")
        metrics = [one.metric for one in self.goals]
        if len(set(metrics)) != len(metrics):
            raise ValueError(f"objectives: {', '.join(metrics)}: one of them is named twice; name each once")

    @property
    def goals(self) -> tuple[Objective, ...]:
        """The objectives, parsed."""
        return tuple(Objective.parse(value) for value in self.objectives)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What the policy reads of an epoch or a cost."""
        return tuple(one.metric for one in self.goals)

    @property
    def sample(self) -> int | None:
        """How many are drawn of whom the best becomes a parent; None: the best of all does."""
        return self.select["tournament"] if isinstance(self.select, Mapping) else None

    @property
    def start_epochs(self) -> int:
        """Epochs that the start network is trained for."""
        return self.epochs if self.initial is None else self.initial
