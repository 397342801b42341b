"""The networks that a run may have at each moment of its phases, as far as that can be told without training.

Followed exactly is what gives stages other names (`Pass.moves`), and what rules do at the start and the end of a phase.
Of what else changes the network it is only known that it leaves the stages where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from math import prod

from nasir.errors import Decline, NasirError, RunError
from nasir.ir import Graph
from nasir.policy import (
    ALL_FROZEN,
    AtEpochs,
    Condition,
    Moment,
    PhasePlan,
    PhaseView,
    Plateau,
    RewriteSite,
    RulePlan,
    Structural,
    Where,
    simulate,
)
from nasir.policy.sites import is_known, sites_of
from nasir.rewriting.evidence import Evidence, Need
from nasir.rewriting.propose import make_pass, propose
from nasir.rewriting.rewrite import Pass
from nasir.running.decisions import view
from nasir.running.unlived import Asked, unlived

MOST = 16  # networks that are told apart
CONDITIONS = 3  # rules that may or may not act at a moment, of which every choice is looked at
ROW = {"val.accuracy": 0.0}  # an epoch that no rule looks at


class Unforeseen(Exception):
    """What the network may become depends on more than can be followed."""


@dataclass(frozen=True, slots=True)
class Course:
    """One network that the run may have.

    `sure`: it is this one; else only its stages and branches are known. `acted`: names of the rules that have rewritten
    it in the phase, and where; a rule may look for such a site again.
    """

    graph: Graph
    sure: bool = True
    acted: frozenset[tuple[str, str]] = frozenset()


Look = Callable[[Sequence[RulePlan], Sequence[Course], str], None]
"""Told of rules that look for their sites, in any of the networks, and when that is."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """The ways that one phase may go under the policy `rules`."""

    plan: PhasePlan
    seed: int
    look: Look

    def begun(self, courses: Sequence[Course], last: bool = False) -> tuple[Course, ...]:
        """The networks after the rules at the start of the phase. Raises Unforeseen.

        `last`: no name is looked for after that, so what the last rule that names anything makes does not matter.
        """
        return self._at_moment("start", courses, f"when phase '{self.plan.name}' begins", last)

    def ended(self, courses: Sequence[Course], last: bool = False) -> tuple[Course, ...]:
        """The networks that the phase may end with, from those after its start. Raises Unforeseen; `last` as above."""
        ends: dict[Course, None] = {}
        length, lasting = self._length(), 0
        epoch, settled = 0, self._settled_after()
        while epoch != length and lasting < self._period():
            epoch += 1
            final = epoch == length
            before = tuple(courses)
            when = f"after epoch {epoch} of phase '{self.plan.name}'"
            if final or self._may_end(epoch):
                at = [rule for rule in self._due(epoch) if isinstance(rule.when, AtEpochs)]
                bounded = [rule for rule in self._due(epoch) if rule.at_most or rule.budget]  # whether they are reached
                self._looked([*at, *bounded], before, when)
                ends.update(dict.fromkeys(self._acted(at, before)))
            if final:
                break
            due = self._due(epoch)
            self._looked(due, before, when)
            courses = _few(self._acted(due, before))
            lasting = lasting + 1 if epoch > settled and set(courses) == set(before) else 0
        if epoch != length and length is not None:  # from here on each epoch is like the one before
            ends.update(dict.fromkeys(courses))
        ends_now = self._at_moment("end", _few(ends), f"when phase '{self.plan.name}' ends", last)
        return _few(replace(course, acted=frozenset()) for course in ends_now)

    # -- time

    def _length(self) -> int | None:
        """Epochs after which the phase is over for certain, None if that cannot be told."""
        budget = self.plan.budget.epochs if self.plan.budget is not None else None
        return min((epochs for epochs in (self.plan.epochs, budget) if epochs is not None), default=None)

    def _may_end(self, epoch: int) -> bool:
        until, budget = self.plan.until, self.plan.budget
        bounded = budget is not None and (budget.params, budget.macs, budget.seconds) != (None, None, None)
        return bounded or (until is not None and (until == ALL_FROZEN or _may_hold(until, epoch)))

    def _settled_after(self) -> int:
        """The last epoch that any condition names."""
        conditions = [self.plan.until, *[rule.when for rule in self.plan.rules]]
        named = [max(when.epochs) for when in conditions if isinstance(when, AtEpochs)]
        return max([*named, *[when.window for when in conditions if isinstance(when, Plateau)]], default=0)

    def _period(self) -> int:
        return 1 + max((rule.every or 1 for rule in self.plan.rules), default=1)

    def _due(self, epoch: int) -> list[RulePlan]:
        """Rules that act after an epoch, for certain or perhaps."""
        return [
            rule
            for rule in self.plan.rules
            if (rule.every is None or epoch % rule.every == 0)
            and not isinstance(rule.when, Moment)
            and (rule.when is None or _may_hold(rule.when, epoch))
        ]

    # -- what rules do

    def _at_moment(self, moment: str, courses: Sequence[Course], when: str, last: bool) -> tuple[Course, ...]:
        rules = [rule for rule in self.plan.rules if isinstance(rule.when, Moment) and rule.when.at == moment]
        looking: list[RulePlan] = []
        if last:
            naming = [number for number, rule in enumerate(rules) if names_of(rule)]
            before = naming[-1] if naming else 0
            rules, looking = rules[:before], rules[before : before + bool(naming)]
        ends = _few(end for course in courses for end in self._played(rules, course, when))
        self._looked(looking, ends, when)
        return ends

    def _looked(self, rules: Sequence[RulePlan], courses: Sequence[Course], when: str) -> None:
        if rules:
            self.look(rules, courses, when)

    def _acted(self, due: Sequence[RulePlan], courses: Sequence[Course]) -> tuple[Course, ...]:
        """The networks that rules which are due may lead to."""
        movers = [rule for rule in due if pass_of(rule).moves]
        known = courses if len(movers) == len(due) else [replace(course, sure=False) for course in courses]
        chancy = [rule for rule in movers if not _certain(rule)]
        if len(chancy) > CONDITIONS:
            raise Unforeseen
        made = []
        for count in range(len(chancy) + 1):
            for idle in combinations(chancy, count):
                acting = [rule for rule in movers if rule not in idle]
                made += [end for course in known for end in self._played(acting, course, "")]
        return _few(made)

    def _played(self, rules: Sequence[RulePlan], course: Course, when: str) -> list[Course]:
        """The networks once rules have acted, each once, as the policy has them act at the start of a phase.

        `when`: the moment to look at the names of each in its turn; "" if that is done.
        """
        acting = [replace(rule, every=None, when=Moment("start"), freeze=None) for rule in rules]
        if not acting:
            return [course]
        return [self._play(list(chosen), course, when) for chosen in self._choices(acting, course)]

    def _choices(self, rules: Sequence[RulePlan], course: Course) -> Iterable[tuple[RulePlan, ...]]:
        """The rules with the site of each whose pass moves stages where chance or a trial chooses it."""
        now = view(course.graph, (PhasePlan(self.plan.name, 1, tuple(rules)),))
        ways: list[list[tuple[RulePlan, ...]]] = []
        for rule in rules:
            if not pass_of(rule).moves or (rule.trial is None and rule.where.order != "random"):
                ways.append([(rule,)])
                continue
            idle: list[tuple[RulePlan, ...]] = [()] if rule.trial else []
            known = all(is_known(name, rule, now) for name in names_of(rule))
            sites = sites_of(rule, now) if known else ()
            each = [(replace(rule, trial=None, where=Where(sites=(site,))),) for site in sites]
            ways.append([*idle, *each] or [(replace(rule, trial=None),)])
        if prod(map(len, ways)) > MOST:
            raise Unforeseen
        return [tuple(rule for own in way for rule in own) for way in product(*ways)]

    def _play(self, acting: list[RulePlan], course: Course, when: str) -> Course:
        acting = [left for rule in acting if (left := _left(rule, course)) is not None]
        while acting:
            play = _Play(PhasePlan(self.plan.name, 1, tuple(acting)), self.seed, course)
            try:
                return play.result()
            except RunError as error:
                now = view(play.course.graph, (play.plan,))
                lost = next((rule for rule in acting if not all(is_known(n, rule, now) for n in names_of(rule))), None)
                self._looked([lost] if lost and when else [], [play.course], when)
                if lost is None or pass_of(lost).moves:
                    raise Unforeseen from error
            acting.remove(lost)  # it would have found what training has made
            course = replace(course, sure=False)
        return course


class _Play:
    """Rules that act at the start of a phase of nothing else."""

    def __init__(self, plan: PhasePlan, seed: int, course: Course) -> None:
        self.plan = plan
        self.seed = seed
        self.course = course

    def result(self) -> Course:
        """Raises Unforeseen, and RunError for names that the network does not have in the turn of their rule."""
        begun = view(self.course.graph, (self.plan,))
        for rule in self.plan.rules:
            if pass_of(rule).moves and pass_of(rule).needs:
                raise Unforeseen
            if rule.trial or rule.where.order == "random":
                self._unsure()
        simulate((self.plan,), self.seed, [ROW], begun, self._apply, 1)
        return self.course

    def _unsure(self) -> None:
        self.course = replace(self.course, sure=False)

    def _apply(self, decision: Structural) -> PhaseView:
        assert isinstance(decision, RewriteSite)
        moves = make_pass(decision.pass_name, decision.options).moves

        def gather(needs: tuple[Need, ...]) -> Evidence:
            if needs:
                raise Asked
            # weights may be drawn, names are not
            return Evidence(seed=self.seed) if moves else unlived()

        try:
            graph = propose(decision, self.course.graph, gather).graph
        except Asked:
            self._unsure()
            raise Decline("that depends on training") from None
        acted = self.course.acted | {(decision.rule, decision.site)}
        self.course = replace(self.course, graph=graph, acted=acted)
        return view(graph, (self.plan,))


def pass_of(rule: RulePlan) -> Pass:
    """The pass of a rule. Raises Unforeseen where only a plugin that is not imported knows it."""
    try:
        return make_pass(rule.pass_name, rule.options)
    except NasirError as error:
        raise Unforeseen from error


def _left(rule: RulePlan, course: Course) -> RulePlan | None:
    """The rule without the sites that it has used up itself, where a pass only declines; None if nothing is left."""
    used = [site for site in rule.where.sites if (rule.name, site) in course.acted]
    if not used:
        return rule
    now = view(course.graph, (PhasePlan("now", 1, (rule,)),))
    sites = tuple(site for site in rule.where.sites if site not in used or is_known(site, rule, now))
    return replace(rule, where=replace(rule.where, sites=sites)) if sites else None


def names_of(rule: RulePlan) -> tuple[str, ...]:
    """The sites or stages that a rule names."""
    return rule.where.sites or rule.where.stages


def _may_hold(condition: Condition, epoch: int) -> bool:
    """Whether a condition can hold after an epoch of the phase, whatever is measured."""
    if isinstance(condition, AtEpochs):
        return epoch in condition.epochs
    return not isinstance(condition, Plateau) or epoch > condition.window or condition.early == "code"


def _certain(rule: RulePlan) -> bool:
    """Whether a rule acts whenever it is due, if its pass can."""
    budget = rule.budget
    timed = budget is not None and (budget.epochs, budget.seconds) != (None, None)
    return (rule.when is None or isinstance(rule.when, AtEpochs)) and not (rule.freeze or timed)


def _few(courses: Iterable[Course]) -> tuple[Course, ...]:
    made = tuple(dict.fromkeys(courses))
    if len(made) > MOST:
        raise Unforeseen
    return made
