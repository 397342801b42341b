"""`select-blocks`: blocks that `keep-blocks` put away come back one by one (RRR-Net's forward selection)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from nasir.errors import Decline
from nasir.ir import Draft, Graph
from nasir.registry import register
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import WHOLE, Pass
from nasir.rewriting.stored_blocks import bring_back, pieces


@register("select-blocks")
@dataclass(frozen=True)
class SelectBlocks(Pass):
    """Bring back the next block that `keep-blocks` with `archive: true` took out.

    At the network, stages are filled up in their order: 1-1-1-1, 2-1-1-1, 3-1-1-1, 3-2-1-1, ..., as RRR-Net's code
    does. At a stage the next block of that stage comes back; a rule with `trial` so selects greedily.

    weights   original: those the block was put away with; fresh: new ones
    """

    weights: Literal["original", "fresh"] = "original"

    def sites(self, graph: Graph) -> Iterable[str]:
        """The network, and every stage."""
        return [WHOLE, *(stage.path for stage in graph.stages)]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        """Append the block behind the last one of its stage, as it was when it went."""
        graph = draft.base
        assert graph is not None
        waiting = pieces(seen.history)
        order = [stage.path for stage in graph.stages]
        chosen = [p for p in waiting if site in (WHOLE, p.stage) and p.stage in order]
        if not chosen:
            where = "" if site == WHOLE else f" of stage '{site}'"
            raise Decline(f"no block{where} is put away; `keep-blocks: {{archive: true}}` does that")
        piece = min(chosen, key=lambda p: (order.index(p.stage), p.position))
        bring_back(draft, graph, piece, self.weights == "original")
