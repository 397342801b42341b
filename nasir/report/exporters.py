"""The exporters that ship and need no torch: a network as text, as data and as a drawing, and the resolved spec."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from nasir.registry import exporters
from nasir.report.html import write_drawing
from nasir.training.exporter import Exportable, Exporter


@exporters.register("json")
@dataclass(frozen=True, kw_only=True)
class GraphJson(Exporter):
    """The graph as JSON, which `nasir show` and `nasir diff` read again."""

    def text(self, source: Exportable) -> str:
        return json.dumps(source.graph.to_json()) + "\n"


@exporters.register("text")
@dataclass(frozen=True, kw_only=True)
class GraphText(Exporter):
    """The graph, a line a node, which `nasir show` and `nasir diff` read again."""

    def text(self, source: Exportable) -> str:
        return source.graph.to_text()


@exporters.register("html")
@dataclass(frozen=True, kw_only=True)
class Drawing(Exporter):
    """A drawing of the graph as a page that needs nothing else."""

    def write(self, source: Exportable, path: Path) -> None:
        write_drawing(source.graph, path, source.name)


@exporters.register("spec")
@dataclass(frozen=True, kw_only=True)
class ResolvedSpec(Exporter):
    """The spec with all defaults and extended files written out."""

    def text(self, source: Exportable) -> str:
        return str(self.needed(source, "spec"))
