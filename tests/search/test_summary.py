"""What a study says: outcomes, fronts, importances, totals; under way, without a result, and as CSV."""

from __future__ import annotations

import csv
import io
import math
import sys
from itertools import product
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from nasir.search.export import columns, to_csv
from nasir.search.pareto import hypervolume, hypervolumes, non_dominated
from nasir.search.summary import study_facts

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_study import EVERY, make_study, search_spec


def test_one_objective_has_the_best_trial_that_keeps_the_constraints() -> None:
    study = make_study()
    facts = study_facts(study)
    assert facts.best is not None and facts.best.number == study.best_trial.number == facts.front[0]
    able = [trial for trial in facts.trials if trial.counts]
    assert facts.best.values[0] == max(trial.values[0] for trial in able)
    broken = [trial for trial in facts.trials if trial.outcome == "infeasible"]
    assert broken and max(trial.values[0] for trial in broken) > facts.best.values[0]
    assert all(trial.cost["macs"] > 40e6 for trial in broken) and facts.constraints == ("macs <= 40M",)


def test_the_front_of_two_objectives_is_that_of_optuna() -> None:
    study = make_study(2)
    facts = study_facts(study)
    front = {trial.values for trial in facts.trials if trial.number in facts.front}
    assert front == {tuple(trial.values) for trial in study.best_trials} and len(facts.front) == len(front) > 3
    accuracies = [facts.trial(number).values[0] for number in facts.front]
    assert accuracies == sorted(accuracies, reverse=True)
    assert facts.best is None and len(facts.hypervolume) == len(facts.finished)
    assert list(facts.hypervolume) == sorted(facts.hypervolume) and 0 < facts.hypervolume[-1] <= 1


def test_attempts_at_a_point_are_linked_and_a_copied_result_does_not_win() -> None:
    facts = study_facts(make_study())
    first = facts.trial(7)
    assert first.outcome == "preempted" and first.retried_as is not None
    second = facts.trial(first.retried_as)
    assert (second.point, second.attempt, second.outcome) == (7, 1, "complete") and second.resumed
    assert facts.trial(18).outcome == "lost"
    copied = next(trial for trial in facts.trials if trial.cached_from is not None)
    assert copied.outcome == "cached" and copied.values == facts.trial(copied.cached_from or 0).values
    assert [trial.number for trial in facts.trials if trial.defaults] == [0]


def test_totals_count_each_epoch_once() -> None:
    facts = study_facts(make_study())
    totals = facts.totals
    ended = [trial for trial in facts.trials if trial.ended]
    assert totals.done == len(ended) == totals.points == 40
    assert sum(totals.outcomes.values()) == len(facts.trials) == 43
    assert totals.cache_hits == 1 and totals.prefix_hits == sum(trial.prefix_epochs > 0 for trial in ended) > 3
    assert totals.epochs + totals.epochs_saved == sum(trial.epochs or 0 for trial in ended)
    assert totals.epochs_saved == 24 + 6 * totals.prefix_hits
    assert 0 < totals.wall < totals.cpu_seconds


def test_importances_add_up_and_name_what_matters() -> None:
    single = study_facts(make_study()).importance
    assert [each.of for each in single] == ["val.accuracy"] and single[0].shares[0][0] == EVERY
    several = study_facts(make_study(2)).importance
    assert [each.of for each in several] == ["the front", "val.accuracy", "macs"]
    for each in (*single, *several):
        assert sum(share for _, share in each.shares) == pytest.approx(1)
        assert "fraction" in dict(each.shares)  # although it is active in some trials only
    assert several[1].shares[0][0] == EVERY  # of a maximised metric as of the single one
    assert not study_facts(make_study(trials=9)).importance


@pytest.mark.parametrize("objectives", [1, 2])
@pytest.mark.parametrize(("trials", "running"), [(0, 0), (4, 4), (20, 8)])
def test_a_study_under_way_has_facts_too(objectives: int, trials: int, running: int) -> None:
    facts = study_facts(make_study(objectives, trials, running=running))
    assert facts.totals.done == trials - running and facts.totals.points == trials
    under_way = [trial for trial in facts.trials if trial.outcome in ("running", "waiting")]
    assert len(under_way) == running and bool(facts.front) == (trials > running)
    assert len(facts.parameters) == 6 and facts.parameters[-1].when == "phases.1.rules.0 is prune"
    assert facts.parameters[0].log and facts.parameters[0].domain == "float 0.01..0.5 log"


def test_only_failed_or_infeasible_trials_leave_nothing_to_win() -> None:
    study = make_study(trials=0)
    attrs = {"point": 0, "attempt": 0, "error": "=diverged: loss is nan"}
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs=attrs))
    study.add_trial(create_trial(value=0.9, constraints={"macs <= 40M": 1e6}, user_attrs={"point": 1, "attempt": 0}))
    # two workers mended the queue at once
    for _ in range(2):
        study.add_trial(create_trial(state=TrialState.WAITING, user_attrs={"point": 2, "attempt": 1}))
    facts = study_facts(study)
    assert [trial.outcome for trial in facts.trials] == ["failed", "infeasible", "waiting", "duplicate"]
    assert facts.front == () and facts.best is None and facts.hypervolume == ()
    rows = list(csv.DictReader(io.StringIO(to_csv(facts))))
    assert rows[0]["error"] == "'=diverged: loss is nan" and rows[1]["values.val.accuracy"] == "0.9"


def test_a_study_of_other_origin_is_shown_as_far_as_it_goes() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.add_trial(create_trial(values=[1.0, 2.0]))
    facts = study_facts(study)
    assert [objective.metric for objective in facts.objectives] == ["objective 0", "objective 1"] and facts.front == (
        0,
    )


def test_the_export_has_one_row_an_attempt_and_the_same_columns_at_any_time() -> None:
    facts = study_facts(make_study())
    text = to_csv(facts)
    assert text.startswith("number,point,attempt,outcome,values.val.accuracy,params.lr,") and text.count("\r\n") == 44
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert tuple(rows[0]) == columns(facts) and len(rows) == 43
    best = rows[facts.front[0]]
    assert float(best["values.val.accuracy"]) == facts.trial(facts.front[0]).values[0]  # in full
    assert best["run"] == f"trials/{facts.front[0]:04}-a0" and best["started"].endswith("+00:00")
    off = next(row for row in rows if row["params.phases.1.rules.0"] == "none")
    assert off["params.fraction"] == "" and off["params.lr"]
    assert rows[7]["outcome"] == "preempted" and rows[7]["retried_as"] == "40" and rows[40]["resumed"]
    early = columns(study_facts(make_study(trials=20, running=8)))
    assert early == columns(facts)


def test_cells_of_text_cannot_be_run_as_formulas() -> None:
    study = make_study(trials=2)
    for start in ("=1+1", "+1", "-1", "@x", "\tx", '=cmd|" /C calc"!A0'):
        attrs = {"point": 9, "attempt": 0, "error": start, "machine": start}
        study.add_trial(create_trial(state=TrialState.FAIL, user_attrs=attrs))
    facts = study_facts(study)
    for row in csv.DictReader(io.StringIO(to_csv(facts), newline="")):
        assert all(not cell or cell[0] not in "=+-@\t" or _is_number(cell) for cell in row.values()), row


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def test_the_generator_agrees_with_its_spec() -> None:
    spec = search_spec()
    for trial in study_facts(make_study()).trials:
        if trial.params:
            spec.trial(trial.params)


POINTS = st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=7)


@settings(max_examples=150, deadline=None)
@given(POINTS)
def test_hypervolumes_count_the_cells_that_are_dominated(points: list[tuple[int, ...]]) -> None:
    def covers(first: tuple[int, ...], other: tuple[int, ...]) -> bool:
        return all(a <= b for a, b in zip(first, other, strict=True))

    def cells(known: list[tuple[int, ...]]) -> int:
        return sum(any(covers(point, cell) for point in known) for cell in product(range(4), repeat=3))

    assert hypervolume(points, (4, 4, 4)) == cells(points)
    assert list(hypervolumes(points, (4, 4, 4))) == [cells(points[: n + 1]) for n in range(len(points))]
    front = [points[index] for index in non_dominated(points)]
    assert len(set(front)) == len(front)
    for point in points:
        assert any(covers(known, point) for known in front)


def test_many_trials_are_summed_up() -> None:
    facts = study_facts(make_study(2, trials=600, seed=3))
    assert facts.totals.done == len(facts.hypervolume) == 600
