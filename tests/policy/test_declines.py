"""A refusal holds as long as its cause: the network that was refused, a bound that is reached, what was measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasir.errors import Decline
from nasir.policy import Budget, PhasePlan, PhaseView, RewriteSite, RulePlan, Where, simulate
from nasir.records import DecisionRecord, DeclinedRecord, Record, RewriteRecord

VIEW = PhaseView(("s1",), {"s1": 1}, params=100, macs=100)
ROWS = [{"val.accuracy": 0.5}]
GROW, PRUNE = 10, 15  # MACs of a block, and of what a pruning takes away


class Network:
    """A network of one stage; growth adds MACs, pruning takes them, a stage keeps one block."""

    def __init__(self, view: PhaseView = VIEW) -> None:
        self.view = view

    def __call__(self, decision: RewriteSite) -> PhaseView:
        depth, macs = self.view.depths["s1"], self.view.macs
        if decision.pass_name == "remove-block":
            if depth == 1:
                raise Decline("one block is the least")
            depth, macs = depth - 1, macs - GROW
        elif decision.pass_name == "prune-channels":
            if macs <= 2 * PRUNE:
                raise Decline("thin enough")
            macs -= PRUNE
        else:
            depth, macs = depth + 1, macs + GROW
        excess = decision.budget.excess(params=100, macs=macs) if decision.budget else None
        if excess:
            raise Decline(excess)
        self.view = replace(self.view, depths={"s1": depth}, macs=macs)
        return self.view


def rewrites(records: list[Record]) -> list[tuple[int, str]]:
    return [(record.epoch, record.pass_name) for record in records if isinstance(record, RewriteRecord)]


def played(*rules: RulePlan, epochs: int | None, view: PhaseView = VIEW, **phase: Any) -> list[Record]:
    return simulate((PhasePlan("p", epochs, rules, **phase),), 0, ROWS, view, Network(view), max_epochs=200)


def rule(name: str, pass_name: str, **fields: Any) -> RulePlan:
    return RulePlan(name, pass_name, **fields)


def test_removal_that_had_nothing_to_remove_is_asked_again_after_growth() -> None:
    grow, shrink = rule("grow", "insert-block", every=4), rule("shrink", "remove-block", every=3)
    records = played(grow, shrink, epochs=24)
    # at 3 there is one block; at 12 both act, and removal finds what growth has just made
    assert rewrites(records) == [
        (4, "insert-block"),
        (6, "remove-block"),
        (8, "insert-block"),
        (9, "remove-block"),
        (12, "insert-block"),
        (12, "remove-block"),
        (16, "insert-block"),
        (18, "remove-block"),
        (20, "insert-block"),
        (21, "remove-block"),
    ]
    stopped = played(grow, replace(shrink, decline="stop"), epochs=24)
    assert {name for _, name in rewrites(stopped)} == {"insert-block"}


@pytest.mark.parametrize("bound", [124, 120])  # between two blocks: growth is declined; exactly: it is frozen
def test_growth_up_to_a_budget_goes_on_when_pruning_makes_room(bound: int) -> None:
    grow = rule("grow", "insert-block", every=1, budget=Budget(macs=bound))
    prune = rule("prune", "prune-channels", every=3)
    records = played(grow, prune, epochs=12)
    grown = [epoch for epoch, name in rewrites(records) if name == "insert-block"]
    # 120 at 2; at 3 growth is refused, pruning makes 105 of it, growth is asked again and makes 115; ...
    assert grown == [1, 2, 3, 6, 7, 9]
    ended = played(grow, prune, epochs=12, until="all_frozen")
    assert (ended[-1]["epoch"], ended[-1]["macs"]) == (4, 115), (
        "the rules of one moment act before it is said to be over"
    )
    stopped = played(replace(grow, decline="stop"), prune, epochs=12, until="all_frozen")
    assert [epoch for epoch, name in rewrites(stopped) if name == "insert-block"] == [1, 2]


def test_a_stage_at_its_most_grows_again_once_a_block_is_removed() -> None:
    grow = rule("grow", "insert-block", every=1, at_most=3)
    shrink = rule("shrink", "remove-block", every=4)
    records = played(grow, shrink, epochs=10)
    assert [epoch for epoch, name in rewrites(records) if name == "insert-block"] == [1, 2, 4, 8]
    frozen = [
        (record.epoch, record.bound)
        for record in records
        if isinstance(record, DecisionRecord) and record.action == "freeze"
    ]
    assert frozen == [(3, "at_most"), (5, "at_most"), (9, "at_most")]
    stopped = played(replace(grow, decline="stop"), shrink, epochs=10)
    assert [epoch for epoch, name in rewrites(stopped) if name == "insert-block"] == [1, 2]


def test_a_pass_that_measures_is_asked_again_after_an_epoch_and_others_are_not() -> None:
    def refuse(decision: RewriteSite) -> PhaseView:
        raise Decline("none is weak")

    def asked(view: PhaseView, **phase: Any) -> list[int]:
        plan = PhasePlan("p", 9, (rule("r", "remove-weak-blocks", every=2),), **phase)
        records = simulate((plan,), 0, ROWS, view, refuse, max_epochs=50)
        return [record.epoch for record in records if isinstance(record, DeclinedRecord)]

    assert asked(VIEW) == [2]
    measuring = replace(VIEW, measuring=frozenset({"r"}))
    assert asked(measuring) == [2, 4, 6, 8]


def test_a_phase_ends_where_all_rules_are_refused_by_the_network_as_it_is() -> None:
    grow, shrink = rule("grow", "insert-block", every=1, at_most=3), rule("shrink", "prune-channels", every=50)
    records = played(grow, shrink, epochs=None, until="all_frozen")
    assert (records[-1]["status"], records[-1]["epoch"]) == ("done", 3)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["insert-block", "remove-block", "prune-channels"]),
            st.integers(1, 4),
            st.none() | st.integers(1, 4),
            st.sampled_from(["again", "stop"]),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_no_site_is_asked_twice_about_one_network(drawn: list[tuple[str, int, int | None, Any]]) -> None:
    rules = tuple(
        rule(f"r{n}", name, every=every, at_most=most, decline=decline, where=Where(("s1",)))
        for n, (name, every, most, decline) in enumerate(drawn)
    )
    records = played(*rules, epochs=20)
    assert records[-1]["status"] == "done"
    refused: set[str] = set()
    last: DecisionRecord | None = None
    acted: set[tuple[int, str]] = set()
    for record in records:
        if isinstance(record, DecisionRecord) and record.action == "rewrite":
            assert record.rule not in refused
            last = record
        elif isinstance(record, DeclinedRecord) and last is not None:
            refused.add(last.rule)
        elif isinstance(record, RewriteRecord) and last is not None:
            assert (record.epoch, last.rule) not in acted, "a rule acts once at a moment"
            acted.add((record.epoch, last.rule))
            refused = {name for name in refused if rules[int(name[1:])].decline == "stop"}
