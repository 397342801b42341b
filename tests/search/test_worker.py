"""The protocol of workers: whatever dies or comes late, every point ends once."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs
from optuna.trial import TrialState
from searches import SPEC, Killed, again, dies, drive, ended, epoch, make, outcome, quick, silence

from nasir import api
from nasir.errors import DataError, JournalError, Preempted, RunError, SpecError, UsageError
from nasir.journal.directory import RunDirectory
from nasir.records import CheckpointRecord, PrunedRecord, Record
from nasir.running.engine import Signals
from nasir.search import UNFIT, pulse
from nasir.search.study import Study
from nasir.search.trial import Outcome, TrialJob, data_fingerprint, train

Listener = Callable[[Record], None]


def kill(study: Study, name: str = "dead") -> None:
    """A worker that dies in its first trial."""
    with pytest.raises(Killed):
        drive(study, name, dies)


def lost(study: Study, name: str = "dead") -> None:
    """The same, noticed by its supervisor."""
    kill(study, name)
    assert study.reap(name) == 1


def test_every_point_ends_once_and_says_what_it_was(tmp_path: Path) -> None:
    study = make(tmp_path, "trials: 3\nconstraints: [params <= 200, val.accuracy >= 0.1]")
    assert drive(study) == 0
    assert ended(study) == {0: ["COMPLETE"], 1: ["COMPLETE"], 2: ["COMPLETE"]}
    trial = study.trials()[1]
    attrs = trial.user_attrs
    assert attrs["worker"] == "w" and attrs["origin"] == 1 and attrs["run"] == "trials/0001-a0"
    assert attrs["metrics"]["val.accuracy"] == trial.value
    assert attrs["cost"] == {"params": 100, "macs": 1000} and attrs["epochs"] == 3
    assert trial.constraints["params <= 200"] == -0.5
    assert set(trial.intermediate_values) == {1, 2, 3}
    assert drive(study) == 0  # nothing left


@pytest.mark.slow
def test_one_worker_of_one_seed_makes_the_same_points(tmp_path: Path) -> None:
    def points(name: str, slot: str) -> list[dict[str, Any]]:
        study = make(tmp_path / name, "trials: 12\npruner: {median: {startup: 2}}\nsampler: {tpe: {startup: 4}}")
        drive(study, slot=slot)
        return [{**trial.params, "state": trial.state.name} for trial in study.trials()]

    first = points("a", "1.0")
    assert first == points("b", "1.0") != points("c", "1.1")
    assert {point["state"] for point in first} == {"COMPLETE", "PRUNED"}


def test_a_lost_trial_is_tried_again_with_its_choices(tmp_path: Path) -> None:
    study = make(tmp_path)
    lost(study)
    assert drive(study) == 0
    assert ended(study) == {0: ["FAIL", "COMPLETE"], 1: ["COMPLETE"], 2: ["COMPLETE"]}
    first, retry = study.trials()[0], study.trials()[3]
    assert first.user_attrs["lost"] == "its worker died" and "error" not in first.user_attrs
    assert retry.params == first.params
    assert (retry.user_attrs["attempt"], retry.user_attrs["origin"]) == (1, 0)
    assert retry.user_attrs["run"] == "trials/0000-a1"


def test_a_trial_lost_before_its_choices_keeps_its_ticket(tmp_path: Path) -> None:
    study = make(tmp_path, trials=2)
    ledger = study.points()
    assert study.claim("dead", ledger) is not None
    assert study.reap("dead") == 1
    assert drive(study) == 0
    assert ended(study)[0] == ["FAIL", "COMPLETE"]


def test_too_many_losses_fail_a_point_for_good(tmp_path: Path) -> None:
    study = make(tmp_path, "trials: 2\nretries: 1")
    lost(study, "one")
    study.repair(study.points())
    lost(study, "two")
    assert drive(study) == 0
    assert ended(study) == {0: ["FAIL", "FAIL"], 1: ["COMPLETE"]}
    assert study.trials()[2].user_attrs["error"].startswith("its worker died; 2 workers were lost")


def test_a_silent_trial_is_given_up_after_the_grace_and_not_before(tmp_path: Path) -> None:
    study = make(tmp_path, "trials: 1\nheartbeat: {interval: 60, grace: 300}")
    kill(study)
    silence(study, 0, 200)
    assert study.reap_stale() == 0
    silence(study, 0, 101)
    assert study.reap_stale() == 1
    assert study.trials()[0].user_attrs["lost"] == "no sign of life for 300 s"
    assert drive(study) == 0
    assert ended(study) == {0: ["FAIL", "COMPLETE"]}


def test_a_worker_that_dies_right_after_its_claim_is_noticed(tmp_path: Path) -> None:
    study = make(tmp_path, "trials: 1\nheartbeat: {interval: 60, grace: 300}")
    trial = study.trials()[0]
    study.storage.record_heartbeat(trial._trial_id)
    study.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)  # and no word of who
    assert study.reap_stale() == 0
    silence(study, 0, 301)
    assert study.reap_stale() == 1


def test_after_an_outage_the_living_may_speak_first(tmp_path: Path) -> None:
    study = make(tmp_path, "trials: 1\nheartbeat: {interval: 60, grace: 300}")
    kill(study)
    study.storage.stale = lambda study_id: [trial._trial_id for trial in study.trials()]  # type: ignore[method-assign]
    study.storage.recovered = time.monotonic()
    assert study.reap_stale() == 0
    study.storage.recovered = time.monotonic() - 121
    assert study.reap_stale() == 1


def test_a_death_between_fail_and_clone_is_repaired_by_anybody(tmp_path: Path) -> None:
    study = make(tmp_path, trials=1)
    lost(study)  # reap does not clone
    other = again(study)
    assert other.repair(other.points()) and not study.repair(study.points())
    assert ended(study) == {0: ["FAIL", "WAITING"]}


def test_two_repairers_make_two_clones_and_one_runs(tmp_path: Path) -> None:
    study = make(tmp_path, trials=1)
    lost(study)
    other = again(study)
    before, same = study.points(), other.points()
    assert study.repair(before) and other.repair(same)
    assert ended(study) == {0: ["FAIL", "WAITING", "WAITING"]}
    first = study.claim("a", study.points())
    assert first is not None and first.number == 1
    assert other.claim("b", other.points()) is None
    assert other.repair(other.points())
    assert ended(study) == {0: ["FAIL", "RUNNING", "FAIL"]}
    assert study.trials()[2].user_attrs["duplicate"] is True


def test_a_clone_made_late_never_runs(tmp_path: Path) -> None:
    study = make(tmp_path, trials=1)
    lost(study)
    late = again(study)
    ledger = late.points()
    assert drive(study) == 0
    assert late.repair(ledger)  # it read before the point ended
    assert ended(study) == {0: ["FAIL", "COMPLETE", "WAITING"]}
    assert drive(late) == 0
    assert ended(study) == {0: ["FAIL", "COMPLETE", "FAIL"]}


def test_two_workers_that_read_the_same_queue_take_different_trials(tmp_path: Path) -> None:
    study = make(tmp_path, trials=2)
    other = again(study)
    mine, theirs = study.points(), other.points()
    first, second = study.claim("a", mine), other.claim("b", theirs)
    assert first is not None and second is not None and first.number != second.number
    assert study.claim("c", mine) is None


@pytest.mark.parametrize("late", ["at an epoch", "at the end", "as pruned", "with an error", "stopped"])
def test_a_zombie_leaves_the_new_attempt_alone(tmp_path: Path, late: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken for dead while it trains: another worker does the trial; whatever the first does then comes to nothing."""
    monkeypatch.setattr(pulse, "PACE", 0.05)
    study = make(tmp_path, "trials: 1\npruner: {median: {startup: 0}}")

    def slow(job: TrialJob, listener: Listener, signals: Signals) -> Outcome:
        listener(epoch(1, 0.1))
        other = again(study)
        assert other.reap("zombie") == 1
        assert drive(other, "second") == 0
        if late == "at an epoch":
            for number in range(2, 10_000):
                listener(epoch(number, 0.1))
                time.sleep(0.01)
        if late == "as pruned":
            listener(epoch(2, 0.01))
        if late == "with an error":
            raise RunError("diverged")
        if late == "stopped":
            raise Preempted("stopped", 75)
        return outcome(0.1)

    assert drive(study, "zombie", slow) in (0, 75)
    assert ended(study) == {0: ["FAIL", "COMPLETE"]}
    assert study.trials()[0].user_attrs.keys().isdisjoint({"error", "preempted"})
    assert study.trials()[1].user_attrs["worker"] == "second"


def test_a_stopped_trial_is_handed_back_and_does_not_count(tmp_path: Path) -> None:
    study = make(tmp_path, "trials: 2\nretries: 0")

    def stopped(job: TrialJob, listener: Listener, signals: Signals) -> Outcome:
        listener(epoch(1))
        raise Preempted("stopped after 1 epochs", 75)

    for _ in range(3):
        assert drive(study, executor=stopped) == 75
    assert ended(study) == {0: ["FAIL", "FAIL", "FAIL", "WAITING"], 1: ["WAITING"]}
    assert drive(study) == 0
    assert ended(study)[0] == ["FAIL", "FAIL", "FAIL", "COMPLETE"]


def test_a_worker_asked_to_stop_while_idle_stops(tmp_path: Path) -> None:
    study = make(tmp_path, trials=1)
    assert again(study).claim("other", study.points()) is not None
    assert drive(study, signals=Signals(75)) == 75


def test_a_trial_that_cannot_train_fails_alone(tmp_path: Path) -> None:
    study = make(tmp_path)

    def diverges(job: TrialJob, listener: Listener, signals: Signals) -> Outcome:
        if job.point == 1:
            listener(epoch(1))
            raise RunError("loss is nan at step 3; lower the learning rate")
        return quick(job, listener, signals)

    assert drive(study, executor=diverges) == 0
    assert ended(study) == {0: ["COMPLETE"], 1: ["FAIL"], 2: ["COMPLETE"]}
    assert study.trials()[1].user_attrs["error"] == "loss is nan at step 3; lower the learning rate"
    assert study.trials()[1].user_attrs["epochs"] == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_fails_with_its_name(tmp_path: Path, value: float) -> None:
    study = make(tmp_path, "trials: 1\nobjectives: [{minimize: val.loss}]")

    def diverges(job: TrialJob, listener: Listener, signals: Signals) -> Outcome:
        listener(epoch(1, 1 - value))
        return outcome(1 - value)

    assert drive(study, executor=diverges) == 0
    assert "objective val.loss" in study.trials()[0].user_attrs["error"]


def test_a_constraint_without_its_metric_is_named(tmp_path: Path) -> None:
    study = make(tmp_path, "trials: 1\nconstraints: [latency_ms <= 5]")
    assert drive(study) == 0
    assert "constraint latency_ms" in study.trials()[0].user_attrs["error"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        JournalError("not written"),
        DataError("no such file"),
        RunError("no such device"),
    ],
)
def test_a_fault_of_the_machine_is_tried_again_and_stops_its_worker(tmp_path: Path, error: Exception) -> None:
    study = make(tmp_path, "trials: 4\nretries: 3")

    def broken(job: TrialJob, listener: Listener, signals: Signals) -> Outcome:
        raise error

    assert drive(study, "broken", broken) == UNFIT
    assert ended(study)[0][:3] == ["FAIL"] * 3 and ended(study)[1] == ["WAITING"]
    assert drive(study, "sound") == 0
    assert [states[-1] for states in ended(study).values()] == ["COMPLETE"] * 4


def test_data_that_is_not_there_uses_up_no_point(tmp_path: Path) -> None:
    study = make(tmp_path, "trials: 2\nretries: 1")

    def broken(job: TrialJob, listener: Listener, signals: Signals) -> Outcome:
        raise DataError("no such file")

    assert [drive(study, name, broken) for name in ("one", "two")] == [UNFIT, UNFIT]
    assert ended(study)[0] == ["FAIL"] * 6
    assert drive(study, "sound") == 0
    assert [states[-1] for states in ended(study).values()] == ["COMPLETE"] * 2


def test_a_bug_fails_its_trial_and_three_stop_the_worker(tmp_path: Path) -> None:
    study = make(tmp_path, trials=5)
    said: list[str] = []

    def bug(job: TrialJob, listener: Listener, signals: Signals) -> Outcome:
        listener(epoch(1))
        raise ZeroDivisionError("no such luck")

    from nasir.search.worker import Identity, work

    assert work(study, Identity("w", "1.0"), bug, say=said.append) == UNFIT
    assert [states[0] for states in ended(study).values()] == ["FAIL"] * 3 + ["WAITING"] * 2
    assert study.trials()[0].user_attrs["error"] == "ZeroDivisionError: no such luck"
    assert any("Traceback" in line for line in said)


def test_a_pruned_trial_ends_its_point(tmp_path: Path) -> None:
    study = make(tmp_path, "trials: 6\npruner: {median: {startup: 1}}\nconstraints: [params <= 50, epochs <= 9]")

    def worse(job: TrialJob, listener: Listener, signals: Signals) -> Outcome:
        for number in range(1, 4):
            listener(epoch(number, 0.5 - 0.1 * job.point))
        return outcome(0.5 - 0.1 * job.point)

    assert drive(study, executor=worse) == 0
    assert [states for states in ended(study).values()] == [["COMPLETE"], *[["PRUNED"]] * 5]
    pruned = study.trials()[2]
    assert pruned.value == pytest.approx(0.3) and pruned.user_attrs["epochs"] == 1
    assert pruned.constraints == {"params <= 50": 1.0}  # epochs are not known yet


def test_nothing_is_pruned_after_its_last_epoch(tmp_path: Path) -> None:
    study = make(tmp_path, "trials: 3\npruner: {median: {startup: 1}}\nsampler: random")

    def late(job: TrialJob, listener: Listener, signals: Signals) -> Outcome:
        accuracies = [0.1, 0.1, 0.9 - 0.4 * job.point]  # hopeless by the last of three epochs
        for number, accuracy in enumerate(accuracies, start=1):
            listener(epoch(number, accuracy))
        return outcome(accuracies[-1])

    assert drive(study, executor=late) == 0
    assert [states for states in ended(study).values()] == [["COMPLETE"]] * 3


def test_several_objectives_report_nothing(tmp_path: Path) -> None:
    study = make(tmp_path, "trials: 2\nobjectives: [{maximize: val.accuracy}, {minimize: macs}]")
    assert drive(study) == 0
    assert all(trial.values[1] == 1000 and not trial.intermediate_values for trial in study.trials())


def test_curves_lie_on_the_axis_that_was_asked_for(tmp_path: Path) -> None:
    study = make(tmp_path, "trials: 1\naxis: {macs: 15000}")  # an epoch costs 10 samples x 1000
    assert drive(study) == 0
    lr = study.trials()[0].params["lr"]
    best = min(1.0, 2 * lr)
    assert study.trials()[0].intermediate_values == pytest.approx({1: best / 3, 2: best})


def test_an_axis_that_suits_no_trial_ends_the_worker_and_harms_no_point(tmp_path: Path) -> None:
    study = make(tmp_path, "trials: 2\nretries: 0\naxis: {cpu_seconds: 0.00001}")
    with pytest.raises(UsageError, match=r"search\.axis\.cpu_seconds: 1e-05 is too narrow"):
        drive(study)
    assert all(point.open for point in study.points().points.values())


def test_combinations_that_cannot_be_do_not_stop_a_worker(tmp_path: Path) -> None:
    study = make(tmp_path, trials=5)

    def refuses(job: TrialJob, listener: Listener, signals: Signals) -> Outcome:
        raise SpecError("small.yaml:3:1: these do not go together")

    assert drive(study, executor=refuses) == 0
    assert [trial.user_attrs["error"][:10] for trial in study.trials()] == ["small.yaml"] * 5


def test_no_trial_begins_after_the_time_is_over(tmp_path: Path) -> None:
    study = make(tmp_path)
    assert drive(study, until=time.time() - 1) == 0
    assert ended(study) == {point: ["WAITING"] for point in range(3)}


# -- with real training


def real(folder: Path, search: str = "trials: 1\nreuse: {prefixes: false}") -> Study:
    return make(folder, search)


def dies_after(epochs: int) -> Callable[[TrialJob, Listener, Signals], Outcome]:
    """The real training, killed after so many epochs and the checkpoint that follows."""

    def run(job: TrialJob, listener: Listener, signals: Signals) -> Outcome:
        def hear(record: Record) -> None:
            listener(record)
            if isinstance(record, CheckpointRecord) and record.epoch == epochs:
                raise Killed

        return train(job, hear, signals)

    return run


def plain(records: tuple[Record, ...]) -> list[Record]:
    names = ("epoch", "rewrite", "end")
    dropped = ("n", "time", "seconds", "cpu_seconds")
    return [
        {key: value for key, value in record.items() if key not in dropped}
        for record in records
        if record.kind in names
    ]


def test_a_retry_goes_on_at_the_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    alone, study = real(tmp_path / "alone"), real(tmp_path / "study")
    assert drive(alone, executor=train) == 0
    with pytest.raises(Killed):
        drive(study, "dead", dies_after(2))
    study.reap("dead")
    old = RunDirectory(tmp_path / "study/trials/0000-a0")
    before = old.journal_path.read_bytes()
    assert drive(study, executor=train) == 0
    retry = study.trials()[1]
    assert retry.user_attrs["resumed"] == 2 and retry.user_attrs["epochs"] == 3
    assert set(retry.intermediate_values) == {1, 2, 3}
    new = RunDirectory(tmp_path / "study/trials/0000-a1")
    assert plain(new.effective()) == plain(RunDirectory(tmp_path / "alone/trials/0000-a0").effective())
    assert retry.value == alone.trials()[0].value
    assert old.journal_path.read_bytes() == before
    assert [len(list(run.checkpoints.iterdir())) for run in (old, new)] == [0, 1]


@pytest.mark.parametrize("kind", ["end", "checkpoint"])
def test_a_worker_that_dies_when_all_is_trained_leaves_a_whole_trial(tmp_path: Path, kind: str) -> None:
    study = real(tmp_path)

    def dies_late(job: TrialJob, listener: Listener, signals: Signals) -> Outcome:
        def hear(record: Record) -> None:
            listener(record)
            if record.kind == kind and record.get("epoch", 3) == 3:
                raise Killed

        return train(job, hear, signals)

    with pytest.raises(Killed):
        drive(study, "dead", dies_late)
    study.reap("dead")
    assert drive(study, executor=train) == 0
    retry = study.trials()[1]
    assert retry.state == TrialState.COMPLETE and set(retry.intermediate_values) == {1, 2, 3}
    assert retry.user_attrs["resumed"] == retry.user_attrs["epochs"] == 3


def test_without_a_usable_checkpoint_a_retry_starts_anew(tmp_path: Path) -> None:
    def remove(run: Path) -> None:
        shutil.rmtree(run)

    def damage(run: Path) -> None:
        for file in run.glob("checkpoints/*/model.safetensors"):
            file.write_bytes(b"damaged")

    def cut(run: Path) -> None:
        (run / "journal.jsonl").write_text("")

    def garble(run: Path) -> None:
        (run / "journal.jsonl").write_text("no json\n")

    for harm in (remove, damage, cut, garble):
        folder = tmp_path / harm.__name__
        study = real(folder)
        with pytest.raises(Killed):
            drive(study, "dead", dies_after(2))
        harm(folder / "trials/0000-a0")
        study.reap("dead")
        assert drive(study, executor=train) == 0
        assert ended(study) == {0: ["FAIL", "COMPLETE"]}
        assert "resumed" not in study.trials()[1].user_attrs
        assert len(RunDirectory(folder / "trials/0000-a1").effective()) > 5


def test_a_pruned_run_says_so_and_keeps_no_checkpoint(tmp_path: Path) -> None:
    study = make(tmp_path, "trials: 4\nsampler: random\npruner: {median: {startup: 1}}\nreuse: {prefixes: false}")
    assert drive(study, executor=train) == 0
    pruned = [trial for trial in study.trials() if trial.state == TrialState.PRUNED]
    assert pruned
    run = RunDirectory(tmp_path / pruned[0].user_attrs["run"])
    assert isinstance(run.records()[-1], PrunedRecord)
    assert run.records()[-1]["epoch"] == pruned[0].user_attrs["epochs"]
    assert run.report_path.exists() and not list(run.checkpoints.iterdir())


def noted(job: TrialJob, listener: Listener, signals: Signals) -> Outcome:
    """A quick training that notes its data, as a real one does."""
    return replace(quick(job, listener, signals), notes={"data": data_fingerprint(job.spec)})


def test_equal_networks_and_training_are_trained_once(tmp_path: Path) -> None:
    study = make(tmp_path, "trials: 4\nsampler: random")
    assert drive(study, executor=noted) == 0
    params = study.trials()[0].params
    study.optuna.enqueue_trial(params, user_attrs={"point": 4, "attempt": 0})

    def never(job: TrialJob, listener: Listener, signals: Signals) -> Outcome:
        raise AssertionError("trained again")

    assert drive(study, executor=never) == 0
    first, same = study.trials()[0], study.trials()[4]
    assert same.user_attrs["cached_from"] == 0 and same.values == first.values
    assert same.intermediate_values == first.intermediate_values
    kept = ("metrics", "cost", "depths", "epochs", "cpu_seconds", "run", "architecture", "data")
    assert [same.user_attrs[key] for key in kept] == [first.user_attrs[key] for key in kept]
    assert not (tmp_path / "trials" / "0004-a0").exists()


def write_arrays(path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    parts = (("train", 48), ("test", 12))
    arrays = {f"x_{part}": random.normal(size=(count, 3, 8, 8)).astype(np.float32) for part, count in parts}
    np.savez(path, **arrays, **{f"y_{part}": np.arange(count) % 3 for part, count in parts})


def test_equal_trials_are_trained_again_where_the_data_have_changed_under_their_name(tmp_path: Path) -> None:
    write_arrays(tmp_path / "data.npz", 0)
    synthetic = SPEC[SPEC.index("data:") : SPEC.index("  batch_size")]
    own = f"data:\n  dataset: npz\n  options: {{path: {tmp_path / 'data.npz'}}}\n"
    study = make(tmp_path, "trials: 1\nsampler: random", text=SPEC.replace(synthetic, own).replace("24", "12"))
    assert drive(study, executor=train) == 0
    first = study.trials()[0]
    for point, seed in ((1, 0), (2, 1), (3, 1)):
        write_arrays(tmp_path / "data.npz", seed)
        study.optuna.enqueue_trial(first.params, user_attrs={"point": point, "attempt": 0})
        assert drive(study, executor=train) == 0
    _, same, changed, repeated = study.trials()
    assert same.user_attrs["cached_from"] == 0 and repeated.user_attrs["cached_from"] == 2
    assert "cached_from" not in changed.user_attrs and changed.values != first.values


def test_a_run_whose_data_change_in_between_counts_for_neither(tmp_path: Path) -> None:
    write_arrays(tmp_path / "data.npz", 0)
    text = small_runs.SPEC.replace("dataset: synthetic", "dataset: npz").replace("validation: 24", "validation: 12")
    given = text[text.index("  options:") : text.index("  batch_size")]
    (tmp_path / "own.yaml").write_text(text.replace(given, "  options: {path: data.npz}\n"))
    with pytest.raises(Preempted):
        api.run(tmp_path / "own.yaml", tmp_path / "run", signals=small_runs.After(9), note_data=True)
    noted = RunDirectory.open(tmp_path / "run").env()["data"]
    shutil.copytree(tmp_path / "run", tmp_path / "same")
    heard: list[str] = []
    api.resume(tmp_path / "same", notice=heard.append, note_data=True)
    assert not heard and RunDirectory.open(tmp_path / "same").env()["data"] == noted
    write_arrays(tmp_path / "data.npz", 1)
    api.resume(tmp_path / "run", notice=heard.append, note_data=True)
    assert any("data are not those" in text for text in heard)
    assert RunDirectory.open(tmp_path / "run").env()["data"] is None


def test_equal_trials_are_trained_again_where_results_are_measured(tmp_path: Path) -> None:
    study = make(tmp_path, "trials: 1\nconstraints: [cpu_seconds <= 100]")
    assert drive(study) == 0
    study.optuna.enqueue_trial(study.trials()[0].params, user_attrs={"point": 1, "attempt": 0})
    assert drive(study) == 0
    assert "cached_from" not in study.trials()[1].user_attrs


def test_a_stored_prefix_counts_as_trained_but_not_as_spent(tmp_path: Path) -> None:
    text = "trials: 1\nreuse: {prefixes: true, architectures: false}"
    study = make(tmp_path, text)
    assert drive(study, executor=train) == 0
    other = "gaussian" if study.trials()[0].params["init"] == "zero" else "zero"
    params = {**study.trials()[0].params, "init": other}
    study.optuna.enqueue_trial(params, user_attrs={"point": 1, "attempt": 0})
    assert drive(study, executor=train) == 0
    trial = study.trials()[1]
    shared = trial.user_attrs["prefix"]["epochs"]
    assert shared >= 1 and trial.user_attrs["epochs"] == 3 and set(trial.intermediate_values) == {1, 2, 3}
    assert "resumed" not in trial.user_attrs
    for step in range(1, shared + 1):
        assert trial.intermediate_values[step] == study.trials()[0].intermediate_values[step]


def test_latency_is_measured_where_it_is_asked_for(tmp_path: Path) -> None:
    study = make(tmp_path, "trials: 1\nobjectives: [{minimize: latency_ms}]\nconstraints: [latency_ms <= 1000]")
    assert drive(study, executor=train) == 0
    trial = study.trials()[0]
    assert trial.value == trial.user_attrs["metrics"]["latency_ms"] > 0
    assert -1 < trial.constraints["latency_ms <= 1000"] < 0
