"""Decisions: what each kind needs, its record, the union of them, and the call with an action that they replace."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from nasir.errors import RunError
from nasir.policy import (
    Budget,
    Decision,
    DropIndividual,
    EndPhase,
    FreezeSite,
    KeepIndividual,
    PhasePlan,
    PhaseView,
    RecallIndividual,
    RewriteSite,
    Trial,
    TrySites,
    decisions_of,
    simulate,
)

BUDGET, TRIAL = Budget(params=9), Trial(2)
OPTIONS = {"init": "zero"}
KINDS: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (
        RewriteSite("r", "widen", OPTIONS, "s1", "why", BUDGET),
        ("rewrite", "r", "widen", OPTIONS, "s1", "why", BUDGET),
        {},
    ),
    (
        RewriteSite("r", "widen", OPTIONS, "s1", "why", None, 4),
        ("rewrite",),
        {"rule": "r", "pass_name": "widen", "options": OPTIONS, "site": "s1", "reason": "why", "individual": 4},
    ),
    (
        TrySites("r", "widen", {}, ("a", "b"), TRIAL, "why", BUDGET),
        ("trial", "r", "widen", {}, None, "why", BUDGET, ("a", "b"), TRIAL),
        {},
    ),
    (FreezeSite("r", "s1", "why", "widen"), ("freeze", "r", "widen"), {"site": "s1", "reason": "why"}),
    (KeepIndividual(0, "why"), ("keep",), {"reason": "why", "individual": 0}),
    (RecallIndividual(1, "why"), ("recall",), {"reason": "why", "individual": 1}),
    (DropIndividual(2, "why"), ("drop",), {"reason": "why", "individual": 2}),
    (EndPhase("why"), ("end_phase",), {"reason": "why"}),
]


@pytest.mark.parametrize(("decision", "positional", "named"), KINDS)
def test_the_call_with_an_action_still_gives_the_decision(
    decision: Any, positional: tuple[Any, ...], named: dict[str, Any]
) -> None:
    with pytest.warns(DeprecationWarning, match=f"make a {type(decision).__name__}$"):
        old = Decision(*positional, **named)  # type: ignore[operator]
    assert old == decision and type(old) is type(decision)


@pytest.mark.parametrize("decision", [kind[0] for kind in KINDS])
def test_every_kind_is_a_decision_with_a_record_of_the_same_keys(decision: Any) -> None:
    assert isinstance(decision, Decision) and issubclass(type(decision), Decision)
    record = decision.to_record()
    keys = ["kind", "action", "rule", "pass", "options", "site", "reason"]
    assert list(record)[:7] == keys and set(record) - set(keys) <= {"sites", "individual"}
    assert (record["kind"], record["action"], record["reason"]) == ("decision", decision.action, "why")
    assert record["rule"] == ("r" if hasattr(decision, "pass_name") else "")
    with pytest.raises(AttributeError):
        decision.reason = "other"


def test_records_hold_what_the_kind_has() -> None:
    rewrite, child, trial, freeze, keep = (kind[0].to_record() for kind in KINDS[:5])
    assert (rewrite["pass"], rewrite["options"], rewrite["site"]) == ("widen", OPTIONS, "s1")
    assert "individual" not in rewrite and child["individual"] == 4
    assert (trial["sites"], trial["site"]) == (["a", "b"], None)
    assert (freeze["pass"], freeze["options"], freeze["site"]) == ("widen", {}, "s1")
    assert (keep["individual"], keep["pass"], keep["site"]) == (0, "", None)


def test_kinds_with_equal_fields_are_not_equal_and_strangers_are_no_decisions() -> None:
    assert KeepIndividual(1, "a") != RecallIndividual(1, "a")
    for stranger in (None, "rewrite", {"action": "rewrite"}, Trial()):
        assert not isinstance(stranger, Decision)
    assert not issubclass(Trial, Decision)


def test_a_candidate_of_a_trial_is_a_rewrite_under_its_budget() -> None:
    trial = TrySites("r", "widen", OPTIONS, ("a", "b"), TRIAL, "why", BUDGET)
    assert trial.at("b") == RewriteSite("r", "widen", OPTIONS, "b", "why", BUDGET)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Decision("grow"), "decision.action is 'grow'; it must be one of rewrite, trial, freeze, keep"),
        (lambda: Decision("rewrite", site="a"), "a rewrite decision needs the name of a pass"),
        (lambda: Decision("rewrite", pass_name="widen"), "a rewrite decision needs a site"),
        (lambda: Decision("freeze"), "a freeze decision needs a site"),
        (lambda: Decision("trial", pass_name="widen"), "a trial decision needs its terms and the sites to try"),
        (lambda: Decision("keep"), "a keep decision needs the number of an individual"),
        (lambda: Decision("end_phase", site="a", budget=BUDGET), "end_phase decisions have no use for site, budget"),
        (lambda: RewriteSite("r", "widen", {}, None), "a rewrite decision needs a site"),  # type: ignore[arg-type]
        (lambda: TrySites("r", "widen", {}, (), TRIAL), "a trial decision needs its terms and the sites to try"),
        (lambda: DropIndividual(None), "a drop decision needs the number of an individual"),  # type: ignore[arg-type]
    ],
)
def test_what_a_kind_needs_is_asked_for(make: Callable[[], object], text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with pytest.raises(ValueError) as caught:
            make()
    assert text in str(caught.value)


class Says:
    """Decides what it is told, at every moment."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def decide(self, history: Any, view: PhaseView) -> Any:
        return self.answer


VIEW = PhaseView(("s1",), {"s1": 1})
PHASE = PhasePlan("p", epochs=1, policy="says")


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (None, "phase 'p': policy says decides None; `decide` gives a tuple of decisions, an empty one where"),
        (EndPhase("x"), "phase 'p': policy says decides EndPhase(reason='x', rule=''); `decide` gives a tuple"),
        (({"action": "rewrite"},), "decides {'action': 'rewrite'}, which is no decision; make one of nasir.policy"),
    ],
)
def test_an_answer_that_holds_no_decisions_is_an_error_not_a_traceback(answer: Any, text: str) -> None:
    with pytest.raises(RunError) as caught:
        decisions_of(Says(answer), PHASE, (), VIEW)
    assert text in str(caught.value)
    with pytest.raises(RunError):
        simulate([PHASE], 0, [{"val.accuracy": 0.5}], VIEW, make=lambda plan, seed: Says(answer))


def test_a_list_of_decisions_will_do() -> None:
    assert decisions_of(Says([EndPhase("x")]), PHASE, (), VIEW) == (EndPhase("x"),)


def test_a_simulation_refuses_to_recall_what_was_never_kept() -> None:
    with pytest.raises(RunError, match="recalls individual 7, which it never kept"):
        simulate([PHASE], 0, [{"a": 0.5}], VIEW, make=lambda plan, seed: Says((RecallIndividual(7, "why"),)))


def test_a_decision_is_replaced_as_any_dataclass() -> None:
    assert replace(RewriteSite("r", "widen", {}, "a"), site="b").site == "b"
