"""Whether a network can teach another one: both take and give the same."""

from __future__ import annotations

from pathlib import Path

from nasir.ir import Graph, Port
from nasir.training.penalties import INITIAL, PREVIOUS


def is_run(teacher: str) -> bool:
    """Whether the name of a teacher is the directory of a run."""
    return teacher not in (INITIAL, PREVIOUS)


def unfit(teacher: Graph, graph: Graph) -> str | None:
    """Why a network of a run cannot teach one, with the remedy; None where it can."""
    foreign = [node.label for node in teacher.nodes.values() if node.facts.foreign]
    if foreign:
        return f"its '{foreign[0]}' is made by code that is not at hand; name a run of a network without such parts"
    theirs, own = ([list(g.infer.types[Port(number)].shape) for number in g.inputs] for g in (teacher, graph))
    if theirs != own:
        return f"it takes {_text(theirs)}, the network {_text(own)}; name a run on the same data"
    theirs, own = ([list(g.infer.types[port].shape) for port in g.answers] for g in (teacher, graph))
    if theirs != own:
        return f"it gives {_text(theirs)}, the network {_text(own)}; name a run with the same classes"
    return None


def _text(shapes: list[list[int]]) -> str:
    return ", ".join(map(str, shapes))


def name_of(teacher: str) -> str:
    """The name of a teacher without the folder that it lies in."""
    return Path(teacher).name if is_run(teacher) else teacher
