"""Notes on dropout that lies before a norm with running statistics."""

from __future__ import annotations

from collections.abc import Callable

from nasir.analysis.variance_shift import REMEDY, Shift, told, variance_shifts
from nasir.ir import Graph
from nasir.options import Path
from nasir.spec.model import Spec


def note_shifts(spec: Spec, graph: Graph, path_of: Callable[[int], Path], note: Callable[[str], None] | None) -> None:
    """Tell `note` of every step whose dropout shifts the variance of a norm, once, by the first such node.

    `path_of` gives the path in the spec of the step that made a node, by the id of the node.
    """
    if note is None:
        return
    by_path: dict[Path, list[Shift]] = {}
    for shift in variance_shifts(graph):
        by_path.setdefault(path_of(shift.drop), []).append(shift)
    for path, shifts in by_path.items():
        note(str(spec.problem(path, told(graph, shifts), REMEDY)))
