"""Studies: made once however many make them, gone on with, refused where trials would not compare."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from searches import SPEC, again, drive, ended, from_nothing, make, processes, relaxed, spec

from nasir.errors import StudyError, UsageError
from nasir.search import study as study_module
from nasir.search.study import Study
from nasir.search.urls import sqlite_url


def test_a_new_study_has_a_ticket_for_each_point_and_says_what_it_is(tmp_path: Path) -> None:
    study = make(tmp_path)
    assert [trial.user_attrs for trial in study.trials()] == [{"point": point, "attempt": 0} for point in range(3)]
    about = study.optuna.user_attrs
    assert about["nasir:points"] == 3
    assert about["nasir:objectives"] == [{"metric": "val.accuracy", "direction": "maximize"}]
    assert [choice["name"] for choice in about["nasir:space"]] == ["lr", "every", "init"]
    assert json.loads((tmp_path / "study.json").read_text()) == {
        "study": "small",
        "storage": sqlite_url(tmp_path / "study.db"),
    }
    same = again(study)
    assert same.spec.to_text() == study.spec.to_text()
    assert same.spec.space.digest == study.spec.space.digest


def test_a_study_from_before_averages_warmed_up_goes_on_as_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = SPEC.replace("    epochs: 3\n", "    epochs: 3\n    ema: {decay: 0.9}\n")
    url = sqlite_url(tmp_path / "study.db")

    def warm(study: Study) -> list[bool]:
        specs = [study.spec.base, study.spec.trial({"lr": 0.1, "every": 1, "init": "zero"})]
        return [plan.ema_warmup for plan in (run_spec.phases[0].training(run_spec) for run_spec in specs)]

    with monkeypatch.context() as patch:
        patch.setattr(study_module, "WARMUP", "nasir:unknown")  # an attribute that studies did not have then
        Study.create(spec("trials: 2", text), url, "old", tmp_path / "old").storage.close()
    for study in (
        Study.open(url, "old", tmp_path / "old"),
        Study.create(spec("trials: 2", text), url, "old", tmp_path / "old"),
    ):
        assert warm(relaxed(study)) == [False, False]
    new = relaxed(Study.create(spec("trials: 2", text), url, "new", tmp_path / "new"))
    assert warm(new) == warm(again(new)) == [True, True]


def test_defaults_come_first(tmp_path: Path) -> None:
    text = SPEC.replace("{choose: {int: [1, 2]}, name: every}", "{choose: {int: [1, 2]}, name: every, default: 2}")
    folder = tmp_path / "study"
    folder.mkdir()
    study = Study.create(spec("trials: 2", text), sqlite_url(folder / "study.db"), "small", folder)
    drive(study)
    assert study.trials()[0].params["every"] == 2


def test_more_trials_add_points_and_fewer_take_none_away(tmp_path: Path) -> None:
    study = make(tmp_path, trials=2)
    assert len(make(tmp_path, trials=4).trials()) == 4
    assert len(make(tmp_path, trials=1).trials()) == 4
    study.add_points(5)
    assert sorted(study.points().points) == [0, 1, 2, 3, 4]
    assert study.optuna.user_attrs["nasir:points"] == 5


GRID = SPEC.replace("float: [0.001, 0.5], log: true", "float: [0.1, 0.3], step: 0.1")


def test_a_grid_has_its_points_each_once(tmp_path: Path) -> None:
    study = Study.create(spec("sampler: grid", GRID), sqlite_url(tmp_path / "study.db"), "small", tmp_path, 100)
    assert len(study.trials()) == 3 * 2 * 2
    assert drive(study) == 0
    points = [tuple(trial.params.values()) for trial in study.trials()]
    assert len(set(points)) == 12
    assert {lr for lr, _, _ in points} == {0.1, 0.2, 0.3}


def test_a_part_of_a_grid_grows_into_the_whole(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "study.db")
    study = Study.create(spec("sampler: grid\ntrials: 5", GRID), url, "small", tmp_path)
    drive(study)
    study.add_points(12)
    drive(study)
    assert len({tuple(trial.params.values()) for trial in study.trials()}) == 12


def test_a_grid_grows_into_the_whole_whatever_its_seed_and_its_order_of_keys(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "study.db")
    turned = GRID.replace("      - every: {choose: {int: [1, 2]}, name: every}\n        do", "      - do").replace(
        "        at_most: 1", "        every: {choose: {int: [1, 2]}, name: every}\n        at_most: 1"
    )
    for search, text in (("trials: 5", GRID), ("trials: 9\nseed: 7", GRID), ("trials: 12\nseed: 8", turned)):
        study = Study.create(spec(f"sampler: grid\n{search}", text), url, "small", tmp_path)
        drive(study)
    assert len(study.trials()) == len({tuple(sorted(trial.params.items())) for trial in study.trials()}) == 12


def test_a_grid_over_a_continuum_is_refused(tmp_path: Path) -> None:
    study = make(tmp_path)
    study.spec = replace(study.spec, search=spec("sampler: grid", GRID).search)
    with pytest.raises(UsageError, match="grid"):
        study.add_points(5)


@pytest.mark.parametrize(
    ("text", "search", "said"),
    [
        (SPEC.replace("int: [1, 2]", "int: [1, 3]"), "trials: 3", r"every: was int 1\.\.2, is int 1\.\.3"),
        (SPEC, "trials: 3\nobjectives: [{minimize: val.loss}]", "search.objectives"),
        (SPEC, "trials: 3\nconstraints: [macs <= 1M]", "search.constraints"),
        (SPEC, "trials: 3\naxis: {macs: 1M}", "search.axis"),
        (SPEC.replace("momentum: 0.9", "momentum: 0.8"), "trials: 3", r"phases\.0\.optimizer\.sgd\.momentum"),
        (SPEC.replace("batch_size: 16", "batch_size: 8"), "trials: 3", r"data\.batch_size: was 16, is 8"),
    ],
)
def test_trials_that_would_not_compare_are_refused(tmp_path: Path, text: str, search: str, said: str) -> None:
    make(tmp_path)
    with pytest.raises(StudyError, match=said) as refused:
        Study.create(spec(search, text), sqlite_url(tmp_path / "study.db"), "small", tmp_path)
    assert "--study" in str(refused.value) and "--out" in str(refused.value)


def test_how_trials_are_chosen_may_change(tmp_path: Path) -> None:
    make(tmp_path)
    study = make(tmp_path, "trials: 3\nsampler: random\npruner: median\nretries: 1")
    assert again(study).spec.search.sampler.kind == "random"
    assert study.optuna.user_attrs["nasir:search"]["retries"] == 1


def test_a_new_study_does_not_mix_its_runs_with_those_of_another(tmp_path: Path) -> None:
    (tmp_path / "trials" / "0000-a0").mkdir(parents=True)
    with pytest.raises(StudyError, match="holds trials of another study"):
        make(tmp_path)


def test_a_study_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    study = make(tmp_path)
    url = study.storage.url.render_as_string()
    with pytest.raises(StudyError, match="no study 'other'; it has 'small'"):
        Study.open(url, "other", tmp_path)


def test_a_study_of_another_program_is_left_alone(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "study.db")
    foreign = optuna.create_study(storage=url, study_name="small", direction="maximize")
    foreign.enqueue_trial({"x": 1})
    with pytest.raises(StudyError, match="not made by nasir"):
        make(tmp_path)
    with pytest.raises(StudyError, match="not made by nasir"):
        Study.open(url, "small", tmp_path)
    assert len(foreign.trials) == 1


def test_a_reader_needs_no_write_permission(tmp_path: Path) -> None:
    study = make(tmp_path)
    study.close()
    file = tmp_path / "study.db"
    file.chmod(0o444)
    try:
        assert len(again(study, writes=False).trials()) == 3
    finally:
        file.chmod(0o644)


def _make(folder: str, trials: int) -> None:
    from_nothing(Path(folder), trials=trials).close()


def test_a_study_made_by_several_processes_at_once_has_each_ticket_once(tmp_path: Path) -> None:
    with processes(3) as pool:
        pool.starmap(_make, [(str(tmp_path), trials) for trials in (4, 4, 4, 6, 6, 6)])
    assert ended(make(tmp_path, trials=4)) == {point: ["WAITING"] for point in range(6)}


def test_a_study_whose_maker_died_is_made_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_module, "SETTLING", 0.5)
    for died in ("_describe", "add_points"):
        folder = tmp_path / died
        with monkeypatch.context() as patch:
            patch.setattr(Study, died, _die)
            with pytest.raises(KeyboardInterrupt):
                make(folder)
        assert ended(make(folder)) == {point: ["WAITING"] for point in range(3)}


def test_a_study_whose_maker_died_is_not_taken_over_for_other_objectives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "SETTLING", 0.1)
    other = "trials: 3\nobjective: {minimize: val.loss}"
    for died, said in (("_describe", "with other objectives .maximize."), ("add_points", "search.objectives.0")):
        with monkeypatch.context() as patch:
            patch.setattr(Study, died, _die)
            with pytest.raises(KeyboardInterrupt):
                make(tmp_path / died)
        with pytest.raises(StudyError, match=said):
            make(tmp_path / died, other)


def _die(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_a_ticket_that_is_there_twice_all_the_same_runs_once(tmp_path: Path) -> None:
    study = make(tmp_path, trials=2)
    study.optuna.enqueue_trial({}, user_attrs={"point": 1, "attempt": 0})
    assert [len(point.surplus) for point in study.points().points.values()] == [0, 1]
    assert drive(study) == 0
    assert ended(study) == {0: ["COMPLETE"], 1: ["COMPLETE", "FAIL"]}
    assert study.trials()[2].user_attrs["duplicate"] is True
