"""A policy asked: its answer is code of others, and what is no decision is told before anything is carried out."""

from __future__ import annotations

from nasir.errors import RunError
from nasir.policy.base import History, PhaseView, Policy
from nasir.policy.decision import Decision
from nasir.policy.plans import PhasePlan


def decisions_of(policy: Policy, phase: PhasePlan, history: History, view: PhaseView) -> tuple[Decision, ...]:
    """What a policy decides now. Raises RunError for an answer that is no list or tuple of decisions."""
    answer: object = policy.decide(history, view)
    if not isinstance(answer, tuple | list):
        raise RunError(
            f"phase '{phase.name}': policy {phase.policy} decides {answer!r:.60}; `decide` gives a tuple of decisions, "
            "an empty one where nothing is to be done"
        )
    for one in answer:
        if not isinstance(one, Decision):
            raise RunError(
                f"phase '{phase.name}': policy {phase.policy} decides {one!r:.60}, which is no decision; make one of "
                "nasir.policy, such as RewriteSite"
            )
    return tuple(answer)
