"""What looking at the history costs: policies and progress over long runs, simulated, without training.

    python -m benchmarks.history --out benchmarks/results/history.json

Each run is simulated twice: "incremental" gives the policy the history as the engine does, so that folds go on from
the record before; "from scratch" gives it a plain tuple of the same records. Both must decide alike. From scratch the
time is quadratic in the length, so only the shorter runs are made so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.common import report
from nasir.policy import EvolveOptions, EvolvePolicy, PhasePlan, PhaseView, Plateau, RulePlan, RulesPolicy, simulate
from nasir.policy.base import History, Policy
from nasir.policy.decision import Decision

VIEW = PhaseView(("s1", "s2", "s3"), {"s1": 1, "s2": 1, "s3": 1})
NOISE = [0.01 * ((epoch * 7919) % 13) / 13 for epoch in range(20_000)]
ROWS = [{"val.accuracy": 1 - 0.999**epoch + noise, "seconds": 1.0} for epoch, noise in enumerate(NOISE)]
SCRATCH = 400  # the longest runs that are made from scratch too
Make = Callable[[PhasePlan, int], Policy]


class FromScratch:
    """A policy that folds the whole history at every decision."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def decide(self, history: History, view: PhaseView) -> tuple[Decision, ...]:
        return self.policy.decide(tuple(history), view)


def evolution(individuals: int) -> tuple[PhasePlan, Make]:
    """Regularized evolution: population 50, tournaments of 10, the oldest leaves."""
    options = EvolveOptions(population=50, generations=individuals - 50, select={"tournament": 10})
    plan = PhasePlan("evolve", rules=(RulePlan("grow", "insert-block"),), policy="evolve")
    return plan, lambda plan, seed: EvolvePolicy(plan, seed, options)


def growth(epochs: int) -> tuple[PhasePlan, Make]:
    """A block every 10 epochs, with a plateau of 100 epochs that is asked about each time."""
    rule = RulePlan("grow", "insert-block", every=10, freeze=Plateau(window=100, less_than=-1.0))
    return PhasePlan("train", epochs=epochs, rules=(rule,)), RulesPolicy


def timed(plan: PhasePlan, make: Make) -> tuple[float, list[dict[str, Any]]]:
    """CPU-seconds and records of one simulated run."""
    started = time.process_time()
    records = simulate((plan,), 0, ROWS, VIEW, max_epochs=len(ROWS), make=make)
    return time.process_time() - started, records


def both(kind: Callable[[int], tuple[PhasePlan, Make]], sizes: tuple[int, ...]) -> Mapping[str, Any]:
    """CPU-seconds by size, and records of each run."""
    by_size: dict[str, Any] = {}
    for size in sizes:
        plan, make = kind(size)
        seconds, records = timed(plan, make)
        by_size[str(size)] = {"records": len(records), "incremental_cpu_s": round(seconds, 3)}
        if size <= SCRATCH:
            seconds, again = timed(plan, lambda plan, seed, make=make: FromScratch(make(plan, seed)))
            assert again == records, "the policy decides otherwise from scratch"
            by_size[str(size)]["from_scratch_cpu_s"] = round(seconds, 3)
    return by_size


if __name__ == "__main__":
    figures = {
        "individuals": both(evolution, (100, 400, 1600, 10_000)),
        "epochs": both(growth, (100, 400, 1600, 10_000)),
    }
    report("history", figures)
