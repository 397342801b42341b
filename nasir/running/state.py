"""The position of a run, in addition to its weights and its journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nasir.ir import Graph
from nasir.training.backend import Stretch


@dataclass(slots=True)
class RunState:
    """What decisions and epochs change, in one place: engine, decisions and shared prefixes look at the same one."""

    graph: Graph  # the network as it is now
    ordinal: int = 0  # rewrites and recalls so far: with the seed, the key of their random numbers
    undecided: bool = False  # the policy was not asked yet about the last epoch of the journal
    stretch: Stretch | None = None  # of an epoch that was interrupted

    def to_meta(self, graph: str) -> dict[str, Any]:
        """As checkpoints keep it; `graph` is the name of the blob of the network."""
        stretch = None if self.stretch is None else {"steps": self.stretch.steps, "sums": dict(self.stretch.sums)}
        return {"graph": graph, "ordinal": self.ordinal, "decided": not self.undecided, "stretch": stretch}

    def go_back(self, meta: Mapping[str, Any], graph: Graph) -> None:
        """Become what `to_meta` gave, with the network of its blob; an older one may lack all but graph and ordinal."""
        stretch = meta.get("stretch")
        self.graph = graph
        self.ordinal = int(meta["ordinal"])
        self.undecided = not meta.get("decided", True)
        self.stretch = None if stretch is None else Stretch({}, False, stretch["steps"], stretch["sums"])
