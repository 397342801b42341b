"""Networks that Python code makes as modules: where one comes from, and what a backend makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from nasir.ir import Graph


@dataclass(frozen=True, slots=True)
class ModuleSource:
    """What makes a module, and an example of what it takes.

    `library`: "torchvision" or "timm", whose `model` it is; None: `make` makes it. `args`: keyword arguments.
    `shape`: of one sample, without the batch axis. `classes`: size of a new classifier of a library's model; None: its
    own. `weights`: the name of published ones, or an absolute path; None: those that it is made with, drawn by `seed`.
    """

    model: str
    shape: tuple[int, ...]
    seed: int
    library: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    classes: int | None = None
    weights: str | None = None
    make: Callable[..., Any] | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        """For messages."""
        return f"{self.library} {self.model}" if self.library else self.model


@dataclass(frozen=True, slots=True)
class Untyped:
    """What runs as it is: the function or class that a node runs; its module and the line of the source, in words."""

    runs: str
    place: str


@dataclass(frozen=True, slots=True, eq=False)
class ImportedModule:
    """A module as a graph; only the process that made it has the module.

    `untyped`: by label, the nodes that no rule types. `versions`: of the packages that made the module, by name.
    `state` is the backend's own.
    """

    source: ModuleSource
    graph: Graph
    untyped: Mapping[str, Untyped]
    versions: Mapping[str, str]
    state: object = field(repr=False)


class ImportsModules(Protocol):
    """What a backend offers beside `Backend` where it can import modules."""

    def import_module(self, source: ModuleSource) -> ImportedModule:
        """Make the module, find out what it computes, without its stored weights, and say it as a graph.

        Raises NasirError for one that cannot be made or said. `Setup.module` gives it to a session.
        """
