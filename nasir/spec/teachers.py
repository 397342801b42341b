"""Teachers of a spec that are runs: they must be there, and fit the network."""

from __future__ import annotations

from nasir.errors import NasirError
from nasir.ir import Graph
from nasir.journal.directory import RunDirectory
from nasir.journal.trained import trained_network
from nasir.registry import penalties
from nasir.spec.model import Spec
from nasir.spec.passes import find
from nasir.training.teachers import is_run, unfit


def check_teachers(spec: Spec, graph: Graph) -> None:
    """Raises SpecError at the line of a run that is not there, or whose network cannot teach that of the spec."""
    for index, phase in enumerate(spec.phases):
        for number, penalty in enumerate(phase.regularize):
            known = find(penalties, penalty.kind) is not None  # else only a plugin knows it
            teacher = penalty.plan().taught_by if known else None
            if teacher is None or not is_run(teacher):
                continue
            path = ("phases", index, "regularize", number, penalty.kind, "teacher")
            try:
                trained = trained_network(RunDirectory.open(teacher))
            except (NasirError, OSError) as error:
                text, _, remedy = str(error).partition("; ")
                raise spec.problem(path, text, remedy or "run its spec first, or correct `teacher`") from error
            if trained is None:
                raise spec.problem(path, f"{teacher} has no checkpoint yet", "wait for its first")
            text, _, remedy = (unfit(trained.graph, graph) or "").partition("; ")
            if text:
                raise spec.problem(path, f"the network of {teacher} cannot teach this one: {text}", remedy)
