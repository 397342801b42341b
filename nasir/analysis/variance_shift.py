"""Variance shift: dropout before a norm with running statistics (Li et al., CVPR 2019).

While training, what is dropped makes the values that the norm sees vary more than in evaluation, and its running
variance is that of training. How much more is computed here, not measured: for weights that are independent with mean
zero and keep the variance, and for a signal that is standard normal in each channel behind a norm, as in a network that
has just been made; the zeros at the borders of images are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasir.analysis.statistics import keeps_statistics
from nasir.ir import Graph, Node, Port

Array = NDArray[np.float64]
WIDTH = 6.0  # standard deviations of a normal distribution that are summed over
SAMPLES, CHANNELS = 241, 61  # and in how many steps


@dataclass(frozen=True, slots=True)
class Shift:
    """Node `drop` drops at random, and node `norm` with its running statistics normalizes that.

    `ratio`: variance in training / variance in evaluation of what comes into the norm; None where what lies between
    has no closed form. `least`: what is dropped is not known to be normalized, so it is the least that the ratio can
    be, that of a mean of zero.
    """

    drop: int
    norm: int
    ratio: float | None
    least: bool


REMEDY = "drop behind the last norm; in residual branches `place-dropout` with `move: true` does so"


def variance_shifts(graph: Graph) -> Iterator[Shift]:
    """The nodes that drop and the first norm with running statistics behind each, in the order of the network.

    Ways end at sums: the rest of the stream does not drop with the branch, and in a residual branch the norms of the
    blocks behind it see but a share of what is dropped.
    """
    position = {node_id: index for index, node_id in enumerate(graph.order)}
    for node_id in graph.order:
        node = graph.nodes[node_id]
        if node.facts.drops is not None and node.attrs["p"] and not graph.is_frozen(node_id):
            way = _way(graph, node_id, position)
            if way:
                yield _shift(graph, node_id, way[:-1], way[-1])


def _way(graph: Graph, start: int, position: Mapping[int, int]) -> list[int]:
    """The nodes from behind `start` up to the first norm with running statistics; none where there is no such norm."""
    before: dict[int, int] = {}
    ahead = [(position[user], user, start) for user in graph.users(start)]
    heapify(ahead)
    while ahead:
        _, node_id, reached = heappop(ahead)
        facts = graph.nodes[node_id].facts
        if node_id in before or facts.adds:
            continue
        before[node_id] = reached
        if facts.family == "norm" and keeps_statistics(graph, node_id):
            way = [node_id]
            while before[way[-1]] != start:
                way.append(before[way[-1]])
            return way[::-1]
        for user in graph.users(node_id):
            heappush(ahead, (position[user], user, node_id))
    return []


def _shift(graph: Graph, drop: int, way: list[int], norm: int) -> Shift:
    known = _signal(graph, graph.nodes[drop].inputs[0])
    signal = known or Signal.normal(0.0, 1.0)
    dropped: Signal | None = signal.dropped(graph.nodes[drop])
    evaluated: Signal | None = signal
    for node_id in way:
        if known is None and graph.nodes[node_id].facts.family == "activation":
            return Shift(drop, norm, None, least=False)  # what it makes of the signal depends on the mean, too
        evaluated = evaluated and evaluated.through(graph, node_id)
        dropped = dropped and dropped.through(graph, node_id)
    if evaluated is None or dropped is None:
        return Shift(drop, norm, None, least=False)
    return Shift(drop, norm, dropped.variance / evaluated.variance, least=known is None)


def told(graph: Graph, shifts: Sequence[Shift]) -> str:
    """What is wrong, in words: of the first, and how many more there are."""
    first = shifts[0]
    node, norm = graph.nodes[first.drop], graph.nodes[first.norm]
    if first.ratio is None:
        often = "more than in evaluation (how much has no closed form here)"
    else:
        least = "at least " if first.least else ""
        often = f"{least}{first.ratio:.2f} times as much as in evaluation (computed for random weights)"
    more = f"; {len(shifts) - 1} more like it" if len(shifts) > 1 else ""
    return (
        f"{node.op} '{node.label}' (p {node.attrs['p']:g}) lies before the norm '{norm.label}': in training what that "
        f"normalizes varies {often}{more}"
    )


@dataclass(frozen=True, slots=True)
class Signal:
    """Values of all channels, [channel, sample], and how often each channel and each sample is met."""

    values: Array
    channels: Array
    samples: Array

    @classmethod
    def normal(cls, mean_square: float, variance: float) -> Signal:
        """Normal in each channel, with this variance, around means that are normal, too."""
        means, channels = _standard_normal(CHANNELS if mean_square > 0.0 else 1)
        values, samples = _standard_normal(SAMPLES)
        return cls(np.sqrt(mean_square) * means[:, None] + np.sqrt(variance) * values, channels, samples)

    @property
    def means(self) -> Array:
        """Of each channel."""
        return self.values @ self.samples

    @property
    def variance(self) -> float:
        """Over samples, the mean of all channels."""
        return float(self.channels @ ((self.values - self.means[:, None]) ** 2 @ self.samples))

    def dropped(self, node: Node) -> Signal:
        """As it is while training behind a node that drops."""
        p: Any = node.attrs["p"]
        kept = self.values if node.attrs.get("rescale") is False or p == 1.0 else self.values / (1.0 - p)
        both = np.concatenate([kept, np.zeros_like(kept)], axis=1)
        return Signal(both, self.channels, np.concatenate([(1.0 - p) * self.samples, p * self.samples]))

    def through(self, graph: Graph, node_id: int) -> Signal | None:
        """As it comes out of a node; None where that is not known."""
        node, facts = graph.nodes[node_id], graph.nodes[node_id].facts
        if facts.family == "weighted":  # sums of many products with random weights: normal, around means of any sign
            return Signal.normal(float(self.channels @ self.means**2), self.variance)
        if facts.pointwise is not None and len(node.inputs) == 1:
            return Signal(np.asarray(facts.pointwise(self.values, **node.attrs)), self.channels, self.samples)
        return self if facts.family in ("passive", "shape", "concat", "split") and keeps_all(graph, node_id) else None


def _standard_normal(steps: int) -> tuple[Array, Array]:
    """Values of an odd number of steps, and how often each is met; a single one is 0."""
    values = np.linspace(-WIDTH, WIDTH, steps) if steps > 1 else np.zeros(1)
    often = np.exp(-0.5 * values**2)
    return values, often / often.sum()


def keeps_all(graph: Graph, node_id: int) -> bool:
    """Whether all that comes in comes out, in whatever order."""
    inputs = sum(prod(graph.infer.types[port].shape) for port in graph.nodes[node_id].inputs)
    return inputs == prod(graph.infer.types[Port(node_id)].shape)


def _signal(graph: Graph, port: Port) -> Signal | None:
    """What comes out of a port in evaluation; None where it does not come from a norm, or is not known."""
    way: list[int] = []
    while graph.nodes[port.node].facts.family != "norm":
        inputs = graph.nodes[port.node].inputs
        if len(inputs) != 1:
            return None
        way.append(port.node)
        port = inputs[0]
    signal: Signal | None = Signal.normal(0.0, 1.0)
    for node_id in reversed(way):
        signal = signal and signal.through(graph, node_id)
    return signal
