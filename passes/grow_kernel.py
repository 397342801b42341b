"""`grow-kernel`: larger convolution kernels, zero at their new rim (Wei et al., Network Morphism, arXiv:1603.01670)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge

from nasir.errors import Decline, GraphError
from nasir.ir import Draft, Fill, Graph, per_axis
from nasir.ir.space import size_of
from nasir.ir.types import kernel_of
from nasir.ops.windows import times
from nasir.options import Remedy
from nasir.options.ranges import Count
from nasir.registry import register
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import WHOLE, Pass
from nasir.transfer import AxisTake, Key, Take


@register("grow-kernel")
@dataclass(frozen=True)
class GrowKernel(Pass):
    """Grow the kernels of one convolution, of a region's or of all ("network") by zeros all around; exact.

    Padding grows with them, so that every output keeps its size and its value. Sites are labels of convolutions,
    regions and the network.

    to     size of the new kernels along every axis; those of even size need an even number
    least  in a region or the network, convolutions whose kernel is smaller stay as they are: 2 spares all that are 1x1
    """

    to: Annotated[int, Ge(2), Remedy("use 3, 5 or 7")] = 5
    least: Count = 2

    def sites(self, graph: Graph) -> Iterable[str]:
        """Every convolution with a smaller kernel, every region that holds one, and the network."""
        labels = [graph.nodes[n].label for n in graph.order if self._grows(graph, n, 1)]
        regions = [path for path in graph.regions if self._inside(graph, path)]
        return [*labels, *regions, WHOLE]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        """Set kernel and padding, and take each weight into the middle of a larger one."""
        graph = draft.base
        assert graph is not None
        least = 1 if site in graph.labels else self.least
        if site == WHOLE or site in graph.regions:
            chosen = self._inside(graph, site)
        elif site in graph.labels:
            chosen = [graph.labels[site]] if self._grows(graph, graph.labels[site], 1) else []
        else:
            raise GraphError(f"no node, region or 'network' is called {site!r}")
        if not chosen:
            raise Decline(f"'{site}' has no convolution with a kernel of at least {least} and below {self.to}")
        for node_id in chosen:
            self._grow(draft, graph, node_id)
        draft.claim("exact")

    def _inside(self, graph: Graph, site: str) -> list[int]:
        ids = graph.order if site == WHOLE else graph.members(site)
        return [node_id for node_id in ids if self._grows(graph, node_id, self.least)]

    def _grows(self, graph: Graph, node_id: int, least: int) -> bool:
        node = graph.nodes[node_id]
        if node.facts.family != "weighted" or not {"kernel", "padding", "dilation"} <= node.attrs.keys():
            return False
        if node_id in graph.sharing:  # the other layer would need it too
            return False
        kernel = _window(graph, node_id)
        if not kernel or node.attrs["kernel"] not in (kernel, kernel[0]):
            return False
        return least <= min(kernel) < self.to and max(kernel) <= self.to

    def _grow(self, draft: Draft, graph: Graph, node_id: int) -> None:
        node, slots = draft.nodes[node_id], graph.infer.slots[node_id]
        kernel = _window(graph, node_id)
        padding, dilation = (per_axis(node.attrs[name], len(kernel)) for name in ("padding", "dilation"))
        if any((self.to - size) % 2 for size in kernel):
            raise Decline(
                f"'{node.label}': a {times(kernel)} kernel does not lie in the middle of "
                f"{times((self.to,) * len(kernel))}; choose a size that differs by an even number"
            )
        rims = [(self.to - size) // 2 for size in kernel]
        wider = [pad + rim * step for pad, rim, step in zip(padding, rims, dilation, strict=True)]
        draft.set_attrs(node_id, kernel=self.to, padding=wider)
        middle = [AxisTake(_middle(size, rim), None, Fill("zeros")) for size, rim in zip(kernel, rims, strict=True)]
        name = kernel_of(slots)
        assert name is not None
        axes = [middle.pop(0) if axis.role == "fixed" else None for axis in slots[name].axes]
        draft.source(node_id, name, Take(Key(node_id, name), tuple(axes)))


def _window(graph: Graph, node_id: int) -> tuple[int, ...]:
    """Sizes of the axes of a kernel that are neither read nor written."""
    name = kernel_of(graph.infer.slots[node_id])
    axes = () if name is None else graph.infer.slots[node_id][name].axes
    return tuple([size_of(axis.space) for axis in axes if axis.role == "fixed"])


def _middle(size: int, rim: int) -> np.ndarray:
    return np.pad(np.arange(size), rim, constant_values=-1)
