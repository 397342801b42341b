"""Rules beyond AutoGrow, and the laws every decision obeys."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_records import made

from nasir.errors import Decline, RunError
from nasir.policy import (
    AtEpochs,
    Budget,
    Condition,
    Decision,
    FreezeSite,
    PhasePlan,
    PhaseProgress,
    PhaseView,
    Plateau,
    RewriteSite,
    RulePlan,
    RulesPolicy,
    Threshold,
    Where,
    evaluate,
    simulate,
)
from nasir.records import DecisionRecord, DeclinedRecord, EpochRecord, PhaseRecord, RewriteRecord

VIEW = PhaseView(("a", "b", "c"), {"a": 1, "b": 2, "c": 3}, params=100, macs=1000)


def rule(name: str = "rules.0", pass_name: str = "insert-block", **fields: Any) -> RulePlan:
    fields.setdefault("every", 1)
    return RulePlan(name, pass_name, **fields)


def run(
    *rules: RulePlan,
    epochs: int | None = 6,
    view: PhaseView = VIEW,
    seed: int = 0,
    rows: list[dict[str, float]] | None = None,
    apply: Callable[[Decision], PhaseView | None] | None = None,
    **phase: Any,
) -> list[dict[str, Any]]:
    plan = PhasePlan("grow", epochs=epochs, rules=rules, **phase)
    return simulate((plan,), seed, rows or [{"val.accuracy": 0.5}], view, apply, max_epochs=500)


def grown(records: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return [(r.epoch, r.site) for r in records if isinstance(r, RewriteRecord)]


def decided(records: list[dict[str, Any]], action: str) -> list[dict[str, Any]]:
    return [r for r in records if isinstance(r, DecisionRecord) and r.action == action]


def epochs_of(*values: float, metric: str = "val.accuracy") -> list[dict[str, Any]]:
    return [made("epoch", {"epoch": n, "metrics": {metric: v}}) for n, v in enumerate(values, 1)]


# Orders, counts and times


def test_round_robin_follows_the_listed_order() -> None:
    records = run(rule(where=Where(("c", "a"))))
    assert grown(records) == [(1, "c"), (2, "a"), (3, "c"), (4, "a"), (5, "c")]


def test_order_all_rewrites_every_stage() -> None:
    assert grown(run(rule(every=2, where=Where(order="all")), epochs=3)) == [(2, "a"), (2, "b"), (2, "c")]


def test_random_order_depends_on_the_seed_alone() -> None:
    plan = rule(where=Where(order="random"))
    first, again, other = (grown(run(plan, epochs=60, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert {site for _, site in first} == {"a", "b", "c"}


def test_count_gives_that_many_rewrites_at_one_site() -> None:
    assert grown(run(rule(every=2, where=Where(count=2)), epochs=3)) == [(2, "a"), (2, "a")]


def test_count_stops_at_the_cap() -> None:
    records = run(rule(at_most=3, where=Where(("b",), count=5)), epochs=4)
    assert grown(records) == [(1, "b")]


def test_two_rules_share_a_cap() -> None:
    first, second = (rule(name, at_most=2, where=Where(("a",))) for name in ("rules.0", "rules.1"))
    assert grown(run(first, second)) == [(1, "a")]


def test_listed_epochs_without_a_period() -> None:
    assert grown(run(rule(every=None, when=AtEpochs((2, 5))))) == [(2, "a"), (5, "b")]


def test_period_and_condition_must_both_hold() -> None:
    assert grown(run(rule(every=2, when=AtEpochs((3, 4))))) == [(4, "a")]


def test_nothing_grows_after_the_last_epoch_unless_it_is_listed() -> None:
    assert grown(run(rule(every=3))) == [(3, "a")]
    assert grown(run(rule(every=None, when=AtEpochs((6,))))) == [(6, "a")]


def test_a_threshold_rule_fires_while_it_holds() -> None:
    rows = [{"val.accuracy": value} for value in (0.1, 0.6, 0.4, 0.7, 0.2, 0.9)]
    records = run(rule(every=None, when=Threshold("val.accuracy", above=0.5)), rows=rows)
    assert grown(records) == [(2, "a"), (4, "b")]
    assert decided(records, "rewrite")[0]["reason"] == "val.accuracy 0.6 is above 0.5; a is first, 1 block now"


def test_several_rules_act_in_their_order_with_freezes_first() -> None:
    grow = rule(at_most=2, where=Where(("a",)))
    shrink = rule("rules.1", "remove-block", every=2, where=Where(("c",)))
    records = run(shrink, grow, epochs=3)
    second = [(r.rule, r.action, r.site) for r in records if isinstance(r, DecisionRecord) and r.epoch == 2]
    assert second == [("rules.0", "freeze", "a"), ("rules.1", "rewrite", "c")]


def test_a_second_question_in_the_same_epoch_has_no_answer() -> None:
    records = run(rule(), epochs=4)
    policy = RulesPolicy(PhasePlan("grow", epochs=4, rules=(rule(),)), 0)
    upto = next(index for index, r in enumerate(records) if isinstance(r, RewriteRecord))
    assert policy.decide(records[: upto + 1], VIEW) == ()
    assert policy.decide(records[:upto], VIEW) == ()  # the decision is journaled, its outcome is still open
    assert len(policy.decide(records[: upto - 1], VIEW)) == 1


def test_before_the_first_epoch_nothing_is_decided() -> None:
    plan = PhasePlan("grow", epochs=4, rules=(rule(),))
    assert RulesPolicy(plan, 0).decide([], VIEW) == ()
    assert RulesPolicy(plan, 0).decide([made("phase", {"phase": "grow", "epoch": 0})], VIEW) == ()


# Declines


def test_a_declined_site_is_frozen_and_replaced_at_once() -> None:
    def apply(decision: Decision) -> PhaseView | None:
        if decision.site == "a":
            raise Decline("too deep already")
        return VIEW

    records = run(rule(decline="stop"), epochs=4, apply=apply)
    assert [(r.kind, r.epoch, r.site) for r in records if isinstance(r, RewriteRecord | DeclinedRecord)] == [
        ("declined", 1, "a"),
        ("rewrite", 1, "b"),
        ("rewrite", 2, "c"),
        ("rewrite", 3, "b"),
    ]
    assert next(r.reason for r in records if isinstance(r, DeclinedRecord)) == "too deep already"


def test_a_phase_whose_rule_is_declined_everywhere_ends() -> None:
    records = run(rule(), epochs=None, until="all_frozen", apply=lambda decision: None)
    assert [r.site for r in records if isinstance(r, DeclinedRecord)] == ["a", "b", "c"]
    assert records[-1]["epoch"] == 1 and records[-1]["status"] == "done"


def test_a_decline_freezes_for_its_own_rule_only() -> None:
    def apply(decision: Decision) -> PhaseView | None:
        return None if decision.rule == "rules.0" else VIEW

    records = run(rule(where=Where(("a",))), rule("rules.1", where=Where(("a",))), epochs=3, apply=apply)
    assert grown(records) == [(1, "a"), (2, "a")]


# Budgets


def costly(step: int) -> Callable[[Decision], PhaseView | None]:
    state = {"view": VIEW}

    def apply(decision: Decision) -> PhaseView | None:
        view = state["view"]
        after = replace(view, params=view.params + step)
        excess = decision.budget.excess(after.params, after.macs) if decision.budget else None
        if excess:
            raise Decline(excess)
        state["view"] = after
        return after

    return apply


def test_a_rule_budget_is_never_exceeded() -> None:
    records = run(rule(budget=Budget(params=135)), epochs=None, until="all_frozen", apply=costly(10))
    assert records[-1]["params"] == 130
    assert {r.reason for r in records if isinstance(r, DeclinedRecord)} == {"params 140 is past the budget of 135"}


def test_a_rule_budget_that_is_reached_freezes_without_asking() -> None:
    records = run(rule(budget=Budget(params=120)), epochs=None, until="all_frozen", apply=costly(10))
    assert records[-1]["params"] == 120
    assert not [r for r in records if isinstance(r, DeclinedRecord)]
    assert decided(records, "freeze")[0]["reason"] == "params 120 is at the budget of 120; it stays at 1 block"


@pytest.mark.parametrize(("budget", "epoch"), [(Budget(epochs=5), 5), (Budget(seconds=7), 4), (Budget(params=125), 4)])
def test_a_phase_budget_ends_the_phase(budget: Budget, epoch: int) -> None:
    rows = [{"val.accuracy": 0.5, "seconds": 2.0}]
    records = run(rule(), epochs=None, budget=budget, rows=rows, apply=costly(10))
    assert records[-1]["epoch"] == epoch
    assert "budget" in decided(records, "end_phase")[0]["reason"]


def test_an_epoch_budget_of_a_rule_stops_the_rule_not_the_phase() -> None:
    records = run(rule(budget=Budget(epochs=3)))
    assert grown(records) == [(1, "a"), (2, "b")]
    assert records[-1]["epoch"] == 6


# Ends of phases


def test_a_condition_ends_the_phase() -> None:
    rows = [{"val.accuracy": 0.1 * n} for n in range(1, 10)]
    records = run(rule(), epochs=None, until=Threshold("val.accuracy", above=0.45), rows=rows)
    assert records[-1]["epoch"] == 5
    assert grown(records)[-1] == (4, "a")
    assert decided(records, "end_phase")[0]["reason"] == "val.accuracy 0.5 is above 0.45"


def test_listed_epochs_that_are_over_end_a_phase() -> None:
    records = run(rule(every=None, when=AtEpochs((2, 4))), epochs=None, until="all_frozen")
    assert grown(records) == [(2, "a"), (4, "b")]
    assert records[-1]["epoch"] == 5


def test_a_rule_that_cannot_stop_does_not_keep_the_phase_open() -> None:
    records = run(rule(at_most=3), rule("rules.1", "noop", every=100), epochs=None, until="all_frozen")
    assert tuple(records[-1]["depths"].values()) == (3, 3, 3)
    assert records[-1]["status"] == "done"


def test_phases_follow_each_other_and_count_their_own_epochs() -> None:
    grow = PhasePlan("grow", epochs=3, rules=(rule(every=2),))
    tune = PhasePlan("tune", epochs=2, rules=(rule(every=None, when=AtEpochs((1,))),))
    records = simulate((grow, tune), 0, [{"val.accuracy": 0.5}], VIEW)
    assert [(r.phase, r.epoch) for r in records if isinstance(r, PhaseRecord)] == [("grow", 0), ("tune", 3)]
    assert grown(records) == [(2, "a"), (4, "a")]
    assert records[-1]["epoch"] == 5


def test_a_metric_plateau_counts_the_epochs_of_its_phase_only() -> None:
    warm = PhasePlan("warm", epochs=50)
    grow = PhasePlan("grow", rules=(rule(freeze=Plateau(window=10)),), until="all_frozen")
    records = simulate((warm, grow), 0, [{"val.accuracy": 0.5}], VIEW)
    assert records[-1]["epoch"] == 50 + 11 + 2


def test_progress_knows_phases_and_refuses_another_plan() -> None:
    plans = (PhasePlan("one", epochs=2), PhasePlan("two", epochs=1))
    history: list[dict[str, Any]] = []
    assert PhaseProgress.of(history, plans) == PhaseProgress(0, 0, 0, False)
    history += [made("phase", {"phase": "one"}), made("epoch")]
    assert PhaseProgress.of(history, plans) == PhaseProgress(0, 1, 1, True)
    history += [made("epoch")]
    assert PhaseProgress.of(history, plans) == PhaseProgress(1, 0, 2, False)
    history += [made("phase", {"phase": "two"})]
    assert PhaseProgress.of(history, plans) == PhaseProgress(1, 0, 2, True)
    history += [made("decision", {"action": "end_phase"})]
    assert PhaseProgress.of(history, plans) == PhaseProgress(None, 0, 2, False)
    with pytest.raises(RunError, match="phase 2 of the history is 'two', the plan has no further phase"):
        PhaseProgress.of(history, plans[:1])


# Conditions


@pytest.mark.parametrize(
    ("condition", "values", "holds"),
    [
        (Plateau(window=2), (0.5, 0.5), False),  # too short: delta is 0.5 itself
        (Plateau(window=2, early="code"), (0.0, 0.0), True),  # as in the AutoGrow code: delta is 0
        (Plateau(window=2), (0.0, 0.0), False),  # as in its paper: nothing is known of the last 2 epochs yet
        (Plateau(window=2), (0.5, 0.5, 0.5), True),
        (Plateau(window=2), (0.5, 0.4, 0.6), False),
        (Plateau(window=2), (0.6, 0.4, 0.5), True),  # the running maximum did not move
        (Plateau(window=2, smooth="none"), (0.3, 0.2, 0.5), False),
        (Plateau(window=2, smooth="none"), (0.3, 0.9, 0.2), True),
        (Plateau(window=1, smooth="ema", less_than=0.049), (0.0, 1.0), False),  # moves by 0.05
        (Plateau(window=1, smooth="ema", less_than=0.051), (0.0, 1.0), True),
        (Plateau(window=1, smooth="ema", decay=0.5, less_than=0.26), (0.0, 1.0, 1.0), True),
        (Plateau(window=1), (0.5, float("nan")), True),
        (Threshold("val.accuracy", above=0.5), (0.9, 0.5), False),
        (Threshold("val.accuracy", above=0.5, below=0.7), (0.1, 0.6), True),
        (Threshold("val.accuracy", below=0.5), (0.1, float("nan")), False),
        (AtEpochs((3,)), (0.1, 0.1, 0.1), True),
        (AtEpochs((3,)), (0.1, 0.1), False),
        (AtEpochs((3,)), (), False),
    ],
)
def test_conditions(condition: Condition, values: tuple[float, ...], holds: bool) -> None:
    assert evaluate(condition, epochs_of(*values)).holds is holds


@pytest.mark.parametrize(("values", "holds"), [((2.0, 1.0, 0.5), False), ((1.0, 1.2, 1.1), True), ((0.0, 0.0), False)])
def test_a_loss_improves_by_falling(values: tuple[float, ...], holds: bool) -> None:
    plateau = Plateau("val.loss", window=2, less_than=0.01)
    assert evaluate(plateau, epochs_of(*values, metric="val.loss")).holds is holds


def test_sentences_carry_the_numbers() -> None:
    plateau = evaluate(Plateau(window=2), epochs_of(0.5, 0.5001, 0.5002))
    assert plateau.sentence == "best val.accuracy improved by 0.0002 in 2 epochs, less than 0.0005"
    early = evaluate(Plateau(window=9), epochs_of(0.5, 0.6))
    assert early.sentence == "2 of the 10 epochs that a window of 9 needs are done"


def test_an_unknown_metric_names_those_there_are() -> None:
    with pytest.raises(RunError, match=r"epoch 1 has no metric 'val.acc' for a condition; it has val.accuracy"):
        evaluate(Threshold("val.acc", above=0.5), epochs_of(0.1))


def test_an_unknown_stage_names_those_there_are() -> None:
    with pytest.raises(RunError, match="names stage 'x', which the network does not have; its stages are a, b, c"):
        run(rule(where=Where(("x",))))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Plateau(window=0), "plateau: window: must be at least 1, found 0"),
        (lambda: Plateau(window=True), "plateau: window: expected a whole number, found true"),
        (lambda: Plateau(less_than=float("nan")), "plateau: less_than: expected a finite number, found nan"),
        (lambda: Plateau(smooth="mean"), "plateau: smooth: unknown value 'mean'; known: running_max, ema, none"),
        (lambda: Plateau(decay=1.0), "plateau: decay: must be below 1, found 1.0"),
        (lambda: Threshold("val.loss"), "nothing bounds val.loss; give `above`, `below` or both"),
        (lambda: Threshold("val.loss", above=2, below=1), "never holds"),
        (lambda: AtEpochs(()), "at: epochs: too few items: 0; give at least 1"),
        (lambda: AtEpochs((0,)), "at: epochs.0: must be at least 1, found 0"),
        (lambda: Where(order="any"), "where: order: unknown value 'any'; known: round_robin, random, all"),
        (lambda: Where(count=0), "where: count: must be at least 1, found 0"),
        (lambda: Where(("a", "a")), "where: stages.1: the stage 'a' is named already; name each once"),
        (lambda: Budget(), "a budget needs a bound; give params, macs, seconds or epochs"),
        (lambda: Budget(params=-1), "budget: params: must be above 0, found -1"),
        (lambda: PhasePlan("p", 1, (RulePlan("r", "p"),)), "phase p: rules: r never acts; add `every: 3 epochs` or"),
        (lambda: RulePlan("r", "p", every=0), "rule r: every: must be at least 1, found 0"),
        (lambda: PhasePlan("p"), "phase p: the phase 'p' never ends; add `epochs`"),
        (lambda: PhasePlan("p", until="all_frozen"), "needs at least one rule"),
        (
            lambda: PhasePlan("p", epochs=1, rules=(rule(), rule())),
            "rules: two share a name among rules.0, rules.0; give each its own",
        ),
        (lambda: RewriteSite("r", "", {}, "a"), "needs the name of a pass"),
        (lambda: FreezeSite("r", None), "needs a site"),  # type: ignore[arg-type]
        (lambda: PhaseView(("a",), {}), "no depth given for stage a"),
    ],
)
def test_malformed_plans_are_refused(make: Callable[[], object], text: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert text in str(caught.value)


# Laws, over generated plans, curves and refusals

conditions = st.one_of(
    st.builds(
        Plateau,
        window=st.integers(1, 8),
        less_than=st.sampled_from([0.0, 0.001, 0.1]),
        smooth=st.sampled_from(["running_max", "ema", "none"]),
        early=st.sampled_from(["paper", "code"]),
    ),
    st.builds(Threshold, st.just("val.accuracy"), above=st.floats(0, 1)),
    st.builds(AtEpochs, st.lists(st.integers(1, 20), min_size=1, max_size=3).map(tuple)),
)
judging = st.builds(Plateau, window=st.integers(1, 8), since=st.just("site"), less_than=st.sampled_from([0.001, 0.1]))
wheres = st.builds(
    Where,
    stages=st.sampled_from([(), ("a",), ("c", "b")]),
    order=st.sampled_from(["round_robin", "random", "all"]),
    count=st.integers(1, 2),
)


def looks_at_the_same(freeze: Condition | None, when: Condition | None) -> bool:
    """Whether a rule with both is refused."""
    return isinstance(freeze, Plateau) and isinstance(when, Plateau) and freeze.follows_from(when)


@st.composite
def plans(draw: st.DrawFn) -> PhasePlan:
    rules = tuple(
        RulePlan(
            f"rules.{index}",
            draw(st.sampled_from(["insert-block", "remove-block"])),
            every=draw(st.integers(1, 4)),
            when=(when := draw(st.none() | conditions)),
            where=draw(wheres),
            freeze=draw(
                (st.none() | conditions | judging).filter(lambda condition: not looks_at_the_same(condition, when))
            ),
            at_most=draw(st.none() | st.integers(1, 5)),
        )
        for index in range(draw(st.integers(1, 2)))
    )
    return PhasePlan("grow", epochs=draw(st.integers(1, 25)), rules=rules, until=draw(st.none() | conditions))


curves = st.lists(st.floats(0, 1), min_size=1, max_size=25).map(lambda v: [{"val.accuracy": x} for x in v])


def replayed(plan: PhasePlan, seed: int, records: list[dict[str, Any]]) -> None:
    """Ask a fresh policy again at every moment of a recorded run and compare with what was recorded."""
    view = VIEW
    for index, record in enumerate(records):
        if isinstance(record, EpochRecord | RewriteRecord):
            view = replace(view, depths=record.depths)
        if not isinstance(record, EpochRecord):
            continue
        history = copy.deepcopy(records[: index + 1])
        policy = RulesPolicy(plan, seed)
        answer = policy.decide(history, view)
        assert answer == policy.decide(tuple(history), view)
        assert history == records[: index + 1]
        following = [r for r in records[index + 1 :] if isinstance(r, DecisionRecord) and r.epoch == record.epoch]
        keys = ("action", "rule", "pass", "options", "site", "reason")
        expected = [{key: r[key] for key in keys} for r in following[: len(answer)]]
        assert [{key: d.to_record()[key] for key in keys} for d in answer] == expected


@settings(max_examples=150, deadline=None)
@given(plans(), curves, st.integers(0, 3))
def test_decisions_are_a_function_of_history(plan: PhasePlan, rows: list[dict[str, float]], seed: int) -> None:
    records = simulate((plan,), seed, rows, VIEW)
    assert records == simulate((plan,), seed, rows, VIEW)
    replayed(plan, seed, records)


@settings(max_examples=100, deadline=None)
@given(plans(), curves, st.integers(1, 24))
def test_a_truncated_run_is_a_prefix(plan: PhasePlan, rows: list[dict[str, float]], epochs: int) -> None:
    whole = simulate((plan,), 0, rows, VIEW)
    part = simulate((plan,), 0, rows, VIEW, max_epochs=epochs)
    assert part[:-1] == whole[: len(part) - 1]


REFUSED_THEN_FLAT = PhasePlan(
    "grow", epochs=5, rules=(RulePlan("rules.0", "remove-block", every=1, freeze=Plateau(window=4, less_than=0.001)),)
)


@settings(max_examples=150, deadline=None)
@given(plans(), curves)
@example(REFUSED_THEN_FLAT, [{"val.accuracy": 0.0}])
def test_a_frozen_or_refused_site_never_changes_again(plan: PhasePlan, rows: list[dict[str, float]]) -> None:
    plan = replace(plan, rules=tuple(replace(rule, decline="stop") for rule in plan.rules))
    records = simulate((plan,), 0, rows, VIEW)
    frozen: dict[tuple[str, str], int] = {}
    for index, record in enumerate(records):
        if isinstance(record, DecisionRecord) and record.action == "rewrite":
            site = (record.rule, record.site)
            # the second of two rewrites at one site is still tried where the first was refused
            assert frozen.get(site, record.epoch) == record.epoch
            if isinstance(records[index + 1], DeclinedRecord):
                frozen.setdefault(site, record.epoch)
        elif isinstance(record, DecisionRecord) and record.action == "freeze":
            assert (record.rule, record.site) not in frozen
            frozen[record.rule, record.site] = 0


@settings(max_examples=100, deadline=None)
@given(plans(), curves)
def test_a_cap_holds(plan: PhasePlan, rows: list[dict[str, float]]) -> None:
    growing = tuple(replace(rule, pass_name="insert-block", at_most=4) for rule in plan.rules)
    records = simulate((replace(plan, rules=growing),), 0, rows, VIEW)
    assert all(depth <= 4 for depth in records[-1]["depths"].values())


def test_conditions_read_the_learning_rate_and_the_seconds_that_lie_beside_the_metrics() -> None:
    record = made("epoch", {"epoch": 1, "metrics": {"val.accuracy": 0.5}, "lr": 0.01, "seconds": 3.0})
    assert evaluate(Threshold("lr", below=0.1), [record]).holds
    assert not evaluate(Threshold("seconds", above=5.0), [record]).holds
    with pytest.raises(RunError, match="no metric 'loss'"):
        evaluate(Threshold("loss", below=0.1), [record])
