"""`morph-widths`: ResBuilder's width step, MorphNet's shrinking and expansion to a FLOP target at once.

Shrink n := floor(s * alive + (1 - s) * n), then expand n := floor(e * floor(omega * n) + (1 - e) * n). The released
code gives every convolution a width of its own, pads with zero channels where sums meet, and trains from scratch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Annotated, Literal, TypeVar

import numpy as np
from annotated_types import Gt, Le

from nasir.analysis.uniform import uniform_spaces
from nasir.analysis.untied import largest_factor, own_widths, set_widths
from nasir.blocks import init_rules
from nasir.blocks.alive import alive_units, blend, dead_blocks, resize, scaled
from nasir.blocks.removal import remove_blocks, shortcut_padding
from nasir.blocks.starts import renew
from nasir.errors import Decline, TypeRuleError
from nasir.ir import Atom, Draft, Graph
from nasir.options.ranges import NotNegative, Positive, Share
from nasir.records import EpochRecord
from nasir.registry import register
from nasir.rewriting.evidence import Evidence, Need
from nasir.rewriting.rewrite import WHOLE, Pass

Key = TypeVar("Key", bound=Hashable)


@register("morph-widths")
@dataclass(frozen=True)
class MorphWidths(Pass):
    """Shrink all layers to their alive channels, then expand them uniformly towards a FLOP target.

    flops        the target, two for each multiply-accumulate; ResBuilder has 1e9 (high), 1e8 (middle), 1e7 (low)
    shrink       s, the part of the way to the alive channels
    expand       e, the part of the way to the expanded widths
    factor       omega: sqrt, of target / actual (as published); exact: the largest whose real cost fits the target
    threshold    a channel is alive when the root mean square of its weights is above this
    ties         independent: each layer has a width of its own, sums are padded (released code; needs rescratch);
                 coupled: channels that are added stay tied, one alive member keeps them all
    width_step   rescratch: all weights start anew (released code); transfer: surviving channels keep their weights,
                 new ones are silent at first (as the paper can be read)
    initializer  for rescratch: a name as for `init:` of a spec
    """

    flops: Positive = 1e9
    shrink: Annotated[float, Gt(0), Le(1)] = 1.0
    expand: Share = 0.5
    factor: Literal["sqrt", "exact"] = "sqrt"
    threshold: NotNegative = 0.01
    ties: Literal["independent", "coupled"] = "independent"
    width_step: Literal["rescratch", "transfer"] = "rescratch"
    initializer: str = "glorot_uniform"

    shrinks = True

    def __post_init__(self) -> None:
        if self.ties == "independent" and self.width_step == "transfer":
            raise ValueError(
                "width_step: transfer needs ties: coupled; where each layer has its own width, channels "
                "of old weights belong to no channel of the new ones"
            )
        init_rules(self.initializer)

    @property
    def needs(self) -> tuple[Need, ...]:  # type: ignore[override]
        """What tells alive channels: weights of each layer, or scores of tied units."""
        return (Need("weights" if self.ties == "independent" else "group_lasso"),)

    def sites(self, graph: Graph) -> Iterable[str]:
        """The network as a whole."""
        return [WHOLE]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        """New widths for all layers; declines as long as the run has not trained the network at all."""
        if seen.history and not any(isinstance(record, EpochRecord) for record in seen.history):
            raise Decline("the network is not trained yet: its channels say nothing")
        try:
            if self.ties == "independent":
                self._independent(draft, seen)
            else:
                self._coupled(draft, seen)
            if self.width_step == "rescratch":
                renew(draft, self.initializer)
        except TypeRuleError as error:
            raise Decline(f"the new widths do not fit together: {error}") from error

    def _independent(self, draft: Draft, seen: Evidence) -> None:
        graph = draft.base
        assert graph is not None
        old = own_widths(graph)
        alive = {n: _alive(seen, graph.nodes[n].label, self.threshold) for n in old}
        gone = _blocks_of(graph, [node_id for node_id, count in alive.items() if not count])
        inside = {node_id for path in gone for node_id in graph.members(path)}
        shrunk = {n: max(1, blend(old[n], alive[n], self.shrink)) for n in old if n not in inside}
        new = self._widened(shrunk, lambda widths: _rebuilt(graph, gone, widths))
        remove_blocks(draft, gone)
        set_widths(draft, new)
        draft.note("widths", {graph.nodes[n].label: [old[n], alive[n], new.get(n, 0)] for n in old})

    def _coupled(self, draft: Draft, seen: Evidence) -> None:
        graph = draft.base
        assert graph is not None
        alive = alive_units(graph, lambda space: seen.members("group_lasso", space), self.threshold)
        gone = dead_blocks(graph, [space for space, units in alive.items() if not units.count])
        shrunk = {space: max(1, blend(space.size, units.count, self.shrink)) for space, units in alive.items()}

        def built(sizes: Mapping[Atom, int]) -> Graph:
            trial = graph.draft()
            remove_blocks(trial, gone)
            resize(trial, {**shrunk, **sizes}, alive)
            return trial.commit()

        scaling = {space: shrunk[space] for space in uniform_spaces(graph) if space in shrunk}
        new = {**shrunk, **self._widened(scaling, built)}
        remove_blocks(draft, gone)
        resize(draft, new, alive)
        draft.note("widths", {space.name: [space.size, alive[space].count, new[space]] for space in new})
        if self.width_step == "transfer":
            draft.claim("approximate")

    def _widened(self, shrunk: Mapping[Key, int], built: Callable[[Mapping[Key, int]], Graph]) -> dict[Key, int]:
        """The expanded widths; `built` gives the network of some widths."""
        if self.factor == "sqrt":
            omega = sqrt(self.flops / max(1, flops_of(built(shrunk))))
        else:
            omega = largest_factor(lambda factor: flops_of(built(scaled(shrunk, factor))) <= self.flops)
            if not omega:
                raise Decline(f"even one channel a layer costs more than {self.flops:,.0f} FLOPs")
        return expanded(shrunk, omega, self.expand)


def expanded(sizes: Mapping[Key, int], omega: float, share: float) -> dict[Key, int]:
    """floor(share * floor(omega * n) + (1 - share) * n) of every width n, at least 1."""
    wide = scaled(sizes, omega)
    return {key: max(1, blend(size, wide[key], share)) for key, size in sizes.items()}


def flops_of(graph: Graph) -> int:
    """Forward cost of one sample, two FLOPs for each multiply-accumulate (MorphNet's convention)."""
    return 2 * graph.cost().macs


def _alive(seen: Evidence, label: str, threshold: float) -> int:
    """Number of output units of a layer whose weights have a root mean square above the threshold."""
    weight = np.asarray(seen.weight(label, "weight"), dtype=np.float64)
    return int((np.sqrt(np.square(weight).reshape(len(weight), -1).mean(axis=1)) > threshold).sum())


def _blocks_of(graph: Graph, dead: Iterable[int]) -> list[str]:
    """The blocks around dead layers, where they can go."""
    paths = {path for node_id in dead for path in graph.owners[node_id]}
    return [b.path for b in graph.blocks if b.path in paths and shortcut_padding(graph, b.path) is not None]


def _rebuilt(graph: Graph, gone: Iterable[str], widths: Mapping[int, int]) -> Graph:
    draft = graph.draft()
    remove_blocks(draft, gone)
    set_widths(draft, widths)
    return draft.commit()
