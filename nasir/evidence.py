"""What passes and policies may look at: measurements of the network and the history of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasir.errors import NasirError
from nasir.ir.space import Atom

KINDS = {
    "activation_mean": "mean absolute value of each unit of a space over probe images, after its first writer's norm",
    "weight_norm": "root mean square of the weights that write each unit of a space",
}


@dataclass(frozen=True, slots=True)
class Need:
    """A measurement a pass wants before it is asked: one of `KINDS`, for every resizable space."""

    kind: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise NasirError(f"no evidence is called {self.kind!r}; known: {', '.join(KINDS)}")


@dataclass(frozen=True, slots=True)
class Evidence:
    """`measured[kind][space name]` holds one number per unit of a space; `history` the journal records so far."""

    measured: Mapping[str, Mapping[str, NDArray[np.float64]]] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()

    def per_index(self, kind: str, space: Atom) -> NDArray[np.float64]:
        """One number per unit of `space`; raises NasirError when it was not measured."""
        try:
            values = self.measured[kind][space.name]
        except KeyError:
            known = ", ".join(self.measured) or "nothing"
            raise NasirError(
                f"{kind!r} was not measured for space '{space.name}' (measured: {known}); "
                f"declare needs = (Need({kind!r}),) in the pass"
            ) from None
        if len(values) != space.size:
            raise NasirError(f"{kind!r} of '{space.name}' has {len(values)} values for {space.size} units")
        return values
