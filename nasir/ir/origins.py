"""`Origins`: where an edit says that single weights of the new graph come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasir.errors import GraphError
from nasir.ir.source import Key, Source, Take, digest_of
from nasir.ir.types import Fill


@dataclass(slots=True)
class Origins:
    """By weight of the new graph; the spaces decide on those that it does not name (`nasir.transfer.derive`).

    A source goes before a fill, and a fill before a copy, whichever was said first. `copies`: the weight of the graph
    before that is taken whole. `blobs`: the literal arrays that sources name, by digest.
    """

    sources: dict[Key, Source] = field(default_factory=dict)
    fills: dict[Key, Fill] = field(default_factory=dict)
    copies: dict[Key, Key] = field(default_factory=dict)
    blobs: dict[str, NDArray[Any]] = field(default_factory=dict)

    def named(self) -> tuple[Key, ...]:
        """The weights with a stated source; one may occur several times."""
        return (*self.fills, *self.copies, *self.sources)

    def of(self, key: Key, axes: int) -> Source | None:
        """The source of a weight with so many axes; None where none is stated."""
        if key in self.sources:
            return self.sources[key]
        if key in self.fills:
            return self.fills[key]
        return Take(self.copies[key], (None,) * axes) if key in self.copies else None

    def say(self, key: Key, source: Source) -> None:
        """State the source of a weight; raises GraphError for anything that is not a source."""
        if not isinstance(source, Source):
            raise GraphError(
                f"weight {key.slot!r} of node {key.node}: a {type(source).__name__} is no source; give a Take, Stack, "
                "Sum, Fill or Blob of nasir.transfer"
            )
        self.sources[key] = source

    def retract(self, since: int) -> None:
        """Forget the stated sources of weights of nodes with ids from `since` on."""
        self.sources = {key: source for key, source in self.sources.items() if key.node < since}
        self.fills = {key: rule for key, rule in self.fills.items() if key.node < since}
        self.copies = {key: source for key, source in self.copies.items() if key.node < since}

    def keep(self, array: NDArray[Any]) -> str:
        """Keep a literal array for a `Blob`; returns its digest. GraphError unless it holds finite numbers."""
        kept = np.ascontiguousarray(array).reshape(array.shape)
        if kept.dtype not in (np.float32, np.float64, np.int64) or not bool(np.isfinite(kept).all()):
            raise GraphError(f"a blob must hold finite float32, float64 or int64 numbers, not {kept.dtype}")
        digest = digest_of(kept)
        self.blobs[digest] = kept
        return digest
