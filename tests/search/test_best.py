"""Training the winner again: which trial it is, the errors where there is none, and that it is the same training."""

from __future__ import annotations

import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
from optuna.trial import TrialState, create_trial
from small_runs import weights

import nasir
from nasir.errors import StudyError, UsageError
from nasir.journal.directory import RunDirectory
from nasir.search.best import best_trial, resolved_spec, threads_of
from nasir.search.storage import open_storage
from nasir.search.study import Study
from nasir.search.worker import Identity, work
from nasir.spec.search import load_search

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_study import NAME, SPEC, make_study


@cache
def database(objectives: int, trials: int, running: int) -> bytes:
    """The SQLite file of a study; to write one takes longer than all that is asked of it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.db"
        open_storage(f"sqlite:///{file}").close()
        make_study(objectives, trials, url=f"sqlite:///{file}", running=running)
        return file.read_bytes()


def opened(folder: Path, objectives: int = 1, trials: int = 40, running: int = 0) -> Study:
    (folder / "study.db").write_bytes(database(objectives, trials, running))
    return Study.open(f"sqlite:///{folder / 'study.db'}", NAME, folder, writes=False)


def test_the_best_of_one_objective_keeps_the_constraints(tmp_path: Path) -> None:
    study = opened(tmp_path)
    best = best_trial(study)
    assert best.number == study.optuna.best_trial.number
    assert best_trial(study, 0).number == 0  # infeasible, but asked for
    assert threads_of(study, best) is None  # its run is elsewhere
    spec = resolved_spec(study, best)
    assert spec.name == "synthetic-best" and spec.search is None
    assert spec.phases[0].optimizer_plan().lr == best.params["lr"]
    study.close()


def test_several_objectives_need_a_choice_and_the_front_is_named(tmp_path: Path) -> None:
    study = opened(tmp_path, 2)
    with pytest.raises(UsageError) as caught:
        best_trial(study)
    front = {trial.number for trial in study.optuna.best_trials}
    text = str(caught.value)
    assert "val.accuracy and macs have no single best trial" in text
    assert sum(f"--trial {number}: val.accuracy 9" in text for number in front) >= 5
    assert best_trial(study, min(front)).number == min(front)
    study.close()


def test_a_trial_without_a_result_is_refused_with_the_one_that_has_it(tmp_path: Path) -> None:
    study = opened(tmp_path)
    with pytest.raises(UsageError, match=r"trial 7 has no result \(preempted\); its point ended as --trial 40"):
        best_trial(study, 7)
    with pytest.raises(UsageError, match="there is no trial 99; it has 0 to 42"):
        best_trial(study, 99)
    with pytest.raises(UsageError, match="there is no trial -1"):
        best_trial(study, -1)
    study.close()


def test_without_a_winner_the_error_says_what_there_is(tmp_path: Path) -> None:
    study = opened(tmp_path, trials=4, running=4)
    with pytest.raises(StudyError, match=r"no trial is complete yet \(0 of 4 ended\)"):
        best_trial(study)
    with pytest.raises(UsageError, match=r"trial 0 has no result \(running\); wait for it"):
        best_trial(study, 0)
    for violation in (2e6, 1e6):
        study.optuna.add_trial(create_trial(value=0.9, constraints={"macs <= 40M": violation}))
    with pytest.raises(StudyError, match=r"none of 2 .* trial 5 comes nearest \(breaks macs <= 40M\): --trial 5"):
        best_trial(study)
    study.close()


@pytest.mark.slow
def test_the_winner_trained_again_is_the_trial_bit_for_bit(tmp_path: Path) -> None:
    source = tmp_path / "digits.yaml"
    source.write_text(SPEC)
    spec = load_search(source, ["device=cpu", "search.trials=3", "search.pruner=none"])
    study = Study.create(spec, f"sqlite:///{tmp_path / 'study.db'}", spec.name, tmp_path / "study")
    assert work(study, Identity("w0", "0"), say=lambda text: None) == 0
    assert {trial.state for trial in study.trials()} == {TrialState.COMPLETE}
    best = best_trial(study)
    again = nasir.run(resolved_spec(study, best), tmp_path / "again")
    assert threads_of(study, best) == RunDirectory(again.path).env()["threads"]
    study.close()
    known = study.folder / best.user_attrs["run"]
    assert weights(again.path) == weights(known)
    assert again.metrics["val.accuracy"] == best.value
    assert (again.path / "spec.yaml").read_text().splitlines()[1] == "name: synthetic-best"
