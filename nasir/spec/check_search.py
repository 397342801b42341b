"""What `search:` must satisfy beyond its shape: what Optuna can do with these objectives, and with this space."""

from __future__ import annotations

from nasir.options import Path, dotted
from nasir.spec.check import Findings
from nasir.spec.choices import Space, points_text
from nasir.spec.domains import Options
from nasir.spec.model import Spec
from nasir.spec.model_search import Search
from nasir.spec.tree import locate

CURVES = ("val.accuracy", "val.loss", "train.accuracy", "train.loss")
"""Metrics that every epoch has, on which trials can be compared while they run."""
MANY_FOR_GP = 20
LARGEST_GRID = 1_000_000
"""The most points of a grid: all of them are made when it begins."""


def check_search(spec: Spec, findings: Findings) -> None:
    """Problems of the search section of a spec with itself and with the spec."""
    search = spec.search
    if search is None:
        return
    given = _metrics(search, findings)
    for path, metric in given:
        if metric.startswith("val.") and spec.data.validation == 0:
            text = f"{metric} needs validation data, and `data.validation` is 0"
            findings.add(path, text, "set `data.validation`, such as 0.1, or use a train metric")
    _check_pruner(search, given[0][1], findings)
    if search.sampler.kind == "cmaes":
        at = ("search", "sampler")
        if len(search.objectives) > 1:
            findings.add(at, "cmaes can follow one objective only", "use tpe, gp, nsga2 or nsga3")
        if search.constraints:
            findings.add(at, "cmaes takes no notice of constraints", "use tpe, gp, nsga2 or nsga3")


def _metrics(search: Search, findings: Findings) -> list[tuple[Path, str]]:
    """Paths and metrics of objectives, in order, then of constraints."""
    metrics: list[tuple[Path, str]] = []
    for index, objective in enumerate(search.objectives):
        at: Path = ("search", "objective") if search.objective else ("search", "objectives", index)
        metrics.append(((*at, objective.direction), objective.metric))
    seen: dict[tuple[str, bool], int] = {}
    for index, constraint in enumerate(search.constraints):
        metrics.append((("search", "constraints", index), constraint.metric))
        first = seen.setdefault((constraint.metric, constraint.upper), index)
        if first != index:
            text = f"{constraint.metric} is bounded already, by {search.constraints[first]}"
            findings.add(("search", "constraints", index), text, "keep one of the two")
    for (metric, upper), index in seen.items():
        other = seen.get((metric, not upper), -1)
        bound, opposite = search.constraints[index], search.constraints[other]
        if other in range(index) and (bound.bound < opposite.bound if upper else bound.bound > opposite.bound):
            text = f"no number keeps it and {opposite}"
            findings.add(("search", "constraints", index), text, "correct one of the two")
    return metrics


def _check_pruner(search: Search, metric: str, findings: Findings) -> None:
    at: Path = ("search", "pruner")
    kind = search.pruner.innermost.kind
    if kind == "none":
        return
    if len(search.objectives) > 1:
        text = "Optuna cannot prune with several objectives"
        findings.add(at, text, "keep one objective and move the other into `constraints`, or remove `pruner`")
    elif metric not in CURVES:
        text = f"pruning compares trials epoch by epoch, and {metric} is known at the end only"
        findings.add(at, text, f"use an objective such as {CURVES[0]}, or remove `pruner`")
    elif kind == "wilcoxon" and search.axis.kind != "epoch":
        text = "wilcoxon compares pairs of equal epochs, and this axis has none"
        findings.add(at, text, "use `axis: epoch`, or another pruner")


def check_space(spec: Spec, search: Search, space: Space, findings: Findings) -> None:
    """Problems and notes about a search in this space."""
    at: Path = ("search", "sampler")
    kind, size = search.sampler.kind, space.size()
    if kind == "grid" and size is None:
        endless = [choice.name for choice in space.choices if choice.domain.size is None]
        text = f"a grid has finitely many points, and {', '.join(endless)} can be any number of a range"
        findings.add(at, text, "give a `step`, or use random or qmc")
    elif kind == "grid" and size is not None and size > LARGEST_GRID:
        text = f"the grid has {points_text(size)}, and {LARGEST_GRID:,} are the most"
        findings.add(at, text, "make steps larger, or use random or qmc")
    elif kind == "grid" and search.trials is not None and size is not None and search.trials < size:
        _note(findings, ("search", "trials"), f"{search.trials} trials are not the whole grid of {points_text(size)}")
    elif size is not None and search.trials is not None and search.trials > size:
        _note(findings, ("search", "trials"), f"{search.trials} trials, but the space has {points_text(size)} only")
    _note_sampler(search, space, findings)
    if kind in ("nsga2", "nsga3") and len(search.objectives) == 1:
        _note(findings, at, f"{kind} is made for several objectives; tpe needs fewer trials for one")
    pruner = search.pruner.innermost
    if pruner.kind == "wilcoxon":
        text = "wilcoxon takes epochs for independent samples, which they are not: it prunes sooner than `p` says"
        _note(findings, ("search", "pruner"), text)
    if pruner.hyperband is not None and pruner.hyperband.max_resource == "auto" and not _same_length(spec, search):
        text = "trials differ in length here, and hyperband takes that of the first that ends; give `max_resource`"
        _note(findings, ("search", "pruner"), text)


def _note_sampler(search: Search, space: Space, findings: Findings) -> None:
    at: Path = ("search", "sampler")
    kind = search.sampler.kind
    conditional = {described["name"] for described in space.describe() if described["when"]}
    categorical = {choice.name for choice in space.choices if isinstance(choice.domain, Options)}
    aside = {"cmaes": conditional | categorical, "gp": conditional, "qmc": conditional}.get(kind, set())
    modelled = [choice.name for choice in space.choices if choice.name not in aside]
    what = "categorical and conditional choices" if kind == "cmaes" else "conditional choices"
    if kind == "cmaes" and len(modelled) < 2:
        text = f"cmaes needs two choices of numbers that are always asked, here are {len(modelled)}"
        findings.add(at, text, "use tpe")
    elif aside:
        _note(findings, at, f"{kind} samples {what} at random: {', '.join(sorted(aside))}")
    if kind == "gp" and len(modelled) > MANY_FOR_GP:
        _note(findings, at, f"gp is slow and vague with {len(modelled)} choices; tpe is made for more")


def _same_length(spec: Spec, search: Search) -> bool:
    return search.axis.kind == "epoch" and all(phase.until is None and phase.budget is None for phase in spec.phases)


def _note(findings: Findings, path: Path, text: str) -> None:
    findings.notes.append(f"{locate(findings.tree, path)}: {dotted(path)}: {text}")
