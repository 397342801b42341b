"""Rules at the start and the end of a phase, named sites and trials, as decisions alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from made_records import made

from nasir.errors import Decline, RunError
from nasir.policy import (
    Budget,
    Decision,
    FreezeSite,
    Moment,
    PhasePlan,
    PhaseView,
    Plateau,
    RulePlan,
    RulesPolicy,
    Threshold,
    Trial,
    TrySites,
    Where,
    simulate,
)
from nasir.records import DecisionRecord, DeclinedRecord, Record, RewriteRecord, from_json

VIEW = PhaseView(("a", "b"), {"a": 1, "b": 2}, params=100, regions=frozenset({"a", "b", "a.0", "b.0", "b.1"}))
START, END = Moment("start"), Moment("end")


def rule(name: str = "r0", pass_name: str = "insert-block", **fields: Any) -> RulePlan:
    return RulePlan(name, pass_name, **fields)


def run(*phases: PhasePlan, view: PhaseView = VIEW, rows: Any = None, apply: Any = None) -> list[dict[str, Any]]:
    return simulate(phases, 0, rows or [{"val.accuracy": 0.5}], view, apply, max_epochs=50)


def acted(records: list[dict[str, Any]]) -> list[tuple[str, int, str]]:
    return [(r.phase, r.epoch, r.site) for r in records if isinstance(r, RewriteRecord | DeclinedRecord)]


def test_each_phase_has_its_start_and_its_end() -> None:
    rules = (rule("s", when=START), rule("e", when=END, where=Where(("b",))))
    records = run(PhasePlan("p", 2, rules), PhasePlan("q", 1, rules))
    assert acted(records) == [("p", 0, "a"), ("p", 2, "b"), ("q", 2, "a"), ("q", 3, "b")]
    kinds = [r.kind for r in records]
    assert kinds[:4] == ["phase", "decision", "rewrite", "epoch"]


def test_rules_of_a_moment_act_one_after_the_other_on_what_the_one_before_made() -> None:
    """The second rule's site exists only once the first has acted."""
    plain = replace(VIEW, sites={"s2": ("a",)})

    def apply(decision: Decision) -> PhaseView:
        return replace(VIEW, sites={"s2": ("a", "new")}, depths={**VIEW.depths, "a": 5})

    for moment in (START, END):
        rules = (rule("s1", when=moment), rule("s2", "other", when=moment, where=Where(sites=("new",))))
        records = run(PhasePlan("p", 1, rules), view=plain, apply=apply)
        assert [site for _, _, site in acted(records)] == ["a", "new"]


def test_an_open_phase_ends_after_the_rules_at_its_end_whatever_they_change() -> None:
    """Its budget is reached, and the first rule brings the network below it again."""

    def apply(decision: Decision) -> PhaseView:
        return replace(VIEW, params=10)

    until = PhasePlan(
        "p", None, (rule("e", when=END), rule("f", when=END, where=Where(("b",)))), budget=Budget(params=90)
    )
    records = run(until, apply=apply)
    assert acted(records) == [("p", 1, "a"), ("p", 1, "b")]
    assert [r.action for r in records if isinstance(r, DecisionRecord)] == ["rewrite", "rewrite", "end_phase"]
    assert records[-1]["epoch"] == 1 and records[-1]["status"] == "done"


def test_rules_of_a_moment_neither_keep_a_phase_open_nor_end_it() -> None:
    grow = rule("g", every=1, at_most=2, where=Where(("a",)))
    records = run(PhasePlan("p", None, (rule("s", when=START, where=Where(("b",))), grow), until="all_frozen"))
    assert records[-1]["epoch"] == 2
    only = run(PhasePlan("p", None, (rule("s", when=START),), until="all_frozen"))
    assert acted(only) == [("p", 0, "a")] and only[-1]["epoch"] == 1


def test_a_rule_at_the_end_acts_when_a_condition_ends_the_phase() -> None:
    rows = [{"val.accuracy": value} for value in (0.1, 0.6, 0.9)]
    records = run(PhasePlan("p", 5, (rule(when=END),), until=Threshold("val.accuracy", above=0.5)), rows=rows)
    assert acted(records) == [("p", 2, "a")] and records[-1]["epoch"] == 2


def test_a_declined_site_is_replaced_at_a_moment_too() -> None:
    def apply(decision: Decision) -> PhaseView | None:
        return None if decision.site == "a" else VIEW

    assert [site for _, _, site in acted(run(PhasePlan("p", 1, (rule(when=START),)), apply=apply))] == ["a", "b"]
    everywhere = run(PhasePlan("p", 1, (rule(when=END),)), apply=lambda decision: None)
    assert [site for _, _, site in acted(everywhere)] == ["a", "b"] and everywhere[-1]["status"] == "done"


def test_order_all_and_counts_hold_at_moments() -> None:
    records = run(PhasePlan("p", 1, (rule(when=START, where=Where(order="all", count=2)),)))
    assert [site for _, _, site in acted(records)] == ["a", "a", "b", "b"]


def test_a_random_choice_differs_from_phase_to_phase() -> None:
    view = PhaseView(tuple("abcdefgh"), dict.fromkeys("abcdefgh", 1))
    phases = [PhasePlan(f"p{n}", 1, (rule(f"p{n}.r", when=START, where=Where(order="random")),)) for n in range(8)]
    chosen = [site for _, _, site in acted(run(*phases, view=view))]
    assert len(set(chosen)) > 2 and chosen == [site for _, _, site in acted(run(*phases, view=view))]


# -- sites


def test_named_sites_are_taken_in_their_order_and_unknown_ones_are_refused() -> None:
    view = replace(VIEW, sites={"r0": ("b.1", "b.0", "a.0")})
    records = run(PhasePlan("p", 3, (rule(every=1, where=Where(sites=("b.0", "a.0"))),)), view=view)
    assert [site for _, _, site in acted(records)] == ["b.0", "a.0"]
    wrong = PhasePlan("p", 3, (rule(every=1, where=Where(sites=("b.7",))),))
    with pytest.raises(RunError, match=r"rule r0 names site 'b.7', which insert-block does not have .*mean 'b\.\d'"):
        run(wrong, view=view)


def test_a_site_that_the_rule_itself_used_up_is_declined_not_refused() -> None:
    def apply(decision: Decision) -> PhaseView:
        if gone:
            raise Decline("no site")
        gone.append(1)
        return replace(VIEW, sites={"r0": ("b.0",)})

    gone: list[int] = []
    view = replace(VIEW, sites={"r0": ("x", "b.0")})
    records = run(PhasePlan("p", 4, (rule(every=1, where=Where(sites=("x",))),)), view=view, apply=apply)
    assert [r.kind for r in records if isinstance(r, RewriteRecord | DeclinedRecord)] == ["rewrite", "declined"]


# -- trials


def decided(history: list[dict[str, Any]], plan: PhasePlan) -> tuple[Decision, ...]:
    return RulesPolicy(plan, 0).decide(history, VIEW)


def test_a_trial_names_its_candidates_and_is_answered_by_one_rewrite_or_declines() -> None:
    stopping = rule(every=1, trial=Trial(2), freeze=Plateau(window=1, less_than=9), decline="stop")
    plan = PhasePlan("p", 9, (stopping,))
    history: list[Record] = [
        made("phase", {"phase": "p", "epoch": 0}),
        made("epoch", {"epoch": 1, "phase_epoch": 1, "metrics": {"val.accuracy": 0.5}}),
    ]
    (trial,) = decided(history, plan)
    assert isinstance(trial, TrySites) and (trial.sites, trial.trial) == (("a", "b"), Trial(2))
    assert trial.to_record()["action"] == "trial" and trial.to_record()["site"] is None
    assert trial.to_record()["sites"] == ["a", "b"]
    history.append(from_json(trial.to_record()))
    assert decided(history, plan) == ()
    outcome = {"pass": "insert-block", "site": "b"}
    adopted = [*history, made("declined", {"site": "a", "pass": "insert-block", "reason": "x"})]
    adopted.append(made("rewrite", outcome))
    assert decided(adopted, plan) == ()
    adopted.append(replace(history[1], epoch=2, phase_epoch=2))
    freeze, *rest = decided(adopted, plan)
    assert isinstance(freeze, FreezeSite) and (freeze.site, rest) == ("b", []), "a was declined, b is frozen"


def test_the_seconds_of_trials_count_for_budgets() -> None:
    plan = PhasePlan("p", None, (rule(every=1, trial=Trial()),), budget=Budget(seconds=5))
    history: list[Record] = [
        made("phase", {"phase": "p", "epoch": 0}),
        made("trial", {"pass": "insert-block", "site": "a", "seconds": 9.0}),
        made("epoch", {"epoch": 1, "phase_epoch": 1, "metrics": {"val.accuracy": 0.5}, "seconds": 1.0}),
    ]
    assert [decision.action for decision in decided(history, plan)] == ["end_phase"]


def test_gains_follow_the_metric() -> None:
    assert Trial(metric="val.accuracy").gain(0.6, 0.5) == pytest.approx(0.1)
    assert Trial(metric="train.loss").gain(0.6, 0.5) == pytest.approx(-0.1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: rule(when=START, every=2),
        lambda: rule(every=1, freeze=END),
        lambda: PhasePlan("p", until=END),
        lambda: Where(("a",), sites=("b",)),
        lambda: Where(sites=("b", "b")),
        lambda: Trial(epochs=0),
        lambda: Trial(min_gain=float("nan")),
        lambda: Trial(baseline="best"),  # type: ignore[arg-type]
        lambda: Moment("noon"),  # type: ignore[arg-type]
        lambda: TrySites("r", "insert-block", {}, (), Trial()),
    ],
)
def test_plans_that_make_no_sense_are_refused(make: Any) -> None:
    with pytest.raises(ValueError):
        make()
