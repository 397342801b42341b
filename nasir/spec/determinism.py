"""`deterministic: true` where the network has a node that CUDA cannot train deterministically."""

from __future__ import annotations

from collections.abc import Callable

from nasir.analysis.determinism import unordered
from nasir.ir import Graph
from nasir.options import Path
from nasir.spec.model import Spec
from nasir.spec.problems import SpecProblems


def check_determinism(
    spec: Spec, graph: Graph, path_of: Callable[[int], Path], note: Callable[[str], None] | None
) -> None:
    """Raises SpecError for a CUDA device; with `device: auto`, which may become one, `note` is called instead.

    `path_of` gives the path in the spec of the step that made a node, by the id of the node.
    """
    if not spec.deterministic or spec.device == "cpu":
        return
    problems = [spec.problem(path_of(node), text, remedy).problems[0] for node, text, remedy in unordered(graph)]
    if spec.device != "auto":
        if problems:
            raise SpecProblems(problems)
    elif note is not None:
        for problem in problems:
            note(f"{problem}; with `device: auto` a run is refused where there is a CUDA device")
