"""Registries of named extensions: what ships with nasir and what others add are found in the same way.

A name resolves first to what was registered in this process (`@register`), then to an entry point, which is
imported on first use only. A broken plugin raises at its own use, never while listing.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from nasir.errors import NasirError, UnknownName, UsageError

T = TypeVar("T")
C = TypeVar("C")


class Registry:
    """Objects of one kind by kebab- or snake-case name; `group` is the entry point group third parties use."""

    def __init__(self, kind: str, group: str, plural: str | None = None) -> None:
        self.kind = kind
        self.group = group
        self.plural = plural or f"{kind}s"
        self._objects: dict[str, Any] = {}
        self._points: dict[str, EntryPoint] | None = None
        self._packages: dict[str, str] | None = None

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: make an object known as `name`; a second, different object of that name is an error."""

        def add(thing: T) -> T:
            owner = self._objects.get(name)
            if owner is not None and _origin(owner) != _origin(thing):
                raise NasirError(
                    f"{self.kind} {name!r} is registered twice: by {_origin(owner)} and by {_origin(thing)}; "
                    "rename one of them"
                )
            self._objects[name] = thing
            if isinstance(thing, type):
                thing.name = name  # type: ignore[attr-defined]
            return thing

        return add

    def get(self, name: str) -> Any:
        """The object registered as `name`; raises UnknownName with the closest names otherwise."""
        if name not in self._objects and name in self._entry_points():
            loaded = self._load(self._entry_points()[name])
            self._objects.setdefault(name, loaded)
        if name not in self._objects:
            raise UnknownName(self._unknown(name))
        return self._objects[name]

    def subclass(self, name: str, base: type[C], fault: Callable[[type[C]], str]) -> type[C]:
        """The class registered as `name`, a subclass of `base` in which `fault` finds nothing wrong ("").

        Raises UnknownName, or UsageError with what is wrong.
        """
        made = self.get(name)
        right = isinstance(made, type) and issubclass(made, base)
        problem = fault(made) if right else f"is no subclass of nasir.training.{base.__name__}"
        if problem:
            raise UsageError(f"{self.kind} {name!r}: {made!r:.80} {problem}; see docs/extending.md")
        return made  # type: ignore[no-any-return]

    def names(self) -> tuple[str, ...]:
        """All known names, sorted; imports nothing."""
        return tuple(sorted({*self._objects, *self._entry_points()}))

    def installed(self, name: str) -> bool:
        """Whether an entry point has the name, so that every process finds it; imports nothing."""
        return name in self._entry_points()

    def packages(self) -> dict[str, str]:
        """Versions of the distributions whose entry points are known, by name; imports nothing."""
        if self._packages is None:  # each name and each version is read from a file
            distributions = {id(point.dist): point.dist for point in self._entry_points().values()}
            self._packages = {dist.name: dist.version for dist in distributions.values() if dist is not None}
        return dict(self._packages)

    def _entry_points(self) -> dict[str, EntryPoint]:
        if self._points is None:
            self._points = {point.name: point for point in entry_points(group=self.group)}
        return self._points

    def _load(self, point: EntryPoint) -> Any:
        try:
            return point.load()
        except (Exception, SystemExit) as error:
            raise NasirError(
                f"{self.kind} {point.name!r} (entry point {point.value!r}) failed to import: "
                f"{type(error).__name__}: {error}; mend or uninstall {point.dist.name if point.dist else 'its package'}"
            ) from error

    def _unknown(self, name: str) -> str:
        close = difflib.get_close_matches(name, self.names(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"known: {', '.join(self.names())}"
        return (
            f"unknown {self.kind} {name!r}: {hint} (`nasir list {self.plural}` shows all; "
            "a plugin added to an editable install needs `pip install -e .` again)"
        )


def _origin(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '?')}:{getattr(thing, '__qualname__', repr(thing))}"


passes = Registry("pass", "nasir.passes", "passes")
policies = Registry("policy", "nasir.policies", "policies")
backends = Registry("backend", "nasir.backends")
ops = Registry("op", "nasir.ops")
blocks = Registry("block", "nasir.blocks")
datasets = Registry("data set", "nasir.datasets", "datasets")
surveys = Registry("survey", "nasir.surveys")
optimizers = Registry("optimizer", "nasir.optimizers")
penalties = Registry("penalty", "nasir.penalties", "penalties")
exporters = Registry("exporter", "nasir.exporters")
optimizer_states = Registry("optimizer state", "nasir.optimizer_states")


@contextmanager
def code_of(made: Any, what: str, remedy: str, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Code of an extension's author runs within: what it raises becomes a NasirError that names the extension, `what`,
    and its place. Errors of nasir, and those of `passing`, go through."""
    try:
        yield
    except Exception as error:
        if isinstance(error, (NasirError, *passing)):
            raise
        raised = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise NasirError(f"{what} ({source_of(made)}) raised {raised}; {remedy}") from error


def source_of(made: Any) -> str:
    """`file:line` of a class or a function, its module where there is no source."""
    try:
        return f"{inspect.getsourcefile(made)}:{inspect.getsourcelines(made)[1]}"
    except (TypeError, OSError):
        return f"module {getattr(made, '__module__', type(made).__module__)}"


def register(name: str) -> Callable[[T], T]:
    """Register a pass: `@register("insert-block")` above its frozen dataclass."""
    return passes.register(name)
