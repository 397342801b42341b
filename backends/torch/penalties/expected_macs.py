"""What the routes of a batch cost, differentiably: the shares of the ways times what the ways cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from nasir.analysis.routing import Home, macs_along, macs_of_ways, routes
from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.lower.routing import Route, Run, runs_seen
from nasir.backends.torch.penalties.forward import ForwardPass
from nasir.ir import Graph
from nasir.training.forward_penalties import ExpectedMacs


class ExpectedMacsTerm:
    """The mean over the batch of the MACs that its routes cost, as a share of those without any choice; or the square
    of the distance of that mean from the target."""

    def __init__(self, graph: Graph, penalty: ExpectedMacs, device: torch.device) -> None:
        self.penalty = penalty
        self.routes = routes(graph)
        self.costs = macs_of_ways(graph)
        self.whole = macs_along(graph, dict.fromkeys(self.routes, 1))
        self.seen: Mapping[int, list[Run]] = {}

    @contextmanager
    def watching(self, model: LoweredModule) -> Iterator[None]:
        if not self.routes:
            yield
            return
        with runs_seen(model, whole=True) as seen:
            self.seen = {route: seen[module] for route in self.routes if isinstance(module := model.leaf(route), Route)}
            yield

    def loss(self, forward: ForwardPass) -> Tensor | None:
        if not self.routes or not self.penalty.strength:
            return None
        expected = forward.logits.new_tensor(self.costs[()] / self.whole)
        for home, macs in self.costs.items():
            if home and macs:
                expected = expected + macs / self.whole * self._share(home).mean()
        self.seen = {}
        target = self.penalty.target
        return self.penalty.strength * (expected if target is None else (expected - target).square())

    def _share(self, home: Home) -> Tensor:
        """The share of each sample that takes all these ways, [N] or with places, [N, T]."""
        total: Tensor | None = None
        for way in home:
            (run,) = self.seen[way.route]
            share = run.shares.select(-1, way.input - 1)
            share = share.to(torch.promote_types(share.dtype, torch.float32))
            total = share if total is None else total * share
        assert total is not None
        return total
