"""What the records of the current phase say, folded into the state the rules need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from nasir.growing import GrowingMap, GrowingSequence, fold
from nasir.policy.base import History
from nasir.records import (
    DecisionRecord,
    DeclinedRecord,
    EpochRecord,
    PhaseRecord,
    Record,
    RewriteRecord,
    TrialRecord,
    typed,
)


@dataclass(frozen=True, slots=True)
class RuleLog:
    """What one rule has done in the phase."""

    frozen: GrowingMap[str, str] = field(default_factory=GrowingMap)  # for good: site -> reason
    bounded: frozenset[str] = frozenset()  # sites frozen as long as a bound is reached
    refused: GrowingMap[str, str] = field(default_factory=GrowingMap)  # ever declined: site -> reason
    declined: Mapping[str, int] = field(default_factory=dict, hash=False)  # on the network `network`: site -> epoch
    network: int = 0
    sites: Mapping[str, int] = field(default_factory=dict, hash=False)  # rewritten in the phase -> last after epoch
    last_sites: tuple[str, ...] = ()  # rewritten by its latest successful action
    last_epoch: int | None = None  # phase epoch of that action


@dataclass(frozen=True, slots=True)
class PhaseLog:
    """The current phase: everything after the last `phase` record, or all there is without one."""

    epochs: GrowingSequence[EpochRecord] = field(default_factory=GrowingSequence)
    before: int = 0  # epochs of the run done when it began
    seconds: float = 0.0  # of its epochs and rewrites
    ended: bool = False  # an `end_phase` decision was made
    rules: Mapping[str, RuleLog] = field(default_factory=dict, hash=False)
    changes: int = 0  # rewrites so far that led to another network; numbers the network as it is now
    decided: frozenset[str] = frozenset()  # rules that rewrite at this moment
    open: tuple[DecisionRecord, ...] = ()  # rewrite decisions not yet answered

    @classmethod
    def of(cls, history: History) -> Self:
        """Fold the records of a history."""
        return fold(typed(history), cls())

    @property
    def done(self) -> int:
        """Epochs done in the phase."""
        return len(self.epochs)

    def rule(self, name: str) -> RuleLog:
        """What the rule of that name has done; empty if nothing."""
        return self.rules.get(name) or RuleLog()

    def acted(self, name: str) -> bool:
        """Whether a rewrite by that rule in the current epoch was adopted, or is not answered yet."""
        return self.rule(name).last_epoch == self.done or any(decision.rule == name for decision in self.open)

    def after(self, record: Record) -> Self:
        """The log with one record more."""
        match record:
            case PhaseRecord():
                return type(self)(before=self.before + self.done)
            case EpochRecord():
                log = self._took(record)
                return replace(log, epochs=self.epochs.grown(record), decided=frozenset(), open=())
            case TrialRecord():
                return self._took(record)
            case DecisionRecord():
                return self._decided(record)
            case RewriteRecord():
                return self._took(record)._adopted(record)
            case DeclinedRecord():
                return self._declined(record)
        return self

    def _took(self, record: EpochRecord | TrialRecord | RewriteRecord) -> Self:
        return replace(self, seconds=self.seconds + (record.seconds or 0.0))

    def _with(self, name: str, **changes: Any) -> Self:
        return replace(self, rules={**self.rules, name: replace(self.rule(name), **changes)})

    def _decided(self, record: DecisionRecord) -> Self:
        match record.action:
            case "end_phase":
                return replace(self, ended=True)
            case "freeze":
                rule, site = self.rule(record.rule), str(record.site)
                if record.bound:
                    return self._with(record.rule, bounded=rule.bounded | {site})
                return self._with(record.rule, frozen=rule.frozen.grown(site, record.reason))
            case "rewrite" | "trial":
                return replace(self, open=(*self.open, record), decided=self.decided | {record.rule})
        return self

    def _adopted(self, record: RewriteRecord) -> Self:
        log, decision = self._answered(record)
        if not record.before or record.before != record.after:
            log = replace(log, changes=self.changes + 1)
        if decision is None:
            return log
        rule, site = self.rule(decision.rule), record.site
        last = rule.last_sites if rule.last_epoch == self.done else ()
        return log._with(
            decision.rule,
            sites={**rule.sites, site: self.done},
            bounded=rule.bounded - {site},
            last_sites=last if site in last else (*last, site),
            last_epoch=self.done,
        )

    def _declined(self, record: DeclinedRecord) -> Self:
        log, decision = self._answered(record)
        if decision is None:
            return log
        rule, site = self.rule(decision.rule), record.site
        before = rule.declined if rule.network == self.changes else {}
        return log._with(
            decision.rule,
            refused=rule.refused.grown(site, f"declined: {record.reason}"),
            declined={**before, site: self.done},
            network=self.changes,
        )

    def _answered(self, record: RewriteRecord | DeclinedRecord) -> tuple[Self, DecisionRecord | None]:
        """The log without the oldest open decision that a rewrite or declined record answers, and that decision.

        A trial is answered by the rewrite of one of its sites; a site of it that is declined leaves it open.
        """
        for index, decision in enumerate(self.open):
            if decision.pass_name != record.pass_name:
                continue
            trial = decision.action == "trial" and record.site in decision.sites
            if trial and isinstance(record, DeclinedRecord):
                return self, decision
            if trial or decision.site == record.site:
                return replace(self, open=(*self.open[:index], *self.open[index + 1 :])), decision
        return self, None
