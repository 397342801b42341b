"""Which attempts count: the rules on made-up histories, without a storage."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

pytest.importorskip("optuna", reason="Optuna is not installed (pip install 'nasir[search]')")

from optuna.trial import FrozenTrial, TrialState, create_trial

from nasir.search.points import Ledger

W, R, C, P, F = TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


def history(*trials: tuple[int, int, TrialState, dict[str, Any]] | tuple[int, int, TrialState]) -> list[FrozenTrial]:
    """Trials (point, attempt, state, attributes) numbered in this order."""
    made = []
    for number, (point, attempt, state, *attrs) in enumerate(trials):
        fields = {"point": point, "attempt": attempt, **(attrs[0] if attrs else {})}
        trial = create_trial(state=state, value=1.0 if state == C else None, user_attrs=fields)
        trial.number = number
        made.append(trial)
    return made


def numbers(trials: list[FrozenTrial]) -> list[int]:
    return [trial.number for trial in trials]


def test_retries_come_first_then_the_lowest_point() -> None:
    ledger = Ledger(history((2, 0, W), (0, 0, F), (1, 0, W), (0, 1, W)), retries=3)
    assert numbers(ledger.queue()) == [3, 2, 0]
    assert not ledger.surplus() and not ledger.orphans() and not ledger.finished


def test_a_lost_attempt_lacks_a_clone_until_it_has_one() -> None:
    assert numbers(Ledger(history((0, 0, F)), 3).orphans()) == [0]
    assert numbers(Ledger(history((0, 0, F), (0, 1, F)), 3).orphans()) == [1]
    for state in (W, R, C, P):
        assert Ledger(history((0, 0, F), (0, 1, state)), 3).orphans() == []


def test_of_two_equal_attempts_the_lower_number_counts_whatever_became_of_it() -> None:
    for first in (W, R, C, P, F):
        ledger = Ledger(history((0, 0, F), (0, 1, first), (0, 1, W)), 3)
        assert numbers(ledger.surplus()) == [2]
        assert 2 not in numbers(ledger.queue())


def test_a_clone_that_comes_too_late_is_surplus() -> None:
    # a slow repairer makes attempt 1 again when attempt 2 is there
    ledger = Ledger(history((0, 0, F), (0, 1, F), (0, 2, R), (0, 1, W)), 3)
    assert numbers(ledger.surplus()) == [3] and ledger.orphans() == []


def test_surplus_that_failed_is_no_loss() -> None:
    trials = history((0, 0, F), (0, 1, W), (0, 1, F, {"duplicate": True}), (0, 0, F, {"duplicate": True}))
    ledger = Ledger(trials, retries=1)
    assert ledger.points[0].lost == 1 and numbers(ledger.queue()) == [1]


def test_a_point_fails_for_good_with_an_error_or_one_loss_too_many() -> None:
    assert Ledger(history((0, 0, F, {"error": "diverged"})), 3).points[0].failed
    assert not Ledger(history((0, 0, F), (0, 1, W)), 1).points[0].failed
    twice = Ledger(history((0, 0, F), (0, 1, F)), 1)
    assert twice.points[0].failed and twice.finished and twice.orphans() == []


def test_preempted_attempts_do_not_count() -> None:
    stopped = {"preempted": True}
    ledger = Ledger(history((0, 0, F, stopped), (0, 1, F, stopped), (0, 2, F)), 1)
    assert ledger.points[0].lost == 1 and numbers(ledger.orphans()) == [2]


def test_the_last_chance_is_known_beforehand() -> None:
    trials = history((0, 0, F), (0, 1, R))
    assert Ledger(trials, 1).last_chance(trials[1]) and not Ledger(trials, 2).last_chance(trials[1])


def test_what_waits_of_a_closed_point_is_surplus() -> None:
    for closed in ((0, 0, C), (0, 0, P), (0, 0, F, {"error": "x"})):
        assert numbers(Ledger(history(closed, (0, 1, W)), 3).surplus()) == [1]


def test_trials_of_others_are_left_alone() -> None:
    foreign = create_trial(state=W)
    foreign.number = 5
    ledger = Ledger([*history((0, 0, W)), foreign], 3)
    assert numbers(ledger.queue()) == [0] and not ledger.surplus()


def test_in_every_short_history_each_point_has_one_way_to_go_on() -> None:
    """Exactly one of: it has ended; one attempt may run; one clone is due."""
    kinds = [(state, {}) for state in (W, R, C, P, F)] + [(F, {"error": "x"}), (F, {"preempted": True})]
    for length in (1, 2, 3):
        for chosen in itertools.product(kinds, repeat=length):
            for attempts in itertools.product(range(length), repeat=length):
                if 0 not in attempts or not reachable(attempts, chosen):
                    continue
                trials = history(*((0, attempt, *kind) for attempt, kind in zip(attempts, chosen, strict=True)))
                ledger = Ledger(trials, retries=1)
                point = ledger.points[0]
                live = [trial for trial in point.attempts if trial.state in (W, R)]
                assert [
                    point.done is not None or point.failed,
                    bool(live) and point.open,
                    bool(ledger.orphans()),
                ].count(True) == 1
                assert len(live) <= 1
                assert {trial.number for trial in ledger.queue()}.isdisjoint(numbers(ledger.surplus()))


def reachable(attempts: tuple[int, ...], chosen: tuple[tuple[TrialState, dict[str, Any]], ...]) -> bool:
    """Whether the protocol can lead there: a later attempt follows a FAIL; what is surplus waits or failed."""
    real: dict[int, tuple[TrialState, dict[str, Any]]] = {}
    for attempt, kind in zip(attempts, chosen, strict=True):
        if attempt in real:
            if kind[0] != W:
                return False
        else:
            before = real.get(attempt - 1)
            if attempt and (before is None or before[0] != F or "error" in before[1]):
                return False
            real[attempt] = kind
    lost = sum(state == F and not attrs for attempt, (state, attrs) in real.items() if attempt < max(real))
    return lost <= 1
