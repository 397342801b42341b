"""Fronts of two searches compared at equal CPU-seconds: `python -m benchmarks.search_front FOLDER...`.

Each folder is a study of two objectives or more, named METHOD-SEED, such as tpe-0 and random-0. The volume that the
complete trials dominate is followed over the CPU-seconds spent on them; it is read where the cheapest study of a seed
ended. The reference point is the worst value of each objective in any of the studies, the box ends at the best ones.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from nasir.report.study_facts import StudyFacts
from nasir.search.locate import open_study
from nasir.search.pareto import hypervolume, non_dominated
from nasir.search.summary import losses, study_facts

Loss = tuple[float, ...]
Trace = list[tuple[float, Loss]]
"""CPU-seconds spent once a trial has ended, and its losses."""


def trace(facts: StudyFacts) -> Trace:
    spent, points = 0.0, []
    for trial in facts.finished:
        spent += trial.spent_cpu_seconds or 0.0
        if trial.counts:
            points.append((spent, losses(trial, facts.objectives)))
    return points


def box(points: Sequence[Loss]) -> tuple[Loss, Loss]:
    """The best and the worst value of each objective."""
    columns = list(zip(*points, strict=True))
    return tuple(map(min, columns)), tuple(map(max, columns))


def main(folders: Sequence[str]) -> int:
    if not folders:
        print(__doc__, file=sys.stderr)
        return 2
    traces: dict[str, dict[str, Trace]] = defaultdict(dict)  # by seed, by method
    for folder in map(Path, folders):
        method, _, seed = folder.name.rpartition("-")
        study = open_study(folder)
        facts = study_facts(study.optuna)
        traces[seed][method] = trace(facts)
        objectives = facts.objectives
        study.close()
    best, worst = box([loss for studies in traces.values() for curve in studies.values() for _, loss in curve])

    def share(losses: Sequence[Loss]) -> float:
        """Of the box that the losses dominate."""
        scaled = [tuple((v - b) / (w - b) for v, b, w in zip(point, best, worst, strict=True)) for point in losses]
        return hypervolume(scaled, (1.0,) * len(best))

    rows: list[dict[str, Any]] = []
    for seed, studies in sorted(traces.items()):
        budget = min(curve[-1][0] for curve in studies.values())
        row: dict[str, Any] = {"seed": seed, "cpu_seconds": round(budget, 1)}
        for method, curve in sorted(studies.items()):
            within = [loss for spent, loss in curve if spent <= budget]
            front = sorted(within[index] for index in non_dominated(within))
            named = [{o.metric: o.sign * v for o, v in zip(objectives, loss, strict=True)} for loss in front]
            row[method] = {"hypervolume": round(share(within), 4), "trials": len(within), "front": named}
        rows.append(row)
    methods = sorted({method for studies in traces.values() for method in studies})
    means = {method: round(mean(row[method]["hypervolume"] for row in rows), 4) for method in methods}
    print(json.dumps({"mean_hypervolume": means, "seeds": rows}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
