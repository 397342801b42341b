"""A policy asked: its answer is code of others; what is no decision, or would never end, is told before it is done."""

from __future__ import annotations

import json
import traceback
from collections.abc import Sequence
from hashlib import sha256

from nasir.counted import counted
from nasir.errors import NasirError, RunError
from nasir.policy.base import History, PhaseView, Policy
from nasir.policy.decision import Decision, RewriteSite
from nasir.policy.plans import PhasePlan
from nasir.records import EpochRecord

ROUNDS = 1000  # of decisions at one moment, after which a policy is taken for looping
GROWTH_ROUNDS = 256  # the same for rounds of which each left a larger network
GROWTH, FEW = 1000, 8  # or after more than FEW of them, how many times larger it may be


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
            f"phase '{phase.name}', after {counted(epochs, 'epoch')}: policy {phase.policy} raised "
            f"{type(error).__name__}: {error}\n"
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


class Rounds:
    """The rounds of decisions at one moment, which must come to an end; what it remembers of them is bounded."""

    def __init__(self, phase: PhasePlan, epoch: int) -> None:
        self.phase = phase
        self.epoch = epoch
        self.count = 0
        self.grown = 0  # rounds that left a network of more parameters
        self.first = self.params = 0  # parameters at the first round, and at the latest
        self.last: Sequence[Decision] = ()
        self.seen: set[bytes] = set()

    def check(self, decisions: Sequence[Decision], view: PhaseView, network: str) -> None:
        """Raise RunError where the policy would never end: call it with each answer, before it is carried out.

        That is where all of `decisions` were made before at this moment for the same `network` (any name of it), where
        the network has grown in too many rounds or by too much, and after `ROUNDS` rounds. `view`: what was decided on.
        """
        if self.count and view.params > self.params:
            self.grown += 1
        self.first = self.first if self.count else view.params
        self.params = view.params
        if self.grown > GROWTH_ROUNDS or (self.grown > FEW and view.params > GROWTH * self.first):
            grower = next((decision for decision in self.last if isinstance(decision, RewriteSite)), None)
            latest = f"; the latest was {grower.pass_name} at {grower.site}" if grower else ""
            raise self._error(
                f"has grown the network in {self.grown} rounds without training it in between, from {self.first:,} to "
                f"{self.params:,} parameters{latest}"
            )
        told = json.dumps([decision.to_record() for decision in decisions], sort_keys=True, default=str)
        key = sha256(f"{network} {told}".encode()).digest()
        if key in self.seen:
            first = decisions[0].to_record()
            place = f" at {first['site']}" if first["site"] else ""
            raise self._error(f"decides again on `{first['action']}`{place} for a network that this has not changed")
        # a rule may be refused at one place after the other
        if self.count >= ROUNDS + sum(len(view.sites.get(rule.name, view.stages)) for rule in self.phase.rules):
            raise self._error(f"has decided in {self.count} rounds")
        self.seen.add(key)
        self.count += 1
        self.last = decisions

    def _error(self, what: str) -> RunError:
        return RunError(
            f"phase '{self.phase.name}', after epoch {self.epoch}: policy {self.phase.policy} {what}, and would never "
            "end; let `decide` look in the history for what it has decided at this moment"
        )
