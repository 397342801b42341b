"""What the records of the current phase say, folded into the state the rules need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from nasir.policy.base import History, Record


@dataclass(slots=True)
class RuleLog:
    """What one rule has done in the phase."""

    frozen: dict[str, str] = field(default_factory=dict)  # site -> reason
    sites: set[str] = field(default_factory=set)  # rewritten in the phase
    last_sites: tuple[str, ...] = ()  # rewritten by its latest successful action
    last_epoch: int | None = None  # phase epoch of that action
    acted: bool = False  # a rewrite of the current epoch was adopted, or is not answered yet


@dataclass(slots=True)
class PhaseLog:
    """The current phase: everything after the last `phase` record."""

    epochs: list[Record] = field(default_factory=list)
    before: int = 0  # epochs of the run done when it began
    seconds: float = 0.0  # of its epochs and rewrites
    ended: bool = False  # an `end_phase` decision was made
    rules: dict[str, RuleLog] = field(default_factory=dict)
    decided: set[str] = field(default_factory=set)  # rules that rewrite at this moment
    _open: list[Record] = field(default_factory=list)  # rewrite decisions not yet answered

    @classmethod
    def of(cls, history: History) -> Self:
        """Fold the records of the current phase; linear in their number."""
        log = cls(before=sum(record["kind"] == "epoch" for record in history))
        for record in current_phase(history):
            log._add(record)
        log.before -= len(log.epochs)
        log._mark_acted()
        return log

    @property
    def done(self) -> int:
        """Epochs done in the phase."""
        return len(self.epochs)

    def rule(self, name: str) -> RuleLog:
        """What the rule of that name has done; empty if nothing."""
        return self.rules.setdefault(name, RuleLog())

    def _add(self, record: Record) -> None:
        kind = record["kind"]
        if kind == "epoch":
            self.epochs.append(record)
            self.seconds += record.get("seconds") or 0.0
            self._open.clear()
            self.decided.clear()
        elif kind == "trial":
            self.seconds += record.get("seconds") or 0.0
        elif kind == "decision":
            self._decided(record)
        elif kind == "rewrite":
            self.seconds += record.get("seconds") or 0.0
            self._adopted(record)
        elif kind == "declined":
            self._declined(record)

    def _decided(self, record: Record) -> None:
        action = record["action"]
        if action == "end_phase":
            self.ended = True
        elif action == "freeze":
            self.rule(record["rule"]).frozen.setdefault(record["site"], record["reason"])
        elif action in ("rewrite", "trial"):
            self._open.append(record)
            self.decided.add(record["rule"])

    def _adopted(self, record: Record) -> None:
        decision = self._answered(record)
        if decision is None:
            return
        rule, site = self.rule(decision["rule"]), record["site"]
        if rule.last_epoch != self.done:
            rule.last_epoch, rule.last_sites = self.done, ()
        rule.sites.add(site)
        if site not in rule.last_sites:
            rule.last_sites = (*rule.last_sites, site)

    def _declined(self, record: Record) -> None:
        decision = self._answered(record)
        if decision is not None:
            self.rule(decision["rule"]).frozen.setdefault(record["site"], f"declined: {record['reason']}")

    def _answered(self, record: Record) -> Record | None:
        """Remove and return the oldest open decision that a rewrite or declined record answers, if any.

        A trial is answered by the rewrite of one of its sites; a site of it that is declined leaves it open.
        """
        for index, decision in enumerate(self._open):
            if decision["pass"] != record["pass"]:
                continue
            if decision["action"] == "trial" and record["site"] in decision["sites"]:
                return decision if record["kind"] == "declined" else self._open.pop(index)
            if decision["site"] == record["site"]:
                return self._open.pop(index)
        return None

    def _mark_acted(self) -> None:
        for decision in self._open:
            self.rule(decision["rule"]).acted = True
        for rule in self.rules.values():
            rule.acted = rule.acted or rule.last_epoch == self.done


def current_phase(history: History) -> Sequence[Record]:
    """The records after the last `phase` record; all of them when there is none."""
    for index in range(len(history) - 1, -1, -1):
        if history[index]["kind"] == "phase":
            return history[index + 1 :]
    return history
