"""Optuna's pruners from the `pruner:` section."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner

from nasir.spec.model_sampler import Pruner

__all__ = ["make"]


def make(pruner: Pruner) -> BasePruner:
    """The pruner that a spec names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return _make(pruner)


def _make(pruner: Pruner) -> BasePruner:
    options: Any = pruner.chosen
    match pruner.kind:
        case "median" | "percentile":
            percentile = 50.0 if pruner.kind == "median" else options.percentile
            return optuna.pruners.PercentilePruner(
                percentile, options.startup, options.warmup, options.interval, n_min_trials=options.least
            )
        case "successive_halving":
            return optuna.pruners.SuccessiveHalvingPruner(
                min_resource=options.min_resource,
                reduction_factor=options.reduction,
                min_early_stopping_rate=options.early,
                bootstrap_count=options.bootstrap,
            )
        case "hyperband":
            return optuna.pruners.HyperbandPruner(
                min_resource=options.min_resource,
                max_resource=options.max_resource,
                reduction_factor=options.reduction,
                bootstrap_count=options.bootstrap,
            )
        case "wilcoxon":
            return optuna.pruners.WilcoxonPruner(p_threshold=options.p, n_startup_steps=options.startup)
        case "patient":
            return optuna.pruners.PatientPruner(_make(options.of), options.patience, options.min_delta)
    return optuna.pruners.NopPruner()
