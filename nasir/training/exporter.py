"""Exporters: functions with options that write a network, or what a run made of it, in another form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nasir.errors import UsageError
from nasir.files import write_atomically
from nasir.ir import Graph
from nasir.options import Checked, construct
from nasir.registry import code_of, exporters


@dataclass(frozen=True, slots=True)
class Exportable:
    """What there is to export. `name`: what the user named; `spec`: the resolved spec as YAML, None of a graph file;
    `checkpoints`: the folder of a run's checkpoints, None of what has not run."""

    graph: Graph
    name: str
    spec: str | None = None
    checkpoints: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Exporter(Checked):
    """Base of an exporter: subclass it as a frozen dataclass, whose fields are its options, and register that.

    It has either `text`, for what can be printed, or a `write` of its own.
    """

    name: ClassVar[str] = ""

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        """By its name."""
        return f"exporter {cls.name}"

    @classmethod
    def prints(cls) -> bool:
        """Whether it gives text."""
        return cls.text is not Exporter.text

    def text(self, source: Exportable) -> str:
        """All of it as text; raises UsageError where `source` lacks what it needs."""
        raise NotImplementedError

    def write(self, source: Exportable, path: Path) -> None:
        """Write the file `path`; raises UsageError, before anything is written, where `source` lacks what it needs."""
        write_atomically(path, exported_text(self, source).encode("utf-8"))

    def needed(self, source: Exportable, what: str) -> Any:
        """`spec` or `checkpoints` of the source; UsageError where it has none."""
        value = getattr(source, what)
        if value is None:
            owner = {"spec": "a spec or a run", "checkpoints": "a run"}[what]
            raise UsageError(f"exporter {self.name}: {source.name} has no {what}; name {owner}")
        return value


def exporter_named(name: str) -> type[Exporter]:
    """The definition of an exporter; raises UnknownName, or UsageError where it is not one."""
    return exporters.subclass(name, Exporter, _fault)


def _fault(made: type[Exporter]) -> str:
    return "has neither a `text` nor a `write`" if not made.prints() and made.write is Exporter.write else ""


def exported_text(exporter: Exporter, source: Exportable) -> str:
    """What an exporter that gives text gives; NasirError where its author's code fails, or gives something else."""
    with code_of(type(exporter), f"exporter {exporter.name}", "mend its `text`", (OSError,)):
        text = exporter.text(source)
        if not isinstance(text, str):
            raise TypeError(f"no text, but {text!r:.60}")
        text.encode("utf-8")
    return text


def write_file(exporter: Exporter, source: Exportable, path: Path) -> None:
    """Write the file `path`; UsageError where there can be none, NasirError where the code of its author fails."""
    if path.is_dir() or not path.parent.is_dir():
        problem = "is a folder" if path.is_dir() else f"lies in {path.parent}, which is no folder"
        raise UsageError(f"--out {path}: it {problem}; name a file in a folder that is there")
    with code_of(type(exporter), f"exporter {exporter.name}", "mend its `write`", (OSError,)):
        exporter.write(source, path)


def make_exporter(name: str, options: Mapping[str, Any]) -> Exporter:
    """An exporter with options; raises UnknownName, or OptionError naming each wrong option."""
    return construct(exporter_named(name), options, f"exporter {name}")
