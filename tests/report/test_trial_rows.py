"""Trials in progress lines and in the report's table of decisions."""

from __future__ import annotations

from dataclasses import replace

from made_records import made

from nasir.report.history import charts, decision_rows
from nasir.report.progress import line
from nasir.rewriting.rewrite import REMARK

PLACE = {"epoch": 3, "phase": "p", "pass": "select-blocks"}
DECISION = made("decision", {**PLACE, "action": "trial", "rule": "r", "site": None, "reason": "every 3 epochs"})
TRIED = made("trial", {**PLACE, "site": "s1", "metrics": {"train.loss": 1.0, "val.accuracy": 0.5}})
DECLINED = made("declined", {**PLACE, "site": "s1", "reason": "diverged"})
ADOPTED = made("rewrite", {**PLACE, "site": "s2", "preserves": "no", "delta_logits": 0.5, "depths": {"s1": 1}})


def test_progress_says_what_was_tried() -> None:
    assert line(DECISION) == "epoch    3  trial: every 3 epochs"
    assert line(TRIED) == "            tried s1: val.accuracy 0.5"
    assert "tried the network as it is" in line(replace(TRIED, site=None))


def test_progress_and_table_tell_what_a_pass_remarks() -> None:
    remarked = replace(ADOPTED, noted={REMARK: "it starts fresh"})
    assert line(remarked) == f"{line(ADOPTED)}; it starts fresh"
    (row,) = decision_rows([replace(DECISION, action="rewrite", site="s2"), remarked])
    assert row["reason"] == "every 3 epochs; it starts fresh"


def test_the_table_has_a_row_for_the_trial_and_one_for_each_candidate_that_was_declined() -> None:
    first, tried, second = decision_rows([DECISION, TRIED, DECLINED, ADOPTED])
    assert (first["kind"], first["site"], first["action"], first["delta"]) == ("rewrite", "s2", "select-blocks", "0.5")
    assert (tried["action"], tried["site"], tried["reason"]) == ("tried", "s1", "val.accuracy 0.5")
    assert (second["kind"], second["site"], second["reason"]) == ("declined", "s1", "declined: diverged")


def test_a_row_names_the_outermost_regions_that_came_and_went() -> None:
    branches = [path for n in range(6) for path in (f"branches.{n}", f"branches.{n}.s2")]
    decision = replace(DECISION, action="rewrite", site="s2")
    (row,) = decision_rows([decision, replace(ADOPTED, added=branches, removed=["s2", "s2.0"])])
    names = "branches.0, branches.1, branches.2, branches.3 and 2 more"
    assert row["reason"] == f"every 3 epochs; adds {names}; removes s2"


def test_charts_show_the_penalty_and_what_it_leaves_alive() -> None:
    alive = {"channels": 5, "macs": 70, "params": 8}
    epoch = {"phase": "p", "depths": {}, "params": 10, "macs": 100, "lr": 0.1}
    records = [
        made("epoch", {**epoch, "epoch": n, "metrics": {"train.penalty": 0.5 / n}, "alive": alive}) for n in (1, 2)
    ]
    shown = {chart.key: chart for chart in charts(records)}
    assert [line.name for line in shown["macs"].series] == ["MACs", "alive"]
    assert shown["macs"].series[1].points == ((1.0, 70.0), (2.0, 70.0))
    assert shown["penalty"].series[0].points == ((1.0, 0.5), (2.0, 0.25))
    assert shown["alive"].series[0].points == ((1.0, 5.0), (2.0, 5.0))
    plain = charts([made("epoch", {**epoch, "epoch": 1, "metrics": {}})])
    assert {chart.key for chart in plain} == {"params", "macs", "lr"}
    assert all(len(chart.series) == 1 for chart in plain)
