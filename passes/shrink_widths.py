"""`shrink-widths`: every layer keeps the channels that a sparsity penalty has left alive (MorphNet, step 2).

MorphNet (Gordon et al. 2018, arXiv:1711.06798): train with a penalty on the cost, keep what is alive, expand uniformly
(`expand-to-budget`), train again. ResBuilder shrinks by part of the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Gt, Le
from numpy.typing import NDArray

from nasir.blocks import init_rules
from nasir.blocks.alive import alive_units, blend, dead_blocks, resize
from nasir.blocks.removal import remove_blocks
from nasir.blocks.starts import renew
from nasir.errors import Decline
from nasir.ir import Atom, Draft, Graph
from nasir.options.ranges import Count, NotNegative, Share
from nasir.registry import register
from nasir.rewriting.evidence import Evidence, Need
from nasir.rewriting.rewrite import WHOLE, Pass, parts_of


@register("shrink-widths")
@dataclass(frozen=True)
class ShrinkWidths(Pass):
    """Remove dead channels everywhere; a block with a layer that is dead altogether becomes its shortcut.

    score        group_lasso: root mean square of a unit's weights; norm_scale: |scale| of the norm behind it ("gamma")
    threshold    a unit is alive when its score in any tied layer is above this
    l1           share of the mean of |w| in the score group_lasso; take what the penalty had
    grouping     max: the largest score of all tied layers counts; l2: the root of their sum of squares
    exclude      labels, or prefixes of labels, of layers whose channels are alive whatever their scores
    rate         s of n := floor(s * alive + (1 - s) * n); 1: only alive channels stay
    floor        channels that a layer keeps at least
    width_step   transfer: the weights of what stays stay; rescratch: all weights start anew
    initializer  for rescratch: a name as for `init:` of a spec
    """

    score: Literal["group_lasso", "norm_scale"] = "group_lasso"
    threshold: NotNegative = 0.01
    l1: Share = 0.0
    grouping: Literal["max", "l2"] = "max"
    exclude: tuple[str, ...] = ()
    rate: Annotated[float, Gt(0), Le(1)] = 1.0
    floor: Count = 1
    width_step: Literal["transfer", "rescratch"] = "transfer"
    initializer: str = "default"

    shrinks = True

    def __post_init__(self) -> None:
        if self.l1 and self.score != "group_lasso":
            raise ValueError(f"l1 is {self.l1}; it must be 0 for the score {self.score}")
        init_rules(self.initializer)

    @property
    def needs(self) -> tuple[Need, ...]:  # type: ignore[override]
        """The scores of all units."""
        return (Need(self.score), Need("weight_mean")) if self.l1 else (Need(self.score),)

    def sites(self, graph: Graph) -> Iterable[str]:
        """The network as a whole."""
        return [WHOLE]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        """Select the alive units of all spaces; declines where nothing is dead."""
        graph = draft.base
        assert graph is not None
        parts_of(graph, site, self.exclude)
        alive = alive_units(graph, lambda space: self._rows(seen, space), self.threshold, self.exclude)
        if not alive:
            raise Decline(f"{self.score} was measured on none of the spaces: the network has no such layers")
        gone = dead_blocks(graph, [space for space, units in alive.items() if not units.count])
        sizes = {space: max(self.floor, blend(space.size, units.count, self.rate)) for space, units in alive.items()}
        sizes = {space: min(size, space.size) for space, size in sizes.items()}
        if not gone and all(size == space.size for space, size in sizes.items()):
            raise Decline(f"all channels have a {self.score} above {self.threshold:g}: nothing to remove")
        draft.note("widths", {space.name: [space.size, sizes[space]] for space in sizes})
        remove_blocks(draft, gone)
        resize(draft, sizes, alive)
        if self.width_step == "rescratch":
            renew(draft, self.initializer)
        else:
            draft.claim("approximate")

    def _rows(self, seen: Evidence, space: Atom) -> NDArray[np.float64]:
        """Scores of the units of a space, a row for each tied layer, or one for all with `grouping: l2`."""
        rows = seen.members(self.score, space)
        if self.l1:
            rows = (1.0 - self.l1) * rows + self.l1 * seen.members("weight_mean", space)
        return np.sqrt(np.square(rows).sum(axis=0, keepdims=True)) if self.grouping == "l2" and len(rows) else rows
