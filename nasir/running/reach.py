"""Rules that can never act: whose passes decline everywhere in a network that nothing else changes before."""

from __future__ import annotations

from nasir.errors import Decline, NasirError
from nasir.ir import Graph
from nasir.policy import PhasePlan, PhaseView
from nasir.policy.plans import RulePlan
from nasir.policy.sites import sites_in
from nasir.rewriting.propose import make_pass
from nasir.running.decisions import view
from nasir.running.unlived import Asked, unlived
from nasir.spec import Spec
from nasir.spec.problems import Problem, raise_problems


def check_reach(spec: Spec, graph: Graph) -> None:
    """Raise SpecProblems for rules that can never act in a run that begins with the network `graph`.

    A rule counts only where that is certain: its pass declines at all its sites for reasons that lie in the network
    alone, and so does every other rule up to the end of its phase, so that nothing ever changes the network.
    """
    problems: list[Problem] = []
    for number, phase in enumerate(spec.phases):
        plan = phase.plan()
        if not plan.rules:
            continue
        refused = _refused(plan, graph)
        if len(refused) < len(plan.rules):
            break
        for n, (pass_name, why) in enumerate(refused):
            text = f"the rule can never act: {pass_name} {why}, and nothing changes the network before"
            remedy = "mend its options, name other places, or remove it"
            problems += spec.problem(("phases", number, "rules", n, "do"), text, remedy).problems
    raise_problems(problems)


def _refused(plan: PhasePlan, graph: Graph) -> list[tuple[str, str]]:
    """(pass, why it declines everywhere) of the rules before the first that may act."""
    refused = []
    try:
        seen = view(graph, (plan,))
        for rule in plan.rules:
            reason = _refusal(rule, graph, seen)
            if reason is None:
                break
            refused.append(reason)
    except NasirError:  # a name that only a plugin knows, or a fault that is reported elsewhere
        return []
    return refused


def _refusal(rule: RulePlan, graph: Graph, seen: PhaseView) -> tuple[str, str] | None:
    """(pass, why it declines everywhere), None where it may act, perhaps after looking at weights or the history."""
    change = make_pass(rule.pass_name, rule.options)
    if change.needs:
        return None
    first = ""
    for site in rule.where.sites or sites_in(rule, seen):
        try:
            change.attempt(graph, change.site(graph, site), unlived())
        except Decline as refusal:
            first = first or f"at {site}: {refusal}"
        except Asked:
            return None
        else:
            return None
    return rule.pass_name, f"declines everywhere ({first})" if first else "has no site in this network"
