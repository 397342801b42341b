"""`remove-block`: take out a block whose input and output have one shape; its shortcut remains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from nasir.counted import counted
from nasir.errors import Decline, GraphError
from nasir.ir import Draft, Graph, Port
from nasir.options import Remedy
from nasir.registry import register
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import Pass


@register("remove-block")
@dataclass(frozen=True)
class RemoveBlock(Pass):
    """Remove a block, or one of a stage's blocks; every surviving weight stays untouched.

    which   for a stage: its "last" or "first" removable block
    floor   blocks that a stage always keeps, at least 1
    """

    which: Literal["last", "first"] = "last"
    floor: Annotated[int, Ge(1), Remedy("a stage cannot be empty")] = 1

    shrinks = True

    def sites(self, graph: Graph) -> Iterable[str]:
        """Every stage that may shrink, and every block that may go."""
        blocks = {
            stage.path: [block.path for block in graph.blocks_of(stage.path) if removable(graph, block.path)]
            for stage in graph.stages
        }
        stages = [stage for stage in blocks if blocks[stage] and len(graph.blocks_of(stage)) > self.floor]
        return [*stages, *(block for inside in blocks.values() for block in inside)]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        """Let readers of the block read its input, and delete it."""
        graph = draft.base
        assert graph is not None
        region = graph.regions.get(site)
        if region is None:
            raise GraphError(f"no stage or block {site!r}; known: {', '.join(graph.regions)}")
        stage = site if region.kind == "stage" else graph.stage_of(site)
        siblings = [block.path for block in graph.blocks_of(stage)]
        if len(siblings) <= self.floor:
            raise Decline(f"stage '{stage}' has {counted(len(siblings), 'block')}, floor {self.floor}")
        path = site
        if region.kind == "stage":
            candidates = [block for block in siblings if removable(graph, block)]
            if not candidates:
                raise Decline(f"no block of '{stage}' keeps its shape")
            path = candidates[-1 if self.which == "last" else 0]
        elif not removable(graph, path):
            entry, exit_ = graph.boundary(path)
            shapes = f"{graph.infer.types[entry].shape} into {graph.infer.types[Port(exit_)].shape}"
            raise Decline(f"block '{path}' turns {shapes}; only blocks that keep their shape can go")
        entry, exit_ = graph.boundary(path)
        draft.remove_region(path)
        draft.rewire(Port(exit_), entry)


def removable(graph: Graph, path: str) -> bool:
    """Whether a block's input and output have one shape."""
    entry, exit_ = graph.boundary(path)
    return graph.infer.types[entry].shape == graph.infer.types[Port(exit_)].shape
