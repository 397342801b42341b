"""`refresh-norms`: running statistics brought up to date by forward passes, after weights or data have changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nasir.analysis.statistics import keeps_statistics
from nasir.errors import Decline
from nasir.ir import Draft, Graph
from nasir.options.ranges import Whole
from nasir.registry import register
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import WHOLE, Pass, Refresh, parts_of


@register("refresh-norms")
@dataclass(frozen=True)
class RefreshNorms(Pass):
    """Move the running statistics of batch norms by forward passes over augmented training data; no weight learns.

    batches      so many batches, or
    epochs       so many epochs; without both, 1 epoch
    cumulative   statistics start anew and become the plain average over all batches; else each batch moves them by
                 the norm's momentum
    paths        labels, or prefixes of labels, of the norms; default: those of the site
    frozen       frozen norms move too
    """

    batches: Whole = 0
    epochs: Whole = 0
    cumulative: bool = False
    paths: tuple[str, ...] = ()
    frozen: bool = False

    def __post_init__(self) -> None:
        if self.batches and self.epochs:
            raise ValueError(f"batches is {self.batches}, epochs {self.epochs}; give one of the two, 1 or more")

    def sites(self, graph: Graph) -> Iterable[str]:
        """The network, and every stage, block and branch."""
        return [WHOLE] if self.paths else [WHOLE, *graph.regions]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> Refresh:
        """Nothing changes but what the forward passes move."""
        graph = draft.base
        assert graph is not None
        parts = () if site == WHOLE and not self.paths else parts_of(graph, site, self.paths)
        chosen = [n for n in graph.nodes if keeps_statistics(graph, n) and _within(graph, n, parts)]
        if not any(self.frozen or not graph.is_frozen(n) for n in chosen):
            raise Decline("no norm with running statistics that may move lies there")
        epochs = self.epochs or (0 if self.batches else 1)
        return Refresh(self.batches, epochs, self.cumulative, parts, self.frozen)


def _within(graph: Graph, node_id: int, parts: tuple[str, ...]) -> bool:
    return not parts or graph.below(node_id, parts)
