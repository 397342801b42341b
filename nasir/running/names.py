"""Stages, sites and labels that a spec names, looked for in the network as each phase will find it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from nasir.ir import Graph
from nasir.ir.canon import quoted
from nasir.ir.regions import covers
from nasir.options import Path, close_match
from nasir.policy import EvolvePolicy, Moment, PhasePlan, PhaseView, RulePlan, Where
from nasir.policy.plans import RULES
from nasir.policy.sites import is_known, lies_in, moved
from nasir.registry import policies
from nasir.running.courses import Course, Prospect, Unforeseen, names_of, pass_of
from nasir.running.decisions import view
from nasir.spec import Spec
from nasir.spec.passes import find
from nasir.spec.problems import Problem, raise_problems


def check_names(spec: Spec, graph: Graph) -> None:
    """Raise SpecProblems for names that a run which begins with the network `graph` would not find, or perhaps not.

    Nothing is said of what depends on more than can be followed, such as what a policy of a plugin does.
    """
    names = _Names(spec)
    courses: tuple[Course, ...] = (Course(graph),)
    try:
        for number in range(names.last + 1):
            courses = names.after(number, courses)
    except Unforeseen:
        pass
    raise_problems(list(names.problems.values()))


class _Names:
    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.plans = tuple(phase.plan() for phase in spec.phases)
        self.problems: dict[Path, Problem] = {}  # the first of each name
        self.views: dict[tuple[Graph, str], PhaseView] = {}

    @property
    def last(self) -> int:
        """Index of the last phase that names anything, -1 if none does."""
        naming = [
            number
            for number, plan in enumerate(self.plans)
            if self.spec.phases[number].freeze or any(map(names_of, plan.rules))
        ]
        return max(naming, default=-1)

    def after(self, number: int, courses: tuple[Course, ...]) -> tuple[Course, ...]:
        """The networks that a phase may end with, once its names are looked for. Raises Unforeseen."""
        plan = self.plans[number]
        if plan.policy != RULES:
            return self._after_other(number, courses)

        def look(rules: Sequence[RulePlan], then: Sequence[Course], when: str) -> None:
            for rule in rules:
                self._look(number, rule, then, when)

        prospect, last = Prospect(plan, self.spec.seed, look), number == self.last
        later = any(names_of(rule) and rule.when != Moment("start") for rule in plan.rules)
        courses = prospect.begun(courses, last and not later and not self.spec.phases[number].freeze)
        self._look_for_labels(number, courses)
        return courses if last and not later else prospect.ended(courses, last)

    def _after_other(self, number: int, courses: tuple[Course, ...]) -> tuple[Course, ...]:
        """Of an evolution it is known which rules it may use, not when; of a policy of a plugin not even that."""
        plan = self.plans[number]
        self._look_for_labels(number, courses)
        policy = find(policies, plan.policy)  # None: only a plugin that is not imported knows it
        if not (isinstance(policy, type) and issubclass(policy, EvolvePolicy)) or any(
            pass_of(rule).moves for rule in plan.rules
        ):
            raise Unforeseen
        later = tuple(dict.fromkeys(replace(course, sure=course.sure and not plan.rules) for course in courses))
        for rule in plan.rules:
            self._look(number, rule, later, f"in phase '{plan.name}'")
        return later

    def _look(self, number: int, rule: RulePlan, courses: Sequence[Course], when: str) -> None:
        plan = self.plans[number]
        index = next(n for n, own in enumerate(plan.rules) if own.name == rule.name)
        for key, names in (("stages", rule.where.stages), ("sites", rule.where.sites)):
            for position, name in enumerate(names):
                lacking = [course for course in courses if not self._finds(name, rule, course, plan)]
                if not lacking:
                    continue
                path = ("phases", number, "rules", index, "where", key, position)
                now = self._seen(lacking[0].graph, plan)
                known = now.stages if key == "stages" else now.sites.get(rule.name, now.stages)
                kind = key.removesuffix("s")
                if len(lacking) == len(courses):
                    has = f"it has {quoted(known, 8)}" if known else f"it has no {kind}s"
                    self._add(path, f"{when} the network has no {kind} '{name}'; {has}", _nearest(name, known))
                    continue
                self._add(
                    path,
                    f"{when} the network may have no {kind} '{name}', for that depends on when {self._movers()} acts",
                    self._remedy(name, rule, courses, plan),
                )

    def _remedy(self, name: str, rule: RulePlan, courses: Sequence[Course], plan: PhasePlan) -> str:
        parts = name.split(".")
        for start in range(1, len(parts)):
            shorter = ".".join(parts[start:])
            where = Where(stages=(shorter,)) if rule.where.stages else Where(sites=(shorter,))
            if all(self._finds(shorter, replace(rule, where=where), course, plan) for course in courses):
                return f"name '{shorter}', which stands for what becomes of it too"
        return "let it act `when: start` or `when: end`, or move this rule to a later phase"

    def _finds(self, name: str, rule: RulePlan, course: Course, plan: PhasePlan) -> bool:
        now = self._seen(course.graph, plan)
        if is_known(name, rule, now) or (rule.name, name) in course.acted:
            return True
        return not course.sure and any(_may_grow(home, now) for home in _above(name))

    def _seen(self, graph: Graph, plan: PhasePlan) -> PhaseView:
        key = graph, plan.name
        if key not in self.views:
            self.views[key] = view(graph, (plan,))
        return self.views[key]

    def _movers(self) -> str:
        rules = [rule for plan in self.plans for rule in plan.rules if pass_of(rule).moves]
        return " or ".join(dict.fromkeys(rule.pass_name for rule in rules))

    def _look_for_labels(self, number: int, courses: Sequence[Course]) -> None:
        """What a phase freezes is looked for once the rules at its start have acted."""
        phase = self.spec.phases[number]
        for position, prefix in enumerate(phase.freeze or ()):
            lacking = [course for course in courses if not _labelled(prefix, course)]
            if lacking:
                labels = lacking[0].graph.labels
                has = "has nothing" if len(lacking) == len(courses) else "may have nothing"
                text = f"when phase '{phase.name}' begins the network {has} labelled '{prefix}' or below it"
                places = [*dict.fromkeys(home for label in labels for home in (*_above(label), label))]
                self._add(("phases", number, "freeze", position), text, _nearest(prefix, places))

    def _add(self, path: Path, text: str, remedy: str) -> None:
        self.problems.setdefault(path, self.spec.problem(path, text, remedy).problems[0])


def _may_grow(home: str, now: PhaseView) -> bool:
    """Whether a place is a stage, or lies in one, in which training may have made others."""
    beside = {part.rpartition(".")[0] for parts in now.parts.values() for part in parts}
    return (
        any(lies_in(home, stage, now) for stage in now.stages) or home in beside or bool(moved(home, now.stages, now))
    )


def _nearest(name: str, known: Sequence[str]) -> str:
    close = close_match(name, known)
    return f"did you mean {close!r}?" if close is not None else "name what is there then"


def _above(name: str) -> Iterator[str]:
    parts = name.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts)))


def _labelled(prefix: str, course: Course) -> bool:
    graph = course.graph
    if graph.holds(prefix):
        return True
    return not course.sure and any(covers(stage.path, home) for stage in graph.stages for home in _above(prefix))
