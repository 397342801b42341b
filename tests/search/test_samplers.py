"""Samplers and pruners: each name of a spec makes Optuna's, works on a small study, and says what it needs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from searches import SPEC, drive, ended, make, spec

from nasir.errors import UsageError
from nasir.search import pruners, samplers
from nasir.search.storage import StudyStorage
from nasir.search.study import Study
from nasir.search.urls import sqlite_url


def needs(kind: str) -> None:
    for package in samplers.NEEDS.get(kind, ()):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (pip install 'nasir[search]')")


@pytest.mark.parametrize(
    ("sampler", "made"),
    [
        ("tpe", "TPESampler"),
        pytest.param(
            "{tpe: {startup: 2, multivariate: true, group: true, constant_liar: false}}",
            "TPESampler",
            marks=pytest.mark.slow,
        ),
        ("{gp: {startup: 2, deterministic: true}}", "GPSampler"),
        ("{cmaes: {startup: 2, population: 4, margin: true, pruned: true}}", "CmaEsSampler"),
        ("{nsga2: {population: 4, crossover: sbx}}", "NSGAIISampler"),
        pytest.param("{nsga3: {population: 4, divisions: 2}}", "NSGAIIISampler", marks=pytest.mark.slow),
        ("random", "RandomSampler"),
        ("{qmc: {sequence: halton}}", "QMCSampler"),
    ],
)
def test_each_sampler_works_through_a_study(tmp_path: Path, sampler: str, made: str) -> None:
    needs(sampler.strip("{").partition(":")[0])
    constraints = "" if "cmaes" in sampler else "\nconstraints: [val.accuracy <= 0.4]"
    study = make(tmp_path, f"trials: 8\nsampler: {sampler}{constraints}")
    assert drive(study) == 0
    assert made in [kind.__name__ for kind in type(study.optuna.sampler).mro()]
    assert all(states == ["COMPLETE"] for states in ended(study).values())
    if not made.startswith("NSGA"):  # children may equal their parents
        assert len({trial.params["lr"] for trial in study.trials()}) == 8


@pytest.mark.parametrize(
    ("sampler", "early"),
    [
        ("tpe", "startup"),
        ("gp", "startup"),
        ("nsga2", "population"),
        pytest.param("nsga3", "population", marks=pytest.mark.slow),
    ],
)
def test_samplers_of_several_objectives(tmp_path: Path, sampler: str, early: str) -> None:
    """Also of the trials that come after the early ones, whose points are drawn at random."""
    needs(sampler)
    objectives = "objectives: [{maximize: val.accuracy}, {minimize: macs}]"
    study = make(tmp_path, f"trials: 6\nsampler: {{{sampler}: {{{early}: 3}}}}\n{objectives}")
    assert drive(study) == 0
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials())


def test_a_retry_stays_in_its_generation(tmp_path: Path) -> None:
    study = make(tmp_path, "trials: 6\nsampler: {nsga2: {population: 2}}")
    ledger = study.points()
    claimed = study.claim("dead", ledger)
    assert claimed is not None
    storage = study.storage
    storage.set_trial_system_attr(claimed._trial_id, "NSGAIISampler:generation", 0)
    storage.set_trial_system_attr(claimed._trial_id, "constraints:macs <= 1", 0.5)
    storage.set_trial_system_attr(claimed._trial_id, "completed_rung_0", 0.5)
    study.reap("dead")
    study.repair(study.points())
    assert study.trials()[-1].system_attrs == {"NSGAIISampler:generation": 0}


@pytest.mark.parametrize("kind", ["gp", "cmaes", "qmc"])
def test_a_missing_package_is_named_with_its_remedy(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=rf"{kind} needs the package .*pip install 'nasir\[search\]'"):
        samplers.make(spec(f"sampler: {kind}").search, 0, 1)


def test_seeds_differ_by_place_and_restart_and_agree_with_themselves() -> None:
    seeds = {samplers.worker_seed(study, slot) for study in (0, 1) for slot in ("1.0", "1.1", "2.0")}
    assert len(seeds) == 6 and all(0 <= seed < 2**32 for seed in seeds)
    assert samplers.worker_seed(0, "1.0") == samplers.worker_seed(0, "1.0")
    assert samplers.worker_seed(0) != samplers.worker_seed(0)


def test_workers_share_one_quasi_random_sequence(tmp_path: Path) -> None:
    needs("qmc")
    study = make(tmp_path, "trials: 8\nsampler: {qmc: {sequence: sobol}}", trials=4)
    drive(study, slot="1.0")
    study.add_points(8)
    drive(study, slot="2.0")
    others = make(tmp_path / "alone", "trials: 8\nsampler: {qmc: {sequence: sobol}}")
    drive(others, slot="3.0")
    # the first point is sampled before the space is known
    assert [trial.params for trial in study.trials()[1:]] == [trial.params for trial in others.trials()[1:]]


def test_workers_that_sample_at_once_take_different_places_of_the_sequence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("qmc")
    monkeypatch.setattr(StudyStorage, "set_study_system_attr", lambda *given: None)  # as if none had written yet
    study = make(tmp_path, "trials: 5\nsampler: qmc")
    drive(study)
    assert len({trial.params["lr"] for trial in study.trials()}) == 5


def test_only_active_choices_are_asked(tmp_path: Path) -> None:
    text = SPEC.replace(
        "momentum: 0.9}}",
        "momentum: {choose: {cases: {off: 0.0, on: {choose: {float: [0.5, 0.9]}, name: how}}}, name: m}}}",
    )
    study = Study.create(spec("trials: 12\nsampler: random", text), sqlite_url(tmp_path / "s.db"), "small", tmp_path)
    assert drive(study) == 0
    params_of_trials = [trial.params for trial in study.trials()]
    assert {params["m"] for params in params_of_trials} == {"off", "on"}
    assert all(("how" in params) == (params["m"] == "on") for params in params_of_trials)


@pytest.mark.parametrize(
    ("pruner", "made", "fields"),
    [
        ("none", "NopPruner", {}),
        ("median", "PercentilePruner", {"_percentile": 50.0, "_n_startup_trials": 5}),
        pytest.param(
            "{percentile: {percentile: 10, warmup: 3}}",
            "PercentilePruner",
            {"_percentile": 10, "_n_warmup_steps": 3},
            marks=pytest.mark.slow,
        ),
        (
            "{hyperband: {min_resource: 2, max_resource: 9}}",
            "HyperbandPruner",
            {"_min_resource": 2, "_max_resource": 9},
        ),
        ("{successive_halving: {reduction: 3}}", "SuccessiveHalvingPruner", {"_reduction_factor": 3}),
        ("{wilcoxon: {p: 0.2}}", "WilcoxonPruner", {"_p_threshold": 0.2}),
        pytest.param("{patient: {of: median, patience: 4}}", "PatientPruner", {"_patience": 4}, marks=pytest.mark.slow),
    ],
)
def test_each_pruner_is_made_as_told_and_works(tmp_path: Path, pruner: str, made: str, fields: dict[str, Any]) -> None:
    if "wilcoxon" in pruner:
        pytest.importorskip("scipy", reason="scipy is not installed (pip install 'nasir[search]')")
    study = make(tmp_path, f"trials: 9\nsampler: random\npruner: {pruner}")
    made_pruner = pruners.make(study.spec.search.pruner)
    assert type(made_pruner).__name__ == made
    assert {name: getattr(made_pruner, name) for name in fields} == fields
    assert drive(study) == 0
    states = {trial.state for trial in study.trials()}
    assert states <= {TrialState.COMPLETE, TrialState.PRUNED}


def test_halving_promotes_by_what_other_trials_reached(tmp_path: Path) -> None:
    search = "trials: 12\nsampler: random\npruner: {successive_halving: {min_resource: 1, reduction: 2}}"
    study = make(tmp_path, search)
    assert drive(study) == 0
    pruned = [trial for trial in study.trials() if trial.state == TrialState.PRUNED]
    whole = [trial for trial in study.trials() if trial.state == TrialState.COMPLETE]
    assert pruned and whole
    assert max(trial.params["lr"] for trial in whole) == max(trial.params["lr"] for trial in study.trials())
    assert all("completed_rung_0" in trial.system_attrs for trial in study.trials())


def test_optuna_stays_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    drive(make(tmp_path))
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == optuna.logging.ERROR
