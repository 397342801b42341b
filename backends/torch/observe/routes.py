"""Which ways samples take through a network with routers, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from nasir.analysis.routing import macs_of_ways, routes
from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.lower.routing import runs_seen


@dataclass(slots=True)
class Taken:
    """`rows`: by label of each route, how many samples each of its ways was computed for; `macs`: multiply-accumulates
    of all that was computed, in evaluation, of so many samples. Filled when the `with` ends."""

    rows: dict[str, list[int]] = field(default_factory=dict)
    macs: int = 0

    def shares(self, samples: int) -> dict[str, list[float]]:
        """By label of each route, the share of so many samples that each of its ways was computed for."""
        return {label: [count / samples for count in counts] for label, counts in self.rows.items()}

    def told(self, samples: int) -> dict[str, Any]:
        """What the record of an epoch says of it; nothing of a network without routers."""
        return {"executed_macs": self.macs / samples, "routes": self.shares(samples)} if self.rows else {}


@contextmanager
def taking(model: nn.Module, samples: int) -> Iterator[Taken]:
    """What the routes of a model compute of so many samples, for the length of a `with`; nothing of a model without."""
    taken = Taken()
    choosing = routes(model.graph) if isinstance(model, LoweredModule) else ()
    if not choosing:
        yield taken
        return
    assert isinstance(model, LoweredModule)
    graph = model.graph
    with runs_seen(model) as seen:
        yield taken
    seen_by_id = {id(module): calls for module, calls in seen.items()}
    rows = {route: [0] * (len(graph.nodes[route].inputs) - 1) for route in choosing}
    for route, counts in rows.items():
        for run in seen_by_id.get(id(model.leaf(route)), ()):
            counts[:] = map(sum, zip(counts, run.rows, strict=True))
    taken.rows = {graph.nodes[route].label: counts for route, counts in rows.items()}
    for home, macs in macs_of_ways(graph).items():
        taken.macs += macs * (rows[home[-1].route][home[-1].input - 1] if home else samples)
