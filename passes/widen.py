"""`widen`: more units in a space, a region's spaces or all of them, by copies, silent units or opposite pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor
from typing import Annotated

from annotated_types import Ge, Gt, Le

from nasir.analysis.uniform import uniform_spaces
from nasir.errors import Decline, GraphError
from nasir.ir import Atom, Draft, Graph
from nasir.options import Remedy
from nasir.options.ranges import Count
from nasir.registry import register
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.new_units import How, Noise, Order, Symmetry, check_symmetry, widen
from nasir.rewriting.rewrite import WHOLE, Pass, Site

MOST = 1000.0  # times the width: beyond is a slip
PRUNE = Remedy(f"use a factor above 1, at most {MOST:,.0f}, or units of at least 1; prune-channels removes units")


@register("widen")
@dataclass(frozen=True)
class Widen(Pass):
    """Add units to one space, to every space first written in a region, or to all ("network").

    how          replicate: copies of old units, whose readers share the old weight; fresh: new units that are written
                 by random and read by zero weights; paired: new units two by two, written by equal and read by opposite
                 random weights (of an odd number the last one is fresh)
    factor       new width as a multiple of the old one, rounded down; above 1
    units        or: how many units to add to each space
    multiple_of  the new widths are rounded up to a multiple of it
    noise        for replicate: standard deviation of a disturbance of the copied weights, relative to the weights'
    symmetry     for replicate: noise, or none, which leaves copies that plain SGD never separates
    order        which units are copied: circular (0, 1, 2, ... and again) or random
    """

    how: How = "replicate"
    factor: Annotated[float, Gt(1), Le(MOST), PRUNE] | None = None
    units: Annotated[int, Ge(1), PRUNE] | None = None
    multiple_of: Count = 1
    noise: Noise = 0.0
    symmetry: Symmetry = "noise"
    order: Order = "circular"

    def __post_init__(self) -> None:
        if (self.factor is None) is (self.units is None):
            raise ValueError("give one of factor (such as 1.5) and units (such as 8)")
        check_symmetry(self.how, self.noise, self.symmetry)

    def sites(self, graph: Graph) -> Iterable[Site]:
        """All resizable spaces, the regions in which one is first written, and the network."""
        spaces = [space for space in graph.infer.spaces if space.resizable]
        regions = {path for space in spaces for path in graph.owners[space.source]}
        return [*spaces, *(path for path in graph.regions if path in regions), *([WHOLE] if spaces else [])]

    def rewrite(self, draft: Draft, site: Site, seen: Evidence) -> None:
        """Select every old unit once, and the new ones behind them."""
        graph = draft.base
        assert graph is not None
        sizes = {space: self._size(space) for space in _spaces(graph, site)}
        if all(size == space.size for space, size in sizes.items()):
            raise Decline(f"no width grows by the factor {self.factor}, rounded down; use a larger one, or units")
        widen(draft, sizes, self.how, seen, noise=self.noise, order=self.order)

    def _size(self, space: Atom) -> int:
        wanted = space.size + self.units if self.units is not None else floor(space.size * (self.factor or 1.0))
        return -(-wanted // self.multiple_of) * self.multiple_of


def _spaces(graph: Graph, site: Site) -> Sequence[Atom]:
    if isinstance(site, Atom):
        return [site]
    chosen = uniform_spaces(graph)
    if site != WHOLE:
        if site not in graph.regions:
            raise GraphError(f"no space, region or 'network' is called {site!r}; regions: {', '.join(graph.regions)}")
        chosen = [space for space in chosen if site in graph.owners[space.source]]
    if not chosen:
        raise Decline(f"no resizable space is first written in '{site}'")
    return chosen
