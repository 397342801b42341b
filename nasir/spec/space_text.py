"""What `nasir check` says about a search: the space as a table, its size, and what the search aims at."""

from __future__ import annotations

from typing import Any

from nasir.counted import counted
from nasir.spec.choices import COUNTLESS, NoDefault, Space, points_text, when_text
from nasir.spec.domains import shown
from nasir.spec.search import SearchSpec


def facts(spec: SearchSpec) -> dict[str, Any]:
    """JSON: the space and its digest and size (None for a continuum; 10^18 is that or more), objectives, constraints
    and the section."""
    size = spec.space.size()
    return {
        "space": spec.space.describe(),
        "space_digest": spec.space.digest,
        "size": None if size is None else min(size, COUNTLESS),
        "trials": spec.trials,
        "objectives": [
            {"metric": objective.metric, "direction": objective.direction} for objective in spec.search.objectives
        ],
        "constraints": [str(constraint) for constraint in spec.search.constraints],
        "search": spec.search.plain(),
    }


def lines(spec: SearchSpec) -> list[str]:
    """The same as text for people, a line each."""
    search = spec.search
    timeout = f", for {search.timeout:g} seconds at most" if search.timeout else ""
    rows = [
        ("trials", f"{spec.trials}{timeout}"),
        ("sampler", search.sampler.kind),
        ("pruner", _pruner(spec)),
        *(("objective", str(objective)) for objective in search.objectives),
        *(("constraint", str(constraint)) for constraint in search.constraints),
    ]
    return [*space_lines(spec.space), "", *(f"{key:<11}{text}" for key, text in rows)]


def space_lines(space: Space) -> list[str]:
    """A table of the choices, and how many points they make."""
    described = space.describe()
    asked = [entry["when"] for entry in described]
    rows = [("choice", "values", "begins with", "asked" if any(asked) else "")]
    for choice, when in zip(space.choices, asked, strict=True):
        begin = "drawn" if isinstance(choice.default, NoDefault) else shown(choice.default)
        rows.append((choice.name, str(choice.domain), begin, when_text(when) if any(asked) else ""))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    table = [
        "  ".join((*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3])) for row in rows
    ]
    size = space.size()
    points = "a continuum of points" if size is None else points_text(size)
    return [*(line.rstrip() for line in table), f"{counted(len(space), 'choice')}, {points}"]


def _pruner(spec: SearchSpec) -> str:
    pruner, axis = spec.search.pruner, spec.search.axis
    if pruner.kind == "none":
        return "none"
    name = f"patient {pruner.innermost.kind}" if pruner.patient is not None else pruner.kind
    return name if axis.kind == "epoch" else f"{name}, compared every {axis.width:g} {axis.kind}"
