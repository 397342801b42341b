"""`expand-to-budget`: all widths by the one largest factor whose real cost fits (MorphNet, arXiv:1711.06798, 3.1).

The factor is searched on the cost of the network that would come out, widths rounded down: the square-root rule is
wrong where one side of a layer, image or classes, keeps its width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Annotated, Literal, TypeAlias

import numpy as np

from nasir.analysis.uniform import uniform_spaces
from nasir.errors import Decline
from nasir.ir import Atom, Draft, Graph
from nasir.ir.space import Index
from nasir.options import Remedy
from nasir.options.ranges import Cost, Count
from nasir.registry import register
from nasir.rewriting.evidence import Evidence, Need
from nasir.rewriting.new_units import How, Noise, Order, Symmetry, check_symmetry, widen
from nasir.rewriting.rewrite import WHOLE, Pass

Resource: TypeAlias = Literal["macs", "flops", "params"]
Sizes: TypeAlias = dict[Atom, int]

LARGEST = 1 << 16  # factor at which a cost that still fits does not depend on the widths


@register("expand-to-budget")
@dataclass(frozen=True)
class ExpandToBudget(Pass):
    """Scale every resizable width of the network by the largest factor that keeps its cost within a budget.

    budget       most multiply-accumulates, FLOPs (two each) or parameters of the network, for one sample
    resource     macs, flops or params
    how          how new units start, as for widen: replicate, fresh or paired
    multiple_of  new widths are rounded down to a multiple of it, but never change in the wrong direction
    noise        for replicate: relative disturbance of the copies
    symmetry     for replicate: noise, or none
    order        for replicate: circular or random
    shrink       whether a network above the budget is made narrower; else the pass declines
    keep         the units that stay then: the first ones, or those with the largest "norm" of incoming weights
    """

    budget: Annotated[Cost, Remedy("give what one sample may cost")]
    resource: Resource = "macs"
    how: How = "fresh"
    multiple_of: Count = 1
    noise: Noise = 0.0
    symmetry: Symmetry = "noise"
    order: Order = "circular"
    shrink: bool = False
    keep: Literal["first", "norm"] = "first"

    def __post_init__(self) -> None:
        check_symmetry(self.how, self.noise, self.symmetry)

    @property
    def needs(self) -> tuple[Need, ...]:  # type: ignore[override]
        """Norms of incoming weights, where units are chosen by them."""
        return (Need("weight_norm"),) if self.shrink and self.keep == "norm" else ()

    @property
    def shrinks(self) -> bool:  # type: ignore[override]
        """Whether it may make the network narrower."""
        return self.shrink

    def sites(self, graph: Graph) -> Iterable[str]:
        """The network."""
        return [WHOLE] if uniform_spaces(graph) else []

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        """Search the factor, then widen, or select the units that stay."""
        graph = draft.base
        assert graph is not None
        now = cost_of(graph, self.resource)
        if now > self.budget and not self.shrink:
            raise Decline(f"the network has {now:,} {self.resource}, above the budget {self.budget:,.0f}; set shrink")
        factor, sizes = largest_factor(graph, self.budget, self.resource, self.multiple_of)
        if all(size == space.size for space, size in sizes.items()):
            raise Decline(f"at {now:,} {self.resource} no width can grow by one step within {self.budget:,.0f}")
        draft.note("below_factor", float(factor))
        if now <= self.budget:
            widen(draft, sizes, self.how, seen, noise=self.noise, order=self.order)
            return
        for space, size in sizes.items():
            draft.select(space, self._kept(space, size, seen))
        draft.claim("no")

    def _kept(self, space: Atom, size: int, seen: Evidence) -> Index:
        rows = seen.members("weight_norm", space) if self.keep == "norm" else np.zeros((0, space.size))
        if not len(rows):
            return np.arange(size)
        ranked = np.argsort(-rows.mean(axis=0), kind="stable")
        kept: Index = np.sort(ranked[:size])
        return kept


def cost_of(graph: Graph, resource: Resource) -> int:
    """The cost of a network for one sample."""
    cost: int = getattr(graph.cost(), resource)
    return cost


def largest_factor(
    graph: Graph,
    budget: float,
    resource: Resource = "macs",
    multiple_of: int = 1,
    spaces: Sequence[Atom] | None = None,
) -> tuple[Fraction, Sizes]:
    """(the factor below which every factor fits the budget, the widths of the largest that fits).

    Widths are floor(factor * width), rounded down to a multiple of `multiple_of`; none crosses its present size in the
    wrong direction or falls below 1. `spaces` (default: all of `uniform_spaces`) are scaled. Raises Decline where even
    the narrowest network is too expensive, or the widest one that can be tried fits.
    """
    chosen = uniform_spaces(graph) if spaces is None else spaces
    grow = cost_of(graph, resource) <= budget
    scaled = _scaled(chosen, multiple_of, grow)

    def fits(factor: Fraction) -> bool:
        return _cost_after(graph, scaled(factor), resource) <= budget

    if grow:
        low, high = Fraction(1), Fraction(2)
        while fits(high):
            low, high = high, high * 2
            if high > LARGEST:
                raise Decline(f"the {resource} stay within {budget:,.0f} however wide the network is; lower the budget")
    else:
        low, high = Fraction(0), Fraction(1)
        if not fits(low):
            raise Decline(f"even the narrowest network is above {budget:,.0f} {resource}; raise the budget")
    steps = _steps(chosen, multiple_of, low, high)
    first, last = 0, len(steps) - 1  # the cost grows with the factor: look for the first step that does not fit
    while first < last:
        middle = (first + last) // 2
        if fits(steps[middle]):
            first = middle + 1
        else:
            last = middle
    return steps[first], scaled(steps[first - 1] if first else low)


def _scaled(spaces: Sequence[Atom], multiple_of: int, grow: bool) -> Callable[[Fraction], Sizes]:
    def sizes(factor: Fraction) -> Sizes:
        chosen = {}
        for space in spaces:
            size = floor(space.size * factor) // multiple_of * multiple_of
            chosen[space] = max(size, space.size) if grow else max(size, min(space.size, multiple_of))
        return chosen

    return sizes


def _steps(spaces: Sequence[Atom], multiple_of: int, low: Fraction, high: Fraction) -> list[Fraction]:
    """Every factor in (low, high] at which some width changes, in order; `high` is the last."""
    factors = {high}
    for size in {space.size for space in spaces}:
        first, last = (floor(size * factor / multiple_of) for factor in (low, high))
        factors.update(Fraction(count * multiple_of, size) for count in range(first, last + 1))
    return sorted(factor for factor in factors if low < factor <= high)


def _cost_after(graph: Graph, sizes: Mapping[Atom, int], resource: Resource) -> int:
    draft = graph.draft()
    for space, size in sizes.items():
        index = np.arange(size)
        draft.select(space, np.where(index < space.size, index, -1))
    return cost_of(draft.commit(), resource)
