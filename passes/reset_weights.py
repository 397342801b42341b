"""`reset-weights`: weights start anew, as before training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nasir.blocks import INITS, made_with, starts_of
from nasir.errors import Decline
from nasir.ir import Draft, Graph
from nasir.ir.regions import closest
from nasir.ir.source import Key
from nasir.registry import register
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import WHOLE, Pass, parts_of


@register("reset-weights")
@dataclass(frozen=True)
class ResetWeights(Pass):
    """Initialize the weights of the network or a region anew: optimizer state empty, statistics of norms reset.

    Frozen weights stay.

    init    initializer: null for the one that the blocks of the network were made with (that of the spec)
    paths   labels, or prefixes of labels, to reset; default: all of the site
    keep    labels, or prefixes of labels, that stay
    """

    init: str | None = None
    paths: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.init is not None and self.init not in INITS:
            raise ValueError(f"init: no initializer is called {self.init!r}; {closest(self.init, INITS)}")

    def sites(self, graph: Graph) -> Iterable[str]:
        """The network, and every stage, block and branch."""
        return [WHOLE] if self.paths else [WHOLE, *graph.regions]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        """Give every weight of the place the initializer of its op, or that of `init`."""
        graph = draft.base
        assert graph is not None
        parts = () if site == WHOLE and not self.paths else parts_of(graph, site, self.paths)
        parts_of(graph, site, self.keep)
        changed = False
        own = starts_of(graph, lambda node_id: self.init or made_with(graph, node_id))
        for node_id, slots in graph.infer.slots.items():
            inside = not parts or graph.below(node_id, parts)
            foreign = graph.nodes[node_id].facts.foreign  # of imported modules it is not known how weights begin
            if not inside or foreign or graph.is_frozen(node_id) or graph.below(node_id, self.keep):
                continue
            for name, slot in slots.items():
                rule = own.get(Key(node_id, name), slot.init)
                draft.fill(node_id, name, rule.rule, **rule.args)
                changed = True
        if not changed:
            raise Decline("no weight that may change lies there; all of them are kept or frozen")
