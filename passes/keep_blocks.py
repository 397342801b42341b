"""`keep-blocks`: of every stage only the first blocks stay (RRR-Net's reduction)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeAlias

from annotated_types import Ge, MinLen

from nasir.blocks.removal import remove_blocks, shortcut_padding
from nasir.counted import counted
from nasir.errors import Decline
from nasir.ir import Draft, Graph
from nasir.options import Remedy
from nasir.registry import register
from nasir.rewriting.evidence import Evidence, Need
from nasir.rewriting.rewrite import WHOLE, Pass
from nasir.rewriting.stored_blocks import put_away

NOT_EMPTY = Remedy("give whole numbers of at least 1: a stage cannot be empty")
Depth: TypeAlias = Annotated[int, Ge(1), NOT_EMPTY]


@register("keep-blocks")
@dataclass(frozen=True)
class KeepBlocks(Pass):
    """Keep the first blocks of each stage and take out the others; every surviving weight stays untouched.

    depths    blocks to keep: a list with one number for each stage, or one number for all stages
    archive   keep structure and weights of what goes, so that `select-blocks` can bring it back
    """

    depths: Annotated[tuple[Depth, ...], MinLen(1), NOT_EMPTY] | Depth = 1
    archive: bool = False

    shrinks = True
    needs: ClassVar[tuple[Need, ...]] = ()

    def __post_init__(self) -> None:
        if self.archive:
            object.__setattr__(self, "needs", (Need("weights"),))  # a copy of all weights is fetched only if wanted

    def sites(self, graph: Graph) -> Iterable[str]:
        """The network."""
        return [WHOLE]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        """Let readers of the last kept block of a stage read it, and delete what follows in the stage."""
        graph = draft.base
        assert graph is not None
        going = self.going(graph)
        if not going:
            raise Decline("no stage has more blocks than that")
        for path in going:
            if shortcut_padding(graph, path) is None:
                raise Decline(f"block '{path}' changes the shape of its input; only blocks that keep it can go")
        if self.archive:
            put_away(draft, graph, going, seen)
        remove_blocks(draft, going)

    def going(self, graph: Graph) -> list[str]:
        """The blocks to remove, in the order of the network; Decline where `depths` do not fit the stages."""
        stages = [stage.path for stage in graph.stages]
        wanted = (self.depths,) * len(stages) if isinstance(self.depths, int) else self.depths
        if len(wanted) != len(stages):
            numbers, have = counted(len(wanted), "number"), counted(len(stages), "stage")
            raise Decline(f"depths has {numbers}, the network {have}: {', '.join(stages)}")
        going: list[str] = []
        for stage, depth in zip(stages, wanted, strict=True):
            blocks = [block.path for block in graph.blocks_of(stage)]
            if not isinstance(self.depths, int) and depth > len(blocks):
                raise Decline(f"stage '{stage}' has {counted(len(blocks), 'block')}, fewer than the {depth} to keep")
            going += blocks[depth:]
        return going
