"""What the residual branches of a network contribute to its stream: measured numbers, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from nasir.analysis.branch_scales import most_responsive, response
from nasir.analysis.residuals import STREAM, ResidualSum
from nasir.files import finite
from nasir.ir.graph import Graph

Statistics: TypeAlias = Literal["running", "batch"]
"""By which numbers batch norms normalize: their running statistics, or those of the batch, as in training."""

POINTS = 12
"""Of the response up to its maximum."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A number of each sample: its mean and its median over them."""

    mean: float
    median: float


@dataclass(frozen=True, slots=True)
class Contribution:
    """One residual sum, x + f(x), measured on a batch. `label` is that of the sum, `block` the path of its block.

    `projected`: x is a projection of what the block reads. `depth`: branches that the stream has taken up since it
    began, or was last projected or normalized, this one included.
    `ratio`: |f(x)| / |x|, `share`: |f(x)| / |x + f(x)|, of each sample (|.|: Euclidean norm over all its numbers).
    `stream`, `branch`, `total`: variance of x, f(x) and x + f(x): of each channel over samples and places, the mean
    over the channels. `scale`: the number that f ends in, constants times a learned one; 1 where there is none.
    `gradient`: |d loss / d (x + f(x))| of a sample, the mean over them; None without labels.
    """

    label: str
    block: str
    projected: bool
    depth: int
    ratio: Spread
    share: Spread
    stream: float
    branch: float
    total: float
    scale: float = 1.0
    gradient: float | None = None

    @property
    def variance_share(self) -> float:
        """Part that the variance of the branch has in that of the sum; above 1 where stream and branch cancel."""
        return _divided(self.branch, self.total)

    @property
    def expected_share(self) -> float:
        """What `variance_share` would be if all branches of the stream, and what it began as, were independent and had
        the same variance, as where a batch norm ends each of them: 1 / (depth + 1) (De and Smith, 2020)."""
        return 1 / (self.depth + 1)


@dataclass(frozen=True, slots=True)
class ResidualAnalysis:
    """The residual sums of a network in their order, measured on `samples`; `n` of them lie on its longest way.

    `weights`: what weights they were measured with, in words; `data`: on what. `orders`: see `OrderShare`.
    """

    sums: tuple[Contribution, ...]
    n: int
    samples: int
    statistics: Statistics
    weights: str = "as given"
    data: str = "as given"
    orders: tuple[OrderShare, ...] = ()

    @property
    def path_mass(self) -> float:
        """Product of 1 + ratio (the median) over all sums: each of the 2^n paths through n branches weighs the product
        of the ratios of the branches that it takes. (As if all lay one behind another, also where some lie side by
        side.)"""
        return math.prod(1 + item.ratio.median for item in self.sums)

    @property
    def scale_mass(self) -> float:
        """`path_mass` if each branch, without its scale, were as long as the stream: product of 1 + |scale|."""
        return math.prod(1 + abs(item.scale) for item in self.sums)

    @property
    def effective_depth(self) -> float:
        """Branches that a path takes, on average over all paths by weight: sum of ratio / (1 + ratio). (Our reading of
        an effective depth.)"""
        return effective_depth(item.ratio.median for item in self.sums)

    @property
    def response(self) -> tuple[tuple[float, float], ...]:
        """(scale, `response` of n residual sums, its maximum taken as 1), at whole percents from 0 to about three
        times the scale at the maximum."""
        best = self.most_responsive_scale
        if best is None:
            return ()
        highest = response(best, self.n)
        scales = [step / 100 for step in range(0, round(300 * best) + 1, max(1, round(100 * best / POINTS)))]
        return tuple((scale, response(scale, self.n) / highest) for scale in scales)

    @property
    def most_responsive_scale(self) -> float | None:
        """See `most_responsive`; None without sums."""
        return most_responsive(self.n) if self.n else None

    def to_json(self) -> dict[str, Any]:
        """As data; null for what is not finite or was not measured."""
        return {
            "n": self.n,
            "samples": self.samples,
            "statistics": self.statistics,
            "weights": self.weights,
            "data": self.data,
            "path_mass": finite(self.path_mass),
            "scale_mass": finite(self.scale_mass),
            "effective_depth": finite(self.effective_depth),
            "most_responsive_scale": self.most_responsive_scale,
            "response": [{"scale": scale, "response": finite(value)} for scale, value in self.response],
            "sums": [_row(item) for item in self.sums],
            "orders": [
                {"order": item.order, "share": finite(item.share), "partial": finite(item.partial)}
                for item in self.orders
            ],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ResidualAnalysis:
        """What `to_json` gave."""
        return cls(
            tuple(_read(row) for row in data["sums"]),
            data["n"],
            data["samples"],
            data["statistics"],
            data["weights"],
            data["data"],
            tuple(OrderShare(row["order"], _number(row["share"]), _number(row["partial"])) for row in data["orders"]),
        )


@dataclass(frozen=True, slots=True)
class OrderShare:
    """The part of the residual expansion of one order k: what needs exactly k branches to be there together.

    With F(S) the logits of the network that keeps the branches S alone, the part of a set S is the alternating sum of
    F over its subsets, and that of order k the sum of these parts over all sets of k branches; all orders add up to
    the logits. (For linear branches these are the terms of the product of 1 + f expanded; for others it is our reading
    of Dherin and Munn, arXiv:2510.03470.) `share`: |part| / |logits|, `partial`: |orders up to k - logits| / |logits|,
    each of a sample, the mean over them.
    """

    order: int
    share: float
    partial: float


def effective_depth(ratios: Iterable[float]) -> float:
    """Sum of ratio / (1 + ratio), which is 1 for a branch that is all there is."""
    return sum(1.0 if math.isinf(ratio) else ratio / (1 + ratio) for ratio in ratios)


def stream_depths(graph: Graph, sums: Sequence[ResidualSum]) -> tuple[int, ...]:
    """`Contribution.depth` of each."""
    depths: dict[int, int] = {}
    for item in sums:
        port = item.stream
        while port.node not in depths:
            node = graph.nodes[port.node]
            if node.facts.family not in STREAM or node.facts.family == "norm" or len(node.inputs) != 1:
                break
            port = node.inputs[0]
        depths[item.node] = 1 if item.projected else depths.get(port.node, 0) + 1
    return tuple(depths[item.node] for item in sums)


def _divided(part: float, whole: float) -> float:
    return part / whole if whole else (math.inf if part else 0.0)


def _row(item: Contribution) -> dict[str, Any]:
    return {
        "label": item.label,
        "block": item.block,
        "projected": item.projected,
        "depth": item.depth,
        "ratio": {"mean": finite(item.ratio.mean), "median": finite(item.ratio.median)},
        "share": {"mean": finite(item.share.mean), "median": finite(item.share.median)},
        "variance": {name: finite(getattr(item, name)) for name in ("stream", "branch", "total")},
        "variance_share": finite(item.variance_share),
        "expected_share": item.expected_share,
        "scale": finite(item.scale),
        "gradient": finite(item.gradient),
    }


def _read(row: dict[str, Any]) -> Contribution:
    return Contribution(
        row["label"],
        row["block"],
        row["projected"],
        row["depth"],
        Spread(_number(row["ratio"]["mean"]), _number(row["ratio"]["median"])),
        Spread(_number(row["share"]["mean"]), _number(row["share"]["median"])),
        _number(row["variance"]["stream"]),
        _number(row["variance"]["branch"]),
        _number(row["variance"]["total"]),
        _number(row["scale"]),
        row["gradient"],
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
