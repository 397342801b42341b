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
    last_sites: tuple[str, ...] = ()  # rewritten by its latest successful action
    last_epoch: int | None = None  # phase epoch of that action
    acted: bool = False  # a rewrite of the current epoch was adopted, or is not answered yet


@dataclass(slots=True)
class PhaseLog:
    """The current phase: everything after the last `phase` record."""

    epochs: list[Record] = field(default_factory=list)
    seconds: float = 0.0  # of its epochs and rewrites
    ended: bool = False  # an `end_phase` decision was made
    rules: dict[str, RuleLog] = field(default_factory=dict)
    _open: list[Record] = field(default_factory=list)  # rewrite decisions not yet answered

    @classmethod
    def of(cls, history: History) -> Self:
        """Fold the records of the current phase; linear in their number."""
        log = cls()
        for record in current_phase(history):
            log._add(record)
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
        elif action == "rewrite":
            self._open.append(record)

    def _adopted(self, record: Record) -> None:
        decision = self._answered(record)
        if decision is None:
            return
        rule, site = self.rule(decision["rule"]), decision["site"]
        if rule.last_epoch != self.done:
            rule.last_epoch, rule.last_sites = self.done, ()
        if site not in rule.last_sites:
            rule.last_sites = (*rule.last_sites, site)

    def _declined(self, record: Record) -> None:
        decision = self._answered(record)
        if decision is not None:
            self.rule(decision["rule"]).frozen.setdefault(decision["site"], f"declined: {record['reason']}")

    def _answered(self, record: Record) -> Record | None:
        """Remove and return the oldest open decision that a rewrite or declined record answers, if any."""
        for index, decision in enumerate(self._open):
            if decision["pass"] == record["pass"] and decision["site"] == record["site"]:
                return self._open.pop(index)
        return None

    def _mark_acted(self) -> None:
        for decision in self._open:
            self.rule(decision["rule"]).acted = True
        for rule in self.rules.values():
            rule.acted = rule.acted or (rule.last_epoch == self.done and self.done > 0)


def current_phase(history: History) -> Sequence[Record]:
    """The records after the last `phase` record; all of them when there is none."""
    for index in range(len(history) - 1, -1, -1):
        if history[index]["kind"] == "phase":
            return history[index + 1 :]
    return history
