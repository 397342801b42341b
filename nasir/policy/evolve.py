"""A population of networks that mutate by passes and inherit weights, as a pure function of history.

Regularized evolution (Real et al. 2019, arXiv:1802.01548): population P, select {"tournament": S}, replace oldest, one
offspring: the best of S drawn is mutated, its child joins, the oldest leaves. Hill climbing by network morphisms (NASH,
Elsken et al. 2018, arXiv:1711.04528) is the special case of population 1, offspring n, replace parents and keep_parent:
of n children, one of them the parent trained on, the best becomes the next parent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from nasir.counted import counted
from nasir.errors import RunError
from nasir.policy.base import Fault, History, PhaseView
from nasir.policy.conditions import evaluate
from nasir.policy.decision import (
    Decision,
    DropIndividual,
    EndPhase,
    KeepIndividual,
    RecallIndividual,
    RewriteSite,
)
from nasir.policy.draws import index, weighted
from nasir.policy.evolve_log import Child, EvolutionLog
from nasir.policy.evolve_options import EvolveOptions
from nasir.policy.evolve_rank import Individual, ranked
from nasir.policy.phase_log import PhaseLog
from nasir.policy.plans import ALL_FROZEN, Budget, PhasePlan, RulePlan
from nasir.policy.sites import depth_at, sites_in

OVER = "evolution is over"
GONE = {"oldest": "the oldest leave", "worst": "the worst leave", "parents": "replaced"}


class EvolvePolicy:
    """Evolution: a population of networks, mutated by the passes of the phase's rules, with inherited weights.

    The start network is trained and kept as the first individual. Until the population is full, children of it are
    made; then generations of `offspring` children, each of a parent that is recalled, mutated, trained and kept. After
    the last generation the best individual is recalled and the phase ends.
    """

    Options = EvolveOptions
    outlives_divergence = True

    def __init__(self, plan: PhasePlan, seed: int, options: EvolveOptions) -> None:
        self.plan = plan
        self.seed = seed
        self.options = options

    @staticmethod
    def faults(plan: PhasePlan, options: EvolveOptions) -> Iterator[Fault]:
        """What is wrong with a phase that evolves."""
        if not plan.rules:
            yield (), f"the phase {plan.name!r} evolves and has no mutations", "add `rules: [{do: insert-block}]`"
        for number, rule in enumerate(plan.rules):
            yield from ((("rules", number, *path), text, remedy) for path, text, remedy in _rule_faults(rule))
        if plan.until == ALL_FROZEN:
            yield ("until",), "evolution freezes nothing", "give `generations` to the policy, or a condition"
        if (options.generations, plan.epochs, plan.until, plan.budget) == (None, None, None, None):
            remedy = "add `generations` to the policy, or `epochs`, `until` or `budget`"
            yield (), f"the phase {plan.name!r} never ends", remedy
        if plan.epochs is not None and plan.epochs < options.start_epochs:
            start = counted(options.start_epochs, "epoch")
            text = f"{plan.epochs} is too few: the start network alone is trained for {start}"
            yield ("epochs",), text, "raise it, or leave it out and give `generations` to the policy"

    @staticmethod
    def cycle(options: EvolveOptions) -> int:
        """Epochs after which another network may be gone on with."""
        return math.gcd(options.start_epochs, options.epochs)

    def decide(self, history: History, view: PhaseView) -> tuple[Decision, ...]:
        """All decisions of this moment. Raises RunError where the start network was never measured, or diverged."""
        phase = PhaseLog.of(history)
        if phase.ended:
            return ()
        log = EvolutionLog.of(history, self.options)
        child = log.child
        if child is None:
            return self._next(log, phase)
        if child.parent is None:
            if child.trained < self.options.start_epochs:
                return ()
            if not phase.before + phase.done:
                raise RunError(
                    f"phase {self.plan.name}: `initial: 0` needs an epoch before, which measures the start network; "
                    "give it one or more"
                )
        elif not child.trained:
            return self._mutation(log, child, view)
        elif child.trained < self.options.epochs:
            return ()
        return (self._keep(log, child),)

    def _keep(self, log: EvolutionLog, child: Child) -> Decision:
        if child.parent is None:
            made = f"the start network, trained for {counted(child.trained, 'epoch')}"
        else:
            changed = counted(child.mutations, "mutation") if child.mutations else "as it was"
            made = f"child of {child.parent}, {changed}, trained for {counted(child.trained, 'epoch')}"
        return KeepIndividual(log.next, made)

    # -- between two networks

    def _next(self, log: EvolutionLog, phase: PhaseLog) -> tuple[Decision, ...]:
        """Who is not needed any more, and who is gone on with."""
        assert log.founder is not None  # somebody was kept just now
        if not log.founder.sound:
            raise RunError(
                f"phase {self.plan.name}: the training of the start network diverged; lower `lr` or add `warmup`"
            )
        ending = self._ending(log, phase)
        if ending:
            return self._end(log, log.best(), ending)
        wanted = {individual.number for individual in (*log.population, *log.siblings)}
        if self.options.result == "history":
            wanted |= {individual.number for individual in log.best()}
        if log.founding:
            wanted |= log.stored.keys()
        parent, reason = self._parent(log, log.founder)
        recall = RecallIndividual(parent.number, f"{reason}; individual {log.next} will be its child")
        return (*self._drops(log, wanted, GONE[self.options.replace]), recall)

    def _ending(self, log: EvolutionLog, phase: PhaseLog) -> str | None:
        """Why no further child is made, or None. A generation that has begun is finished if the phase lasts."""
        plan, options = self.plan, self.options
        if plan.epochs is not None and phase.done + options.epochs > plan.epochs:
            return f"no child can be trained in what is left of the {counted(plan.epochs, 'epoch')} of the phase"
        if log.founding or log.siblings:
            return None
        if options.generations is not None and log.generations >= options.generations:
            complete = "is complete" if options.generations == 1 else "are complete"
            return f"{counted(options.generations, 'generation')} {complete}"
        if plan.budget is not None:
            excess = plan.budget.excess(seconds=phase.seconds, epochs=phase.done, reached=True)
            if excess:
                return excess
        if plan.until is not None and plan.until != ALL_FROZEN and phase.epochs:
            verdict = evaluate(plan.until, phase.epochs)
            return verdict.sentence if verdict.holds else None
        return None

    def _end(self, log: EvolutionLog, best: Sequence[Individual], ending: str) -> tuple[Decision, ...]:
        first = best[0]
        several = len(self.options.goals) > 1
        wanted = {individual.number for individual in best} if several else {first.number}
        reason = f"the best of {counted(log.count, 'individual')}: {self._shown(first)}"
        front = (
            "; front: " + ", ".join(f"{individual.number} ({self._shown(individual)})" for individual in best)
            if several
            else ""
        )
        recall = RecallIndividual(first.number, reason)
        gone = [] if several else [DropIndividual(first.number, f"{OVER}: it goes on")]
        end = EndPhase(f"{ending}; goes on with individual {first.number}{front}")
        return (*self._drops(log, wanted, OVER), recall, *gone, end)

    def _drops(self, log: EvolutionLog, wanted: Iterable[int], reason: str) -> list[Decision]:
        """Everybody who is stored and not wanted."""
        return [
            DropIndividual(
                individual.number,
                f"{reason if individual.sound else 'its training diverged'}: {self._shown(individual)}",
            )
            for individual in log.stored.values()
            if individual.number not in wanted
        ]

    def _parent(self, log: EvolutionLog, founder: Individual) -> tuple[Individual, str]:
        """The parent of the next individual, and why it is that."""
        if log.founding:
            return founder, f"{log.count} of {self.options.population} of the population are there"
        generation, population = f"generation {log.generations + 1}", log.population
        sample = self.options.sample
        if sample is None:
            best = ranked(population)[0]
            return best, f"{generation}: the best of {len(population)}, {self._shown(best)}"
        keys = [self._key(log, "parent", number) for number in range(sample)]
        drawn = [population[index(key, len(population))] for key in keys]
        order = ranked(population)
        winner = min(drawn, key=order.index)
        names = ", ".join(str(individual.number) for individual in drawn)
        return winner, f"{generation}: the best of {names}, drawn from {len(population)}, {self._shown(winner)}"

    # -- mutations

    def _mutation(self, log: EvolutionLog, child: Child, view: PhaseView) -> tuple[Decision, ...]:
        """The next rewrite of the child, none once it is ready to be trained."""
        unchanged = self.options.keep_parent and not log.founding and not log.siblings
        if unchanged or child.mutations >= self.options.mutations or child.attempts >= self.options.attempts:
            return ()
        places = {rule.name: self._sites(rule, child, view) for rule in self.plan.rules}
        able = [rule for rule in self.plan.rules if places[rule.name]]
        if not able:
            return ()
        weights = [rule.weight or 1.0 for rule in able]
        rule = able[weighted(self._key(log, "rule", child.attempts), weights)]
        sites = places[rule.name]
        site = sites[index(self._key(log, "site", child.attempts), len(sites))]
        share = (rule.weight or 1.0) / sum(weights)
        reason = (
            f"mutation {child.mutations + 1} of {self.options.mutations} of individual {log.next}, one of "
            f"{sum(map(len, places.values()))} places, drawn with probability {share / len(sites):.3g}"
        )
        if site in view.depths:
            reason += f"; {site} has {counted(view.depths[site], 'block')}"
        budget = _tighter(rule.budget, self.plan.budget)
        return (RewriteSite(rule.name, rule.pass_name, rule.options, site, reason, budget, log.next),)

    def _sites(self, rule: RulePlan, child: Child, view: PhaseView) -> list[str]:
        """Where a rule may still mutate the child."""
        known = view.sites.get(rule.name, view.stages)
        places = [site for site in rule.where.sites if site in known] if rule.where.sites else sites_in(rule, view)
        full = rule.at_most
        return [
            site
            for site in places
            if (rule.name, site) not in child.declined and (full is None or depth_at(view, site) < full)
        ]

    def _key(self, log: EvolutionLog, purpose: str, number: int) -> str:
        return f"{self.seed}/{self.plan.name}/{log.next}/{purpose}/{number}"

    def _shown(self, individual: Individual) -> str:
        return ", ".join(goal.show(value) for goal, value in zip(self.options.goals, individual.values, strict=True))


def _rule_faults(rule: RulePlan) -> Iterator[Fault]:
    """What a rule says that means nothing to evolution."""
    for key in ("every", "when", "freeze", "trial"):
        if getattr(rule, key) is not None:
            yield (key,), "evolution draws its mutations itself", f"remove `{key}`"
    if rule.decline != "again":
        yield ("decline",), "another mutation is drawn in place of one that was declined", "remove `decline`"
    if rule.where.order != "round_robin":
        yield ("where", "order"), "evolution draws the place of a mutation", "remove `order`"
    if rule.where.count != 1:
        yield ("where", "count"), "a mutation is one rewrite", "give the policy more `mutations`"
    for key in ("seconds", "epochs"):
        if rule.budget is not None and getattr(rule.budget, key) is not None:
            yield ("budget", key), "only `params` and `macs` bound a mutation", f"put `{key}` into the phase's `budget`"


def _tighter(first: Budget | None, second: Budget | None) -> Budget | None:
    """The params and macs that both budgets allow."""
    bounds = {}
    for name in ("params", "macs"):
        given = [
            getattr(budget, name)
            for budget in (first, second)
            if budget is not None and getattr(budget, name) is not None
        ]
        if given:
            bounds[name] = min(given)
    return Budget(**bounds) if bounds else None
