"""A policy asked: its answer is code of others, and what is no decision is told before anything is carried out."""

from __future__ import annotations

import json
import traceback
from collections.abc import Sequence

from nasir.errors import NasirError, RunError
from nasir.policy.base import History, PhaseView, Policy
from nasir.policy.decision import Decision
from nasir.policy.plans import PhasePlan
from nasir.records import EpochRecord


def decisions_of(policy: Policy, phase: PhasePlan, history: History, view: PhaseView) -> tuple[Decision, ...]:
    """What a policy decides now. Raises RunError where it fails, and for an answer that is no tuple of decisions."""
    try:
        answer: object = policy.decide(history, view)
    except NasirError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        epochs = sum(isinstance(record, EpochRecord) for record in history)
        raise RunError(
            f"phase '{phase.name}', after {epochs} epochs: policy {phase.policy} raised {type(error).__name__}: "
            f"{error}\n"
            f"{last.filename}:{last.lineno}: mend its `decide`, then `nasir resume` goes on"
        ) from error
    if not isinstance(answer, tuple | list):
        raise RunError(
            f"phase '{phase.name}': policy {phase.policy} decides {answer!r:.60}; `decide` gives a tuple of decisions, "
            "an empty one where nothing is to be done"
        )
    for entry in answer:
        if not isinstance(entry, Decision):
            raise RunError(
                f"phase '{phase.name}': policy {phase.policy} decides {entry!r:.60}, which is no decision; make one of "
                "nasir.policy, such as RewriteSite"
            )
    return tuple(answer)


class Repeats:
    """Notices a policy that decides the same at one moment about the same network, which would never end."""

    def __init__(self, phase: PhasePlan, epoch: int) -> None:
        self.phase = phase
        self.epoch = epoch
        self.seen: set[tuple[str, str]] = set()

    def check(self, decisions: Sequence[Decision], network: str) -> None:
        """Raise RunError where all of these were made before at this moment; `network` is its digest."""
        told = json.dumps([decision.to_record() for decision in decisions], sort_keys=True, default=str)
        if (told, network) in self.seen:
            first = decisions[0].to_record()
            place = f" at {first['site']}" if first["site"] else ""
            raise RunError(
                f"phase '{self.phase.name}', after epoch {self.epoch}: policy {self.phase.policy} decides again on "
                f"`{first['action']}`{place} for a network that this has not changed, and would never end; let "
                "`decide` look in the history for what it has decided at this moment"
            )
        self.seen.add((told, network))
