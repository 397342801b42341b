"""`prune-channels`: remove the units that matter least from any resizable space, with everything that is tied to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Len, Lt, MinLen

from nasir.analysis.sizing import Sizing
from nasir.errors import Decline
from nasir.ir import Atom, Draft, Graph, Index
from nasir.options import Remedy
from nasir.options.ranges import Count, Share, Whole
from nasir.pruning import fold
from nasir.pruning.choose import Counts, Queue, Ranking, by_cost, by_fraction, by_latency, by_threshold
from nasir.pruning.score import Aggregate, Normalize, Score, Scores, measured, scores_of, weakest_first
from nasir.pruning.spaces import Kind, Resizable, chosen
from nasir.pruning.target import Resource, amount
from nasir.registry import register
from nasir.rewriting.evidence import Evidence, Need
from nasir.rewriting.rewrite import WHOLE, Pass, Refresh, Site


@register("prune-channels")
@dataclass(frozen=True)
class PruneChannels(Pass):
    """Remove channels, groups or heads by score, through sums, concatenations, depthwise and grouped layers.

    score         l1, l2: sum of |w| or w ** 2 over every weight array tied to the unit; norm_scale: |scale| of its
                  norms; taylor: |sum of w * gradient| on training images; activation_mean: mean |output| on the probe
                  images; group_lasso: root mean square of the weights that write it; random
    aggregate     mean, max or sum over the tied arrays
    normalize     divide the scores of a space by their mean, max or sum, or none; null: mean for a global ranking, none
                  otherwise
    ranking       local: every space loses the same fraction; global: one ranking of all units
    fraction      of the units to remove, 0 to 1
    threshold     remove units whose score is not above it
    target        {macs: N}, {params: N} or {latency: seconds}; "50%" means half of what it is now
    floor         units that a space always keeps
    multiple_of   sizes stay multiples of it, unless a space keeps all its units
    spaces        kinds a network or region is pruned in: channels, groups, widths (of groups), heads, head_dims
    l1            share of mean |w| in group_lasso
    constants     fold: units that are constant but not zero are folded into what reads them, and refused where that is
                  not exact; drop: they are removed like any other
    recalibrate   batches over which batch norms refresh their statistics afterwards
    """

    score: Score = "l2"
    aggregate: Aggregate = "mean"
    normalize: Normalize | None = None
    ranking: Ranking = "local"
    fraction: Annotated[float, Gt(0), Lt(1), Remedy("0.5 removes half of the units")] | None = None
    threshold: Annotated[float, Ge(0), Remedy("no score is below 0")] | None = None
    target: Annotated[Mapping[Resource, float | str], Len(1, 1), Remedy("write target: {macs: 50%}")] | None = None
    floor: Count = 1
    multiple_of: Count = 1
    spaces: Annotated[tuple[Kind, ...], MinLen(1)] = ("channels", "groups", "heads")
    l1: Share = 0.0
    constants: Literal["fold", "drop"] = "fold"
    recalibrate: Whole = 0

    shrinks = True

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.fraction, self.threshold, self.target)) != 1:
            raise ValueError("give exactly one of fraction, threshold and target")
        if self.target is not None:
            [value] = self.target.values()
            amount(value, 1.0)

    @property
    def needs(self) -> tuple[Need, ...]:  # type: ignore[override]
        """What the score is made of, the weights that tell silent units, and a clock for a latency target."""
        kinds = [*measured(self.score, self.l1), "weights"]
        if self.target is not None and "latency" in self.target:
            kinds.append("latency")
        return tuple([Need(kind) for kind in kinds])

    def sites(self, graph: Graph) -> Iterable[Site]:
        """The whole network, every region, every space; one that is pinned is refused with the reason."""
        return [WHOLE, *graph.regions, *graph.infer.spaces]

    def rewrite(self, draft: Draft, site: Site, seen: Evidence) -> Refresh | None:
        """Select the units that stay; the weights of all that is tied to them follow."""
        graph = draft.base
        assert graph is not None
        spaces, scores = self._scored(chosen(graph, site, self.spaces, self.floor, self.multiple_of), seen)
        counts = self._counts(graph, spaces, scores, seen)
        kept: dict[Atom, Index] = {}
        for space, count, order in zip(spaces, counts.tolist(), weakest_first(scores), strict=True):
            if count < space.atom.size:
                kept[space.atom] = np.sort(order[space.atom.size - count :])
        if not kept:
            raise Decline("no unit goes: scores, floor and multiple_of keep all of them")
        folding = self.constants == "fold"
        exact, folds = fold.effects(graph, kept, seen, folding)
        for atom, index in kept.items():
            draft.select(atom, index)
        fold.apply(draft, folds, kept)
        draft.claim("exact" if exact else "no")
        return Refresh(batches=self.recalibrate) if self.recalibrate else None

    def _scored(self, spaces: list[Resizable], seen: Evidence) -> tuple[list[Resizable], list[Scores]]:
        normalize = self.normalize or ("mean" if self.ranking == "global" and self.threshold is None else "none")
        scored = []
        for space in spaces:
            values = scores_of(seen, space.atom, self.score, self.aggregate, normalize, self.l1)
            if values is not None:
                scored.append((space, values))
        if not scored:
            names = ", ".join([f"'{space.atom.name}'" for space in spaces[:3]])
            raise Decline(f"score {self.score} is not defined for {names}: nothing of its kind is tied to them")
        return [space for space, _ in scored], [values for _, values in scored]

    def _counts(self, graph: Graph, spaces: list[Resizable], scores: list[Scores], seen: Evidence) -> Counts:
        queue = Queue.of(spaces, scores, self.ranking)
        if self.fraction is not None:
            return by_fraction(queue, self.fraction, self.ranking)
        if self.threshold is not None:
            return by_threshold(queue, scores, self.threshold)
        assert self.target is not None
        ((resource, value),) = self.target.items()
        if resource == "latency":
            return by_latency(graph, queue, value, seen)
        return by_cost(queue, Sizing(graph), resource, value)
