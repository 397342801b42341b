"""What a trial is worth: objective values, constraint values and intermediate values, by metric name."""

from __future__ import annotations

import math
from collections.abc import Mapping

from nasir.errors import RunError
from nasir.records import EpochRecord
from nasir.spec.model_search import Search

__all__ = ["constraint_values", "intermediate", "objective_values"]

Metrics = Mapping[str, float]
"""By name: val.*, train.*, macs, params, latency_ms, epochs, cpu_seconds."""


def objective_values(search: Search, metrics: Metrics) -> list[float]:
    """In the order of the objectives. Raises RunError for one that was not measured or is not a number."""
    return [_number("objective", objective.metric, metrics) for objective in search.objectives]


def constraint_values(search: Search, metrics: Metrics, partial: bool = False) -> dict[str, float]:
    """How far each constraint is exceeded, by its text; kept where at most 0. `partial`: only those that are known."""
    return {
        constraint.text: constraint.violation(_number("constraint", constraint.metric, metrics))
        for constraint in search.constraints
        if not partial or math.isfinite(metrics.get(constraint.metric, math.nan))
    }


def _number(role: str, metric: str, metrics: Metrics) -> float:
    if metric not in metrics:
        raise RunError(f"{role} {metric}: the trial did not measure it; it has {', '.join(sorted(metrics))}")
    value = float(metrics[metric])
    if not math.isfinite(value):
        raise RunError(f"{role} {metric}: {value}; the training diverged")
    return value


def intermediate(metric: str, record: EpochRecord) -> float | None:
    """The first objective after an epoch, from its journal record; None where it is known only at the end."""
    value = record.metrics.get(metric, {"macs": record.macs, "params": record.params}.get(metric))
    return None if value is None else float(value)
