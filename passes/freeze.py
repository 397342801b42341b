"""`freeze` and `unfreeze`: parts of the network that stop learning, and learn again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nasir.errors import Decline
from nasir.ir import Draft, Graph
from nasir.options.ranges import Whole
from nasir.registry import register
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import WHOLE, Pass, Refresh, parts_of


def _sites(graph: Graph, paths: tuple[str, ...]) -> list[str]:
    return [WHOLE] if paths else [*graph.regions]


@register("freeze")
@dataclass(frozen=True)
class Freeze(Pass):
    """Let a region learn no more: no updates, no weight decay, norms and dropout as in evaluation.

    What is inserted into a frozen region later is frozen too.

    paths             labels, or prefixes of labels, to freeze in place of a region; the site is then the network
    norms             freeze norms too; false: they go on learning, statistics included
    refresh_epochs    first bring the statistics of the frozen norms up to date, by so many epochs of forward passes
                      over augmented training data (RRR-Net: 10)
    refresh_batches   the same in batches
    """

    paths: tuple[str, ...] = ()
    norms: bool = True
    refresh_epochs: Whole = 0
    refresh_batches: Whole = 0

    def __post_init__(self) -> None:
        if self.refresh_epochs and self.refresh_batches:
            raise ValueError(
                f"refresh_epochs is {self.refresh_epochs}, refresh_batches {self.refresh_batches}; "
                "give one of the two, 1 or more, or neither"
            )
        if not self.norms and (self.refresh_epochs or self.refresh_batches):
            raise ValueError("norms: false leaves the norms as they are; remove refresh_epochs and refresh_batches")

    def sites(self, graph: Graph) -> Iterable[str]:
        """Every stage, block and branch; the network where `paths` say what."""
        return _sites(graph, self.paths)

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> Refresh | None:
        """Add the labels to the frozen ones; no weight changes."""
        graph = draft.base
        assert graph is not None
        parts = parts_of(graph, site, self.paths)
        for part in parts:
            if self.norms:
                draft.freeze(part)
                continue
            for node_id, node in graph.nodes.items():
                if graph.below(node_id, (part,)) and graph.infer.slots[node_id] and node.facts.family != "norm":
                    draft.freeze(node.label)
        if draft.frozen == set(graph.frozen):
            raise Decline(f"{', '.join(parts)} is frozen already")
        if self.refresh_epochs or self.refresh_batches:
            return Refresh(self.refresh_batches, self.refresh_epochs, paths=parts, frozen=True)
        draft.claim("exact")
        return None


@register("unfreeze")
@dataclass(frozen=True)
class Unfreeze(Pass):
    """Let a frozen region learn again; its optimizer state goes on from where it stopped.

    paths   labels, or prefixes of labels, to release in place of a region; the site is then the network
    """

    paths: tuple[str, ...] = ()

    def sites(self, graph: Graph) -> Iterable[str]:
        """Every stage, block and branch, and the network."""
        return [WHOLE] if self.paths else [WHOLE, *graph.regions]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        """Take the labels out of the frozen ones; no weight changes."""
        graph = draft.base
        assert graph is not None
        parts = graph.frozen if site == WHOLE and not self.paths else parts_of(graph, site, self.paths)
        for part in parts:
            draft.unfreeze(part)
        if draft.frozen == set(graph.frozen):
            raise Decline(f"nothing of {', '.join(parts) or 'the network'} is frozen")
        draft.claim("exact")
