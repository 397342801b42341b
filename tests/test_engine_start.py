"""Rules at the start and the end of phases, refreshed statistics, trials: carried out, journaled, replayed, resumed."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
import warm
from small_runs import HEAD, After, stable, weights, write_spec

import nasir.api
from nasir.api import replay_training
from nasir.cli.main import main
from nasir.errors import Preempted, RunError
from nasir.journal.directory import RunDirectory
from nasir.journal.log import read_journal
from nasir.records import DeclinedRecord, EpochRecord, TrialRecord
from nasir.running.replay import replay_graphs

MOMENTS = """\
phases:
  - repeat: 2
    phases:
      - name: cycle
        epochs: 2
        optimizer: {adam: {lr: 0.01}}
        ema: {decay: 0.9}
        rules:
          - {when: start, do: {insert-block: {init: near_zero}}, where: {stages: [s1]}}
          - {when: start, do: {refresh-norms: {batches: 2}}}
          - {when: end, do: {freeze: {paths: [conv1, bn1], refresh_epochs: 1}}}
          - {when: end, do: unfreeze}
  - name: last
    until: {above: {metric: train.accuracy, value: 0.05}}
    epochs: 3
    reset_optimizer: true
    rules:
      - {when: start, do: {reset-weights: {paths: [fc]}}}
      - {when: end, do: {insert-block: {init: adam, settle_epochs: 1}}, where: {sites: [s2.0]}}
"""
TRIALS = """\
phases:
  - name: grow
    epochs: 2
    optimizer: {sgd: {lr: 0.02, momentum: 0.9}}
    ema: {decay: 0.9}
    rules:
      - every: 1
        do: {insert-block: {init: gaussian}}
        trial: {epochs: 1, metric: train.loss, min_gain: -100}
"""


def moments(folder: Path) -> Path:
    return write_spec(folder, HEAD + MOMENTS)


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in RunDirectory.open(run).effective() if record.kind == kind]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of MOMENTS."""
    folder = tmp_path_factory.mktemp("moments")
    return nasir.api.run(moments(folder), folder / "run").path


def test_rules_act_once_at_the_start_and_the_end_of_each_phase(run: Path) -> None:
    rewrites = [(r.phase, r.epoch, r.pass_name, r.site) for r in records(run, "rewrite")]
    assert rewrites == [
        ("cycle.1", 0, "insert-block", "s1"),
        ("cycle.1", 0, "refresh-norms", "network"),
        ("cycle.1", 2, "freeze", "network"),
        ("cycle.1", 2, "unfreeze", "network"),
        ("cycle.2", 2, "insert-block", "s1"),
        ("cycle.2", 2, "refresh-norms", "network"),
        ("cycle.2", 4, "freeze", "network"),
        ("cycle.2", 4, "unfreeze", "network"),
        ("last", 4, "reset-weights", "network"),
        ("last", 5, "insert-block", "s2.0"),
    ]
    reasons = [r.reason for r in records(run, "decision")]
    assert reasons[0] == "the phase begins; s1 is first, 1 block now"
    assert reasons[1] == "the phase begins; network as a whole"
    assert [r.action for r in records(run, "decision")][-2:] == ["rewrite", "end_phase"]


def test_rewrites_name_the_regions_they_add_and_what_was_done_after(run: Path) -> None:
    rewrites = records(run, "rewrite")
    assert rewrites[0]["added"] == ["s1.1"] and rewrites[0]["removed"] == []
    assert rewrites[1]["refresh"]["batches"] == 2 and rewrites[1]["refresh"]["norms"] > 4
    assert rewrites[1]["refresh"]["delta_logits"] > 0.0  # measured once the statistics have moved
    assert {key: rewrites[2]["refresh"][key] for key in ("batches", "norms")} == {"batches": 5, "norms": 1}
    assert rewrites[9]["settle"]["epochs"] == 1
    order = [r.kind for r in RunDirectory.open(run).effective()]
    assert order[:4] == ["start", "phase", "decision", "rewrite"]


@pytest.mark.slow
def test_replay_rebuilds_every_network_and_trains_alike(run: Path, tmp_path: Path) -> None:
    directory = RunDirectory.open(run)
    assert len(replay_graphs(directory)) == 11
    again, differences = replay_training(directory, tmp_path / "again")
    assert differences == [] and weights(again.path) == weights(run)


SLOW = [pytest.param(calls, marks=pytest.mark.slow) for calls in (1, 4, 9, 14, 25, 27, 32, 39, 43, 46)]


@pytest.mark.parametrize("calls", [2, *SLOW])
def test_a_run_stopped_anywhere_goes_on_as_if_it_had_not_been(run: Path, tmp_path: Path, calls: int) -> None:
    """Among the moments: forward passes of a refresh, settling, the first step after rewrites at a start."""
    with pytest.raises(Preempted):
        nasir.api.run(moments(tmp_path), tmp_path / "run", signals=After(calls))
    done = nasir.api.resume(tmp_path / "run")
    assert stable(done.journal) == stable(RunDirectory.open(run).effective())
    assert weights(done.path) == weights(run)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


KILLS = [("phase", 2), ("rewrite", 5), ("trial", 2)]
MORE = [("phase", 1), ("phase", 3), ("decision", 1), ("decision", 4), ("rewrite", 1), ("rewrite", 9), ("trial", 3)]


@pytest.mark.parametrize(("kind", "nth"), [*KILLS, *(pytest.param(*moment, marks=pytest.mark.slow) for moment in MORE)])
def test_a_run_killed_after_any_record_goes_on_alike(
    run: Path, trial_run: Path, tmp_path: Path, kind: str, nth: int
) -> None:
    reference = trial_run if kind == "trial" else run
    spec = write_spec(tmp_path, HEAD + (TRIALS if kind == "trial" else MOMENTS))
    seen = 0

    def listener(record: dict[str, Any]) -> None:
        nonlocal seen
        seen += record.kind == kind
        if seen == nth:
            seen += 1
            raise Killed

    with pytest.raises(Killed):
        nasir.api.run(spec, tmp_path / "run", listener=listener)
    done = nasir.api.resume(tmp_path / "run")
    assert stable(done.journal) == stable(RunDirectory.open(reference).effective())
    assert weights(done.path) == weights(reference)


# -- sites


def failing(folder: Path, rule: str) -> str:
    text = HEAD + f"phases:\n  - {{name: p, epochs: 1, optimizer: {{sgd: {{lr: 0.1}}}}, rules: [{rule}]}}\n"
    with pytest.raises(RunError) as caught:
        nasir.api.run(write_spec(folder, text), folder / "run")
    return str(caught.value)


def test_a_site_that_is_not_there_is_named_with_the_closest_one(tmp_path: Path) -> None:
    # what looks at weights may leave any blocks: else nothing begins
    grow = "{when: start, do: {prune-channels: {fraction: 0.5}}}"
    error = failing(tmp_path, f"{grow}, {{when: start, do: remove-block, where: {{sites: [s1.7]}}}}")
    assert "names site 's1.7', which remove-block does not have in the network as it is now" in error


def test_labels_to_freeze_that_are_not_there_are_named(tmp_path: Path) -> None:
    # only when the phase begins: a rule at the end of the one before, which looks at weights, might have made the label
    rule = "rules: [{when: end, do: {prune-channels: {fraction: 0.5}}}]"
    text = HEAD + f"phases:\n  - {{name: o, epochs: 1, optimizer: {{sgd: {{lr: 0.1}}}}, {rule}}}\n"
    text += "  - {name: p, epochs: 1, freeze: s1.7}\n"
    with pytest.raises(RunError, match=r"phase 'p': freeze: nothing is labelled 's1\.7' or below it; did you mean"):
        nasir.api.run(write_spec(tmp_path, text), tmp_path / "run")


def test_a_network_that_does_not_fit_into_memory_ends_the_run_with_a_message(tmp_path: Path) -> None:
    error = failing(tmp_path, "{when: start, do: {grow-kernel: {to: 60001}}, where: {sites: [s1]}}")
    assert "grow-kernel at s1, after epoch 0 of phase 'p': the new network does not fit into memory" in error


# -- simulation


def test_a_simulation_acts_at_starts_and_ends_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.csv").write_text("epoch,val.accuracy,train.accuracy\n1,0.5,0.5\n")
    assert main(["check", str(moments(tmp_path)), "--simulate", str(tmp_path / "m.csv"), "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count('"kind": "rewrite"') == 10


# -- trials


@pytest.fixture(scope="module")
def trial_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trials")
    return nasir.api.run(write_spec(folder, HEAD + TRIALS), folder / "run").path


def test_trials_are_journaled_and_the_best_site_is_adopted(trial_run: Path) -> None:
    tried = records(trial_run, "trial")
    assert [record.site for record in tried] == [None, "s1", "s2"]
    best = min(tried[1:], key=lambda record: record.metrics["train.loss"])
    (rewrite,) = records(trial_run, "rewrite")
    assert rewrite["site"] == best["site"] and rewrite["ordinal"] == 1
    assert best["params"] == rewrite["cost"]["params"] > tried[0]["params"]


def test_a_trial_leaves_no_trace_in_what_is_trained_after_it(trial_run: Path, tmp_path: Path) -> None:
    """The run equals one whose rule names the site that was found best."""
    (rewrite,) = records(trial_run, "rewrite")
    plain = TRIALS.replace("        trial: {epochs: 1, metric: train.loss, min_gain: -100}\n", "")
    plain = plain.rstrip("\n") + f"\n        where: {{sites: [{rewrite['site']}]}}\n"
    done = nasir.api.run(write_spec(tmp_path, HEAD + plain), tmp_path / "run")
    plain_metrics, trial_metrics = (
        [r.metrics for r in journal if isinstance(r, EpochRecord)]
        for journal in (done.journal, RunDirectory.open(trial_run).effective())
    )
    assert plain_metrics == trial_metrics and weights(done.path) == weights(trial_run)


def test_where_no_candidate_is_good_enough_the_rule_is_over(tmp_path: Path) -> None:
    text = TRIALS.replace("min_gain: -100", "min_gain: 100, baseline: now").replace("    epochs: 2\n", "")
    text = text.rstrip("\n") + "\n    until: all_frozen\n"
    done = nasir.api.run(write_spec(tmp_path, HEAD + text), tmp_path / "run")
    declined = [record for record in done.journal if isinstance(record, DeclinedRecord)]
    assert [record.site for record in declined] == ["s1", "s2"]
    assert "not more than 100" in declined[0]["reason"] and done.graph.depths() == {"s1": 1, "s2": 1}
    assert [record.site for record in done.journal if isinstance(record, TrialRecord)] == ["s1", "s2"]
    assert sum(isinstance(record, EpochRecord) for record in done.journal) == 1


def test_a_stop_during_trials_resumes_alike(trial_run: Path, tmp_path: Path) -> None:
    for calls in (8, 15):
        folder = tmp_path / str(calls)
        folder.mkdir()
        with pytest.raises(Preempted, match=r"while candidates were tried|stopped after"):
            nasir.api.run(write_spec(folder, HEAD + TRIALS), folder / "run", signals=After(calls))
        done = nasir.api.resume(folder / "run")
        assert stable(done.journal) == stable(RunDirectory.open(trial_run).effective())
        assert weights(done.path) == weights(trial_run)


# -- real processes


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_processes_that_are_killed_at_some_moment_go_on_alike(run: Path, tmp_path: Path, number: int) -> None:
    spec = moments(tmp_path)
    target = tmp_path / "run"
    for wanted in (3, 12, 24):
        command = (
            ["resume", str(target)]
            if (target / "journal.jsonl").is_file()
            else ["run", str(spec), "--out", str(target)]
        )
        child = warm.Process("-m", "nasir", *command, stderr=tmp_path / "errors")
        while child.poll() is None:
            path = target / "journal.jsonl"
            if path.is_file() and len(read_journal(path)[0]) >= wanted:
                child.send_signal(number)
                child.wait()
                break
            time.sleep(0.005)
    done = nasir.api.resume(target)
    assert stable(done.journal) == stable(RunDirectory.open(run).effective())
    assert weights(done.path) == weights(run)
