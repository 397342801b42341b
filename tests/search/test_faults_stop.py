"""A search that is stopped, killed, suspended or cut off from its database goes on, and nothing is done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import warm
from held import Hold
from living import living, status
from optuna.trial import TrialState
from postgres import Server
from small_searches import (
    Search,
    assert_equals_alone,
    assert_exactly_once,
    assert_resumed,
    silence,
    training,
    trials_of,
    until,
    write_search,
)

from nasir.journal.directory import RunDirectory
from nasir.records import CheckpointRecord


def database(folder: Path) -> str:
    return f"sqlite:///{folder / 'study.db'}"


def go_on(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return warm.nasir("search", *map(str, (folder, *arguments)))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_stops_all_workers_with_checkpoints_and_the_search_goes_on(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    folder, hold = tmp_path / "study", Hold(tmp_path)
    spec = write_search(tmp_path, hold, trials=4, epochs=5)
    with Search(tmp_path / "log", spec, "--workers", 2, "--out", folder) as search:
        until(lambda: len(training(search, folder)) == 2, search)
        workers = search.workers()
        search.process.send_signal(number)
        assert search.wait() == code, search.said()
        assert not any(status(pid) for pid in workers)
        said = search.said()
        assert "trials left" in said and "best trial" not in said and "Traceback" not in said
        assert (folder / "report.html").exists()  # also after a stop
        before = trials_of(database(folder))
        stopped = [trial for trial in before if trial.user_attrs.get("preempted")]
        assert len(stopped) == 2 and all(trial.state == TrialState.FAIL for trial in stopped)
        waiting = {(t.user_attrs["point"], t.user_attrs["attempt"]) for t in before if t.state == TrialState.WAITING}
        assert {(trial.user_attrs["point"], trial.user_attrs["attempt"] + 1) for trial in stopped} <= waiting
        for trial in stopped:
            assert isinstance(RunDirectory(folder / trial.user_attrs["run"]).records()[-1], CheckpointRecord)
        hold.release()
        done = go_on(folder, "--workers", 2, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["done"] == 4
        trials = trials_of(database(folder))
        assert_exactly_once(trials, 4)
        resumed = assert_resumed(trials, folder)
        assert len(resumed) == 2
        assert_equals_alone(resumed[0], folder, tmp_path / "alone")


@pytest.mark.slow
def test_a_second_signal_ends_a_search_at_once_and_its_trials_are_given_back(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    spec = write_search(tmp_path, Hold(tmp_path), trials=2, epochs=2)
    with Search(tmp_path / "log", spec, "--workers", 2, "--out", folder) as search:
        until(lambda: len(training(search, folder)) == 2, search)
        workers = search.workers()
        for pid in workers:
            search.suspend(pid, folder / "study.db")  # so that they cannot leave by themselves
        search.process.send_signal(signal.SIGINT)
        until(lambda: "once more to stop at once" in search.said(), search)
        search.process.send_signal(signal.SIGINT)
        assert search.wait() == 130, search.said()
        assert not any(status(pid) for pid in workers)
        states = [trial.state for trial in trials_of(database(folder))]
        assert TrialState.RUNNING not in states and states.count(TrialState.WAITING) == 2


@pytest.mark.slow
def test_workers_of_a_killed_supervisor_stop_and_the_search_goes_on(tmp_path: Path) -> None:
    folder, hold = tmp_path / "study", Hold(tmp_path)
    spec = write_search(tmp_path, hold, trials=4, epochs=5)
    with Search(tmp_path / "log", spec, "--workers", 2, "--out", folder) as search:
        until(lambda: len(training(search, folder)) == 2, search)
        workers = search.workers()
        search.process.kill()
        search.process.wait()
        until(lambda: not any(living(pid) for pid in workers))
        hold.release()
        assert TrialState.RUNNING not in {trial.state for trial in trials_of(database(folder))}
        done = go_on(folder, "--workers", 2)
        assert done.returncode == 0, done.stderr
        assert "best trial:" in done.stdout and f"nasir run --best {folder}" in done.stdout
        trials = trials_of(database(folder))
        assert_exactly_once(trials, 4)
        assert len(assert_resumed(trials, folder)) == 2


@pytest.mark.slow
def test_a_worker_that_wakes_up_after_it_was_taken_for_dead_touches_nothing(tmp_path: Path) -> None:
    folder, hold = tmp_path / "study", Hold(tmp_path)
    spec = write_search(tmp_path, hold, trials=2, epochs=16, heartbeat="{interval: 1, grace: 300}")
    with Search(tmp_path / "log", spec, "--workers", 2, "--out", folder) as search:
        until(lambda: len(training(search, folder)) == 2, search)
        sleeper, run = next(iter(training(search, folder).items()))
        search.suspend(sleeper, folder / "study.db")
        (asleep,) = (t for t in trials_of(database(folder)) if folder / t.user_attrs.get("run", "") == run)
        silence(folder / "study.db", asleep, 3600)
        hold.release()
        # the other worker takes the trial for dead and finishes both
        lost = until(lambda: [t for t in trials_of(database(folder)) if t.user_attrs.get("lost")], search)[0]
        until(
            lambda: any(
                t.user_attrs.get("attempt") == 1 and t.state == TrialState.COMPLETE for t in trials_of(database(folder))
            ),
            search,
        )
        assert lost.number == asleep.number
        before = (folder / lost.user_attrs["run"] / "journal.jsonl").read_bytes()
        finished = [trial for trial in trials_of(database(folder)) if trial.state.is_finished()]
        attempts = {trial.number: (trial.state, trial.values) for trial in finished}
        # asked while it sleeps: awake, it may end its epoch and save it before it learns of its loss
        resumed = assert_resumed(finished, folder)
        os.kill(sleeper, signal.SIGCONT)
        assert search.wait() == 0, search.said()
        after = (folder / lost.user_attrs["run"] / "journal.jsonl").read_bytes()
        assert after.startswith(before)
        assert b'"kind":"end"' not in after, "it went on to its end although its trial was taken away"
        trials = trials_of(database(folder))
        assert attempts.items() <= {t.number: (t.state, t.values) for t in trials}.items()
        assert_exactly_once(trials, 2)
        assert resumed[0].user_attrs["origin"] == lost.number
        assert_equals_alone(resumed[0], folder, tmp_path / "alone")


@pytest.mark.slow
def test_a_database_server_that_restarts_in_mid_study_costs_nothing(postgres: Server, tmp_path: Path) -> None:
    url, folder, hold = postgres.new_database(), tmp_path / "study", Hold(tmp_path)
    spec = write_search(tmp_path, hold, trials=4, epochs=5)
    with Search(tmp_path / "log", spec, "--workers", 2, "--out", folder, url=url) as search:
        until(lambda: len(training(search, folder)) == 2, search)
        postgres.stop("immediate")
        hold.release()
        try:
            until(lambda: "out of reach" in search.said(), search)
        finally:
            postgres.start()
        assert search.wait() == 0, search.said()
        trials = trials_of(url)
        assert_exactly_once(trials, 4)
        assert len(trials) == 4, "an attempt was lost to the outage"
        assert "the storage answers again" in search.said()


@pytest.mark.slow
def test_a_truncated_database_is_refused_and_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    spec = write_search(tmp_path, trials=2)
    with Search(tmp_path / "log", spec, "--out", folder, "--timeout", "0.001") as search:
        search.wait()
        path = folder / "study.db"
        whole = path.read_bytes()
        for size in (50, len(whole) // 2):
            path.write_bytes(whole[:size])
            for arguments in ((folder,), (spec, "--out", folder), (folder, "--report")):
                done = warm.nasir("search", *map(str, arguments))
                assert done.returncode == 1 and "truncated" in done.stderr and "Traceback" not in done.stderr
            assert path.read_bytes() == whole[:size]
        path.write_bytes(whole)
        assert go_on(folder, "--report").returncode == 0
