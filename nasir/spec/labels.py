"""Labels that a spec names must be in its network; rewrites make labels, so only what comes before rules is sure."""

from __future__ import annotations

from collections.abc import Iterator

from nasir.ir import Graph
from nasir.spec.model import Spec
from nasir.spec.model_regularize import Gamma
from nasir.spec.problems import Path, suggestion


def check_labels(spec: Spec, graph: Graph) -> None:
    """Raises SpecError for a label under `regularize:` of no node or region, in phases before the first with rules."""
    known: dict[str, None] = {}
    for label in graph.labels:
        parts = label.split(".")
        known.update(dict.fromkeys(".".join(parts[:end]) for end in range(1, len(parts) + 1)))
    for index, phase in enumerate(spec.phases):
        if phase.rules:
            return
        for path, label in _labels(spec, index):
            if label not in known:
                raise spec.problem(path, f"unknown label {label!r}", suggestion(label, known))


def _labels(spec: Spec, index: int) -> Iterator[tuple[Path, str]]:
    for number, penalty in enumerate(spec.phases[index].regularize):
        key = "exclude" if isinstance(penalty.chosen, Gamma) else "on"
        named = getattr(penalty.chosen, key)
        for place, label in enumerate(named if isinstance(named, tuple) else ()):
            yield ("phases", index, "regularize", number, penalty.kind, key, place), label
