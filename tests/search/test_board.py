"""What the supervisor asks of a study and does to it."""

from __future__ import annotations

from pathlib import Path

import pytest
import searches
from optuna.trial import TrialState

from nasir.search import board
from nasir.search.board import StudyBoard
from nasir.search.summary import study_facts
from nasir.search.watch import Watch


def made(study: searches.Study) -> StudyBoard:
    return StudyBoard(study, Watch(study.trials(), study_facts(study.optuna).objectives, 3, lambda text: None))


def test_a_dead_worker_is_known_by_its_name_and_its_trial_waits_again(tmp_path: Path) -> None:
    study = searches.make(tmp_path)
    view = made(study)
    study.claim("one", study.points())
    study.claim("two", study.points())
    assert view.began("one") and not view.began("three")
    view.reap(["one"])
    states = {trial.user_attrs.get("worker"): trial.state for trial in study.trials() if trial.user_attrs.get("worker")}
    assert states == {"one": TrialState.FAIL, "two": TrialState.RUNNING}
    retries = [trial for trial in study.trials() if trial.user_attrs["attempt"] == 1]
    assert [(trial.state, trial.user_attrs["point"]) for trial in retries] == [(TrialState.WAITING, 0)]
    study.close()


def test_a_trial_that_a_worker_took_with_its_last_breath_waits_for_no_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = searches.make(tmp_path)
    view = made(study)
    taken = study.trials()[0]
    study.storage.record_heartbeat(taken._trial_id)
    study.storage.set_trial_state_values(taken._trial_id, TrialState.RUNNING)  # and killed before it wrote its name
    assert view.watch() == 0 and study.trials()[0].state == TrialState.RUNNING
    monkeypatch.setattr(board, "NAMELESS", -1.0)
    study.claim("one", study.points())
    view.watch()
    trials = study.trials()
    assert trials[0].state == TrialState.FAIL and "died" in trials[0].user_attrs["lost"]
    assert trials[1].state == TrialState.RUNNING  # its worker has a name
    assert trials[-1].state == TrialState.WAITING and trials[-1].user_attrs["attempt"] == 1
    study.close()
