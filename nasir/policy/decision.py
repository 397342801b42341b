"""What policies decide: one small value a kind of decision, which has what that kind needs and nothing else.

`Decision` is any of them, as an annotation and in `isinstance(value, Decision)`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from nasir.policy.plans import Budget, Options, Trial


class _Recorded:
    """What all decisions have: a kind, the rule they are of ("" where the phase decides), a sentence that says why."""

    __slots__ = ()
    action: ClassVar[str]
    if TYPE_CHECKING:

        @property
        def rule(self) -> str: ...

        @property
        def reason(self) -> str: ...

    def to_record(self) -> dict[str, Any]:
        """The keys of a `decision` journal record that the policy knows; the engine adds epoch and phase."""
        told = {item.name: getattr(self, item.name) for item in fields(self)}  # type: ignore[arg-type]
        return {
            "kind": "decision",
            "action": self.action,
            "rule": self.rule,
            "pass": told.get("pass_name", ""),
            "options": dict(told.get("options", {})),
            "site": told.get("site"),
            "reason": self.reason,
            **({"sites": list(told["sites"])} if "sites" in told else {}),
            **({"individual": told["individual"]} if told.get("individual") is not None else {}),
            **({"bound": told["bound"]} if told.get("bound") else {}),
        }


@dataclass(frozen=True, slots=True)
class RewriteSite(_Recorded):
    """Let a pass act at a site. `budget` bounds the rewritten graph: past it the engine declines.

    `reason` is a sentence with the numbers. `individual`: the number of the one that is being made, if any.
    """

    action: ClassVar[str] = "rewrite"

    rule: str
    pass_name: str
    options: Options
    site: str
    reason: str = ""
    budget: Budget | None = None
    individual: int | None = None

    def __post_init__(self) -> None:
        _need(self, "the name of a pass", self.pass_name)
        _need(self, "a site", self.site is not None)


@dataclass(frozen=True, slots=True)
class TrySites(_Recorded):
    """Try a pass at each of `sites` by the terms of `trial`, and adopt the best or none; `budget` bounds each."""

    action: ClassVar[str] = "trial"

    rule: str
    pass_name: str
    options: Options
    sites: tuple[str, ...]
    trial: Trial
    reason: str = ""
    budget: Budget | None = None

    def __post_init__(self) -> None:
        _need(self, "the name of a pass", self.pass_name)
        _need(self, "its terms and the sites to try", self.trial is not None and self.sites)

    def at(self, site: str) -> RewriteSite:
        """The rewrite that the candidate at a site is."""
        return RewriteSite(self.rule, self.pass_name, self.options, site, self.reason, self.budget)


@dataclass(frozen=True, slots=True)
class FreezeSite(_Recorded):
    """The rule no longer acts at a site; `pass_name`, the pass of the rule, is for the journal.

    `bound`: the bound of the rule that is reached there (`at_most`, `params` or `macs`), as long as which it lasts; ""
    for good.
    """

    action: ClassVar[str] = "freeze"

    rule: str
    site: str
    reason: str = ""
    pass_name: str = ""
    bound: str = ""

    def __post_init__(self) -> None:
        _need(self, "a site", self.site is not None)


@dataclass(frozen=True, slots=True)
class _OfIndividual(_Recorded):
    """What becomes of the individual of a number."""

    individual: int
    reason: str = ""
    rule: str = ""

    def __post_init__(self) -> None:
        _need(self, "the number of an individual", self.individual is not None)


@dataclass(frozen=True, slots=True)
class KeepIndividual(_OfIndividual):
    """Store the network as it is now, with weights and optimizer state, under a number that no other of the run has."""

    action: ClassVar[str] = "keep"


@dataclass(frozen=True, slots=True)
class RecallIndividual(_OfIndividual):
    """Go on with a stored individual in place of the network as it is now."""

    action: ClassVar[str] = "recall"


@dataclass(frozen=True, slots=True)
class DropIndividual(_OfIndividual):
    """A stored individual will not be recalled any more."""

    action: ClassVar[str] = "drop"


@dataclass(frozen=True, slots=True)
class EndPhase(_Recorded):
    """The phase is over. The last decision of its moment."""

    action: ClassVar[str] = "end_phase"

    reason: str = ""
    rule: str = ""


def _need(decision: _Recorded, what: str, given: object) -> None:
    if not given:
        raise ValueError(f"a {decision.action} decision needs {what}")


_AnyDecision: TypeAlias = (
    RewriteSite | TrySites | FreezeSite | KeepIndividual | RecallIndividual | DropIndividual | EndPhase
)

if TYPE_CHECKING:
    Decision: TypeAlias = _AnyDecision
else:

    class _Union(type):
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, _AnyDecision)

        def __subclasscheck__(cls, kind: type) -> bool:
            return issubclass(kind, _AnyDecision)

        def __call__(cls, *args: Any, **keywords: Any) -> _AnyDecision:
            return _by_action(*args, **keywords)

    class Decision(metaclass=_Union):
        """What to do now, and why: one of the classes of this module.

        Calling it with an action and the arguments that it once had gives one of them, and is deprecated.
        """


def _by_action(
    action: str,
    rule: str = "",
    pass_name: str = "",
    options: Options | None = None,
    site: str | None = None,
    reason: str = "",
    budget: Budget | None = None,
    sites: tuple[str, ...] = (),
    trial: Trial | None = None,
    individual: int | None = None,
) -> _AnyDecision:
    """The decision of an action, from the arguments that all of them once had; what it has no use for is refused."""
    kinds = {kind.action: kind for kind in _AnyDecision.__args__}
    if action not in kinds:
        raise ValueError(f"decision.action is {action!r}; it must be one of {', '.join(kinds)}")
    kind = kinds[action]
    warnings.warn(
        f"Decision({action!r}, ...) is deprecated and goes after nasir 0.1; make a {kind.__name__}",
        DeprecationWarning,
        stacklevel=3,
    )
    given: dict[str, Any] = {
        "rule": rule,
        "pass_name": pass_name,
        "options": options or {},
        "site": site,
        "reason": reason,
        "budget": budget,
        "sites": sites,
        "trial": trial,
        "individual": individual,
    }
    taken = {item.name for item in fields(kind)}
    unused = [name for name, value in given.items() if value and name not in taken]
    if unused:
        raise ValueError(f"{action} decisions have no use for {', '.join(unused)}; leave it out")
    made: _AnyDecision = kind(**{name: value for name, value in given.items() if name in taken})
    return made
