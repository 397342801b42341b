"""Optuna's samplers from the `sampler:` section, and the suggestions they make for a choice."""

from __future__ import annotations

import hashlib
import uuid
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from nasir.errors import UsageError
from nasir.spec.choices import Choice, FloatRange, IntRange, Value
from nasir.spec.model_search import Search

__all__ = ["make", "suggest", "worker_seed"]

NEEDS = {"gp": ("scipy",), "cmaes": ("cmaes",), "qmc": ("scipy",)}


def worker_seed(seed: int, slot: str | None = None) -> int:
    """The sampler's seed in one worker process: of `slot`, or a random one.

    Samplers keep no state in the storage: with the seed of the study itself, every worker, and each restart of one,
    would suggest the points that another has tried. `slot`: place and restart of a supervised worker, such as "1.0".
    """
    name = slot if slot is not None else uuid.uuid4().hex
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "big")


def make(search: Search, study_seed: int, seed: int) -> BaseSampler:
    """The sampler of one worker; `seed` is from `worker_seed`, `study_seed` what all workers share.

    Raises UsageError where a package that it needs is not installed.
    """
    kind: str = search.sampler.kind
    for package in NEEDS.get(kind, ()):
        if find_spec(package) is None:
            raise UsageError(f"search.sampler: {kind} needs the package {package}: pip install 'nasir[search]'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return MAKERS[kind](search.sampler.chosen, study_seed, seed)


def _tpe(options: Any, study_seed: int, seed: int) -> BaseSampler:
    return optuna.samplers.TPESampler(
        n_startup_trials=options.startup,
        n_ei_candidates=options.candidates,
        multivariate=options.multivariate,
        group=options.group,
        constant_liar=options.constant_liar,
        seed=seed,
    )


def _gp(options: Any, study_seed: int, seed: int) -> BaseSampler:
    return optuna.samplers.GPSampler(
        n_startup_trials=options.startup,
        deterministic_objective=options.deterministic,
        warn_independent_sampling=False,
        seed=seed,
    )


def _cmaes(options: Any, study_seed: int, seed: int) -> BaseSampler:
    return optuna.samplers.CmaEsSampler(
        n_startup_trials=options.startup,
        sigma0=options.sigma,
        popsize=options.population,
        use_separable_cma=options.separable,
        with_margin=options.margin,
        consider_pruned_trials=options.pruned,
        warn_independent_sampling=False,
        seed=seed,
    )


def _breeding(options: Any, seed: int) -> dict[str, Any]:
    crossings = {
        "uniform": "UniformCrossover",
        "blxalpha": "BLXAlphaCrossover",
        "sbx": "SBXCrossover",
        "vsbx": "VSBXCrossover",
        "spx": "SPXCrossover",
        "undx": "UNDXCrossover",
    }
    return {
        "population_size": options.population,
        "crossover": getattr(optuna.samplers.nsgaii, crossings[options.crossover])(),
        "crossover_prob": options.crossover_probability,
        "swapping_prob": options.swapping_probability,
        "mutation_prob": options.mutation_probability,
        "seed": seed,
    }


def _nsga2(options: Any, study_seed: int, seed: int) -> BaseSampler:
    return optuna.samplers.NSGAIISampler(**_breeding(options, seed))


def _nsga3(options: Any, study_seed: int, seed: int) -> BaseSampler:
    return optuna.samplers.NSGAIIISampler(dividing_parameter=options.divisions, **_breeding(options, seed))


def _random(options: Any, study_seed: int, seed: int) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)  # of a grid too: its points are in the tickets


class _ByPoint(optuna.samplers.QMCSampler):
    """One sequence for all workers, each point at its own place in it.

    Optuna counts places in the storage by a read and a write, between which another worker may read the same.
    """

    _place = 0

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._place = trial.user_attrs["point"]
        return super().sample_relative(study, trial, search_space)

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._place


def _qmc(options: Any, study_seed: int, seed: int) -> BaseSampler:
    return _ByPoint(
        qmc_type=options.sequence,
        scramble=options.scramble,
        seed=study_seed,
        independent_sampler=optuna.samplers.RandomSampler(seed=seed),
        warn_asynchronous_seeding=False,
        warn_independent_sampling=False,
    )


MAKERS: dict[str, Callable[[Any, int, int], BaseSampler]] = {
    "tpe": _tpe,
    "gp": _gp,
    "cmaes": _cmaes,
    "nsga2": _nsga2,
    "nsga3": _nsga3,
    "random": _random,
    "grid": _random,
    "qmc": _qmc,
}


def suggest(trial: optuna.Trial, choice: Choice) -> Value:
    """The value of a choice in a trial: fixed by its ticket, of an earlier attempt, or sampled."""
    domain = choice.domain
    if isinstance(domain, FloatRange):
        return trial.suggest_float(choice.name, domain.low, domain.high, step=domain.step, log=domain.log)
    if isinstance(domain, IntRange):
        return trial.suggest_int(choice.name, domain.low, domain.high, step=domain.step, log=domain.log)
    return trial.suggest_categorical(choice.name, domain.ids)
