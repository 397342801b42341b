"""Labels that a spec names must be in its network; rewrites make labels, so only what comes before rules is sure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from nasir.ir import Graph
from nasir.options import Path, suggestion
from nasir.registry import penalties
from nasir.spec.model import Spec
from nasir.spec.passes import find


def check_labels(spec: Spec, graph: Graph) -> None:
    """Raises SpecError for a label of no node or region under `regularize:` or `freeze:`, up to the first rules.

    `freeze:` of the first phase with rules is checked too where none of them acts at its start.
    """
    known: dict[str, None] = dict.fromkeys(graph.regions)  # some have names that no label begins with
    for label in graph.labels:
        parts = label.split(".")
        known.update(dict.fromkeys(".".join(parts[:end]) for end in range(1, len(parts) + 1)))
    for index, phase in enumerate(spec.phases):
        rewritten_first = any(rule.when is not None and rule.when.kind == "start" for rule in phase.rules)
        frozen = () if rewritten_first else _frozen(spec, index)
        for path, label in chain(() if phase.rules else _labels(spec, index), frozen):
            if label not in known:
                raise spec.problem(path, f"unknown label {label!r}", suggestion(label, known))
        if phase.rules:
            return


def _frozen(spec: Spec, index: int) -> Iterator[tuple[Path, str]]:
    for place, label in enumerate(spec.phases[index].freeze or ()):
        yield ("phases", index, "freeze", place), label


def _labels(spec: Spec, index: int) -> Iterator[tuple[Path, str]]:
    for number, penalty in enumerate(spec.phases[index].regularize):
        made = find(penalties, penalty.kind)  # None: only a plugin knows it
        for key in made.labels if made is not None else ():
            named = penalty.chosen.get(key)
            for place, label in enumerate(named if isinstance(named, list | tuple) else ()):
                yield ("phases", index, "regularize", number, penalty.kind, key, place), label
