"""The policy that a spec's `rules` describe: grow, freeze and end a phase as a pure function of history.

With one rule `every: K`, order round_robin and `freeze: {plateau: ...}` it is AutoGrow (arXiv:1906.02909) as its
published code has it. After every K-th epoch, in this order: the plateau is tested and freezes the stage grown
last; the next stage in cyclic order that is not frozen grows by one block; if there is none the phase ends. The
history of the metric is not reset by growth, so after a plateau each further interval freezes one more stage
while the next one still grows. The convergent variant (c-AutoGrow) has `when: {plateau: ...}` besides, and a `freeze`
whose plateau is measured `since: rule`: a stage is frozen if its own growth did not help.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from nasir.counted import counted
from nasir.errors import RunError
from nasir.ir.regions import closest, depth_text
from nasir.policy.base import History, PhaseView
from nasir.policy.conditions import evaluate
from nasir.policy.decision import Decision, EndPhase, FreezeSite, RewriteSite, TrySites
from nasir.policy.draws import index
from nasir.policy.phase_log import PhaseLog
from nasir.policy.plans import ALL_FROZEN, AtEpochs, Moment, PhasePlan, Plateau, RulePlan
from nasir.policy.sites import depth_at, former_names, is_known, named_now, sites_in
from nasir.rewriting.rewrite import WHOLE

Fresh = Mapping[str, Sequence[FreezeSite]]
"""By rule, what is frozen at this moment."""


class RulesPolicy:
    """The rules of one phase (see `Policy` for the lifecycle); keeps nothing between calls.

    When several rules are due after one epoch all their freezes come first. Then they act in their order, one after the
    other, so that each sees the network that the one before it made; one that was declined is asked again if another
    rule has changed the network since. Where the phase ends after this epoch only rules with `when: {at: ...}` and
    `when: end` still act: a change that the phase would not train is made on explicit demand only.
    """

    def __init__(self, plan: PhasePlan, seed: int) -> None:
        self.plan = plan
        self.seed = seed

    def decide(self, history: History, view: PhaseView) -> tuple[Decision, ...]:
        """All decisions of this moment. Raises RunError for a stage or metric that does not exist."""
        log = PhaseLog.of(history)
        if log.ended:
            return ()
        if not log.epochs:
            return self._at_moment("start", log, view)
        due = {rule.name: self._due(rule, log) for rule in self.plan.rules}
        fresh = {rule.name: _freezes(rule, log, view) if due[rule.name] else [] for rule in self.plan.rules}
        freezes = [freeze for decisions in fresh.values() for freeze in decisions]
        used_up = self.plan.epochs is not None and log.done >= self.plan.epochs
        ending, closed = (None, False) if used_up else self._ending(log, view, fresh)
        # what a rule does now may undo the refusals for which the phase is over
        reopening = closed and self._may_reopen(log, freezes)
        rewrites: list[Decision] = []
        planned: Counter[str] = Counter()
        for rule in self.plan.rules:
            reason = due[rule.name]
            if reason and (isinstance(rule.when, AtEpochs) or not (used_up or ending) or reopening):
                rewrites += self._rewrites(rule, reason, log, view, fresh[rule.name], planned)
                if rewrites and (not ending or reopening):
                    return (*freezes, *rewrites)
        last = self._at_moment("end", log, view) if used_up or ending else ()
        end = [EndPhase(ending)] if ending and not last else []
        return (*freezes, *rewrites, *last, *end)

    def _at_moment(self, moment: str, log: PhaseLog, view: PhaseView) -> tuple[Decision, ...]:
        """What the first rule of that moment that has something to do does."""
        for rule in self.plan.rules:
            if not isinstance(rule.when, Moment) or rule.when.at != moment or log.acted(rule.name):
                continue
            fresh = _freezes(rule, log, view)
            reason = f"the phase {'begins' if moment == 'start' else 'ends'}"
            decisions = (*fresh, *self._rewrites(rule, reason, log, view, fresh, Counter()))
            if decisions:
                return decisions
        return ()

    def _due(self, rule: RulePlan, log: PhaseLog) -> str | None:
        """Why the rule acts now, or None."""
        state, reasons = log.rule(rule.name), []
        if log.acted(rule.name) or isinstance(rule.when, Moment):
            return None
        # A plateau lasts while nothing is done about it; it has to form again after each rewrite. And a rewrite that
        # `freeze` judges has its window to help.
        rest = rule.when.window if isinstance(rule.when, Plateau) else 0
        rest = max(rest, _judged(rule, "rule"))
        if state.last_epoch is not None and log.done - state.last_epoch < rest:
            return None
        if rule.every is not None:
            if log.done % rule.every:
                return None
            reasons.append(f"every {rule.every} epochs" if rule.every > 1 else "every epoch")
        if rule.when is not None:
            verdict = evaluate(rule.when, log.epochs)
            if not verdict.holds:
                return None
            reasons.append(verdict.sentence)
        return "; ".join(reasons)

    def _ending(self, log: PhaseLog, view: PhaseView, fresh: Fresh) -> tuple[str | None, bool]:
        """Why the phase ends after this epoch, or None; and whether that is because no rule can act any more."""
        final = {rule.name for rule in self.plan.rules if rule.when == Moment("end")}
        if final & log.decided:
            return "the rules at its end have acted", False
        if any(state.last_epoch == log.done for name, state in log.rules.items() if name not in final):
            return None, False  # asked again after a rewrite: what is new is trained for at least one epoch
        if self.plan.budget is not None:
            excess = self.plan.budget.excess(view.params, view.macs, log.seconds, log.done, reached=True)
            if excess:
                return excess, False
        if self.plan.until is None:
            return None, False
        if self.plan.until != ALL_FROZEN:
            verdict = evaluate(self.plan.until, log.epochs)
            return (verdict.sentence if verdict.holds else None), False
        frozen = self._all_frozen(log, view, fresh)
        return frozen, frozen is not None

    def _all_frozen(self, log: PhaseLog, view: PhaseView, fresh: Fresh) -> str | None:
        """Why no rule can act any more, None where one can."""
        # A rule that nothing can stop must not keep the phase from ending, unless all rules are like that.
        acting = [rule for rule in self.plan.rules if not isinstance(rule.when, Moment)]
        stoppable = [rule for rule in acting if _can_stop(rule)] or acting
        if not any(_can_act(rule, view, log, fresh[rule.name]) for rule in stoppable):
            depths = depth_text({stage: view.depths[stage] for stage in view.stages})
            return f"every stage is frozen at depths {depths} after {counted(log.done, 'epoch')} of the phase"
        return None

    def _may_reopen(self, log: PhaseLog, freezes: Sequence[FreezeSite]) -> bool:
        """Whether a site is closed for the network as it is, not for good."""
        states = [log.rule(rule.name) for rule in self.plan.rules if rule.decline == "again"]
        refused = any(state.bounded or (state.declined and state.network == log.changes) for state in states)
        return refused or any(freeze.bound for freeze in freezes)

    def _rewrites(
        self,
        rule: RulePlan,
        due: str,
        log: PhaseLog,
        view: PhaseView,
        fresh: Sequence[FreezeSite],
        planned: Counter[str],
    ) -> list[Decision]:
        rest, rewritten = _judged(rule, "site"), log.rule(rule.name).sites
        able = [
            site
            for site in _open(rule, view, log, fresh)
            if not rest or all(log.done >= rewritten.get(name, -rest) + rest for name in former_names(site, view))
        ]
        if rule.trial is not None:
            sites = tuple(able)
            if not sites:
                return []
            terms = f"{due}; each of {len(sites)} sites is tried for {rule.trial.epochs} epochs"
            return [TrySites(rule.name, rule.pass_name, rule.options, sites, rule.trial, terms, rule.budget)]
        decisions: list[Decision] = []
        for site, chosen in self._choose(rule, log, view, able):
            count = rule.where.count
            if rule.at_most is not None:
                count = min(count, rule.at_most - depth_at(view, site) - planned[site])
                planned[site] += max(0, count)
            reason = f"{due}; {site} {chosen}" + (
                f", {counted(view.depths[site], 'block')} now" if site in view.depths else ""
            )
            decision = RewriteSite(rule.name, rule.pass_name, rule.options, site, reason, rule.budget)
            decisions += [decision] * count
        return decisions

    def _choose(self, rule: RulePlan, log: PhaseLog, view: PhaseView, sites: Sequence[str]) -> list[tuple[str, str]]:
        """The sites to act on now, each with the reason for the choice."""
        if not sites:
            return []
        if list(sites) == [WHOLE]:
            return [(WHOLE, "as a whole")]
        if rule.where.order == "all":
            return [(site, "like all stages") for site in sites]
        if rule.where.order == "random":
            # the epochs of the run; before the first one of a phase those of a rule's name differ from phase to phase
            number = index(f"{self.seed}/{log.before + log.done}/{rule.name}", len(sites))
            return [(sites[number], f"drawn from {len(sites)}")]
        every = _stages(rule, view, log)
        last = log.rule(rule.name).last_sites
        start = every.index(last[-1]) + 1 if last and last[-1] in every else 0
        turn, able = [*every[start:], *every[:start]], set(sites)
        return [(next(site for site in turn if site in able), f"is next after {last[-1]}" if last else "is first")]


def _freezes(rule: RulePlan, log: PhaseLog, view: PhaseView) -> list[FreezeSite]:
    """Freeze decisions of a rule that is due: its stop condition, its cap, its budget."""
    state = log.rule(rule.name)
    reasons: dict[str, str] = {}
    if rule.freeze is not None and state.last_sites:
        if _judged(rule, "site"):
            for site, epoch in state.sites.items():
                verdict = evaluate(rule.freeze, log.epochs, epoch)
                if verdict.holds:
                    reasons[site] = f"{site}: {verdict.sentence}"
        else:
            verdict = evaluate(rule.freeze, log.epochs, state.last_epoch)
            if verdict.holds:
                reasons.update({site: f"{verdict.sentence}; {site} was rewritten last" for site in state.last_sites})
    bounds = _bounds(rule, log, view)
    bounds = {site: bound for site, bound in bounds.items() if site not in reasons or site in state.frozen}
    reasons = {**{site: reason for site, (reason, _) in bounds.items()}, **reasons}
    return [
        FreezeSite(
            rule.name,
            site,
            f"{reason}; it stays at {counted(depth_at(view, site), 'block')}" if depth_at(view, site) else reason,
            rule.pass_name,
            bounds[site][1] if site in bounds else "",
        )
        for site, reason in reasons.items()
        if site not in state.frozen
        and not (rule.decline == "stop" and site in state.refused)
        and (site not in state.bounded or not (site in bounds and bounds[site][1]))
    ]


def _bounds(rule: RulePlan, log: PhaseLog, view: PhaseView) -> dict[str, tuple[str, str]]:
    """Sites where the rule has reached a bound: why, and which one, "" if it will not be undone."""
    lasting = rule.decline == "stop"
    budget = rule.budget
    reached: tuple[str, str] | None = None
    if budget is not None:
        for name, excess in (
            ("params", budget.excess(params=view.params, reached=True)),
            ("macs", budget.excess(macs=view.macs, reached=True)),
            ("", budget.excess(seconds=log.seconds, epochs=log.done, reached=True)),
        ):
            if excess and reached is None:
                reached = excess, "" if lasting else name
    bounds: dict[str, tuple[str, str]] = {}
    if rule.at_most is None and reached is None:
        return bounds
    for site in _stages(rule, view, log):
        depth = depth_at(view, site)
        if rule.at_most is not None and depth >= rule.at_most:
            text = f"{site} has {counted(depth, 'block')}, at most {rule.at_most} are allowed"
            bounds[site] = text, "" if lasting else "at_most"
        elif reached is not None:
            bounds[site] = reached
    return bounds


def _stages(rule: RulePlan, view: PhaseView, log: PhaseLog) -> tuple[str, ...]:
    """The sites a rule may act on, in network order, or in the order the rule lists them.

    A listed stage stands for itself, or, for a pass that does not act on stages, for every site that lies in it.
    """
    if rule.where.sites:
        known = view.sites.get(rule.name, view.stages)
        chosen: dict[str, None] = {}
        for wanted in rule.where.sites:
            # a site may be gone because the rule itself has been there; the pass then declines
            now = [wanted] if wanted in log.rule(rule.name).sites else named_now(wanted, known, view)
            if not now:
                raise RunError(
                    f"rule {rule.name} names site {wanted!r}, which {rule.pass_name} does not have in the network as "
                    f"it is now; {closest(wanted, known)}"
                )
            chosen.update(dict.fromkeys(now))
        return tuple(chosen)
    return sites_in(rule, view)


def _open(rule: RulePlan, view: PhaseView, log: PhaseLog, fresh: Sequence[FreezeSite], now: bool = True) -> list[str]:
    """The sites a rule may still act on: at this moment, or ever if nothing but training changes the network."""
    state = log.rule(rule.name)
    closed = {freeze.site for freeze in fresh}
    if state.bounded:
        closed |= state.bounded & _bounds(rule, log, view).keys()
    # what a pass measures is another after an epoch; a trial has trained its sites and is worth no second one
    measures = now and rule.name in view.measuring and rule.trial is None
    declined = state.declined if state.network == log.changes else {}
    return [
        site
        for site in _stages(rule, view, log)
        if not (
            site in closed
            or (state.frozen and any(name in state.frozen for name in former_names(site, view)))
            or (rule.decline == "stop" and any(name in state.refused for name in former_names(site, view)))
            or (site in declined and (not measures or declined[site] == log.done))
        )
    ]


def _can_act(rule: RulePlan, view: PhaseView, log: PhaseLog, fresh: Sequence[FreezeSite]) -> bool:
    """Whether a rule may act again if nothing but training changes the network.

    One that names what is not there cannot; it is an error when the rule is due, and until then it may come to be.
    """
    acted = log.rule(rule.name).sites
    there = all(name in acted or is_known(name, rule, view) for name in rule.where.sites or rule.where.stages)
    return there and not _expired(rule, log) and bool(_open(rule, view, log, fresh, now=False))


def _judged(rule: RulePlan, what: str) -> int:
    """Epochs that a rewrite has to help before `freeze` judges the rule, or the site; 0: it does not."""
    return rule.freeze.window if isinstance(rule.freeze, Plateau) and rule.freeze.since == what else 0


def _can_stop(rule: RulePlan) -> bool:
    return bool(rule.freeze or rule.at_most or rule.budget or rule.trial or isinstance(rule.when, AtEpochs))


def _expired(rule: RulePlan, log: PhaseLog) -> bool:
    """Whether the rule is bound to listed epochs and the last of them is over."""
    return isinstance(rule.when, AtEpochs) and log.done > max(rule.when.epochs)
