"""What passes and policies may look at: measurements of the network and the history of the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from nasir.errors import NasirError
from nasir.growing import fold
from nasir.ir.graph import Graph
from nasir.ir.space import Atom
from nasir.records import DeclinedRecord, Record, typed
from nasir.transfer.fill import random_stream

PER_UNIT = {
    "activation_mean": "mean absolute value of each unit of a space over probe images, behind its writers' norms",
    "weight_norm": "root mean square of the weights that write each unit of a space",
    "weight_l1": "sum of |w| of each unit, a row for each weight array that writes, reads or runs along the space",
    "weight_l2": "sum of w ** 2 of each unit, rows as for weight_l1",
    "taylor": "|sum of w * gradient| of each unit over training images, rows as for weight_l1",
    "norm_scale": "|scale| of each unit, a row for each norm along the space",
    "group_lasso": "root mean square of the weights of each unit, a row for each weight array that writes the space",
    "weight_mean": "mean |w| of each unit, rows as for group_lasso",
}
OTHERS = {
    "weight_abs": "by label of a conv or linear node: mean |w| of its weight, and the number of entries",
    "residual_ratio": "by label of a residual sum x + f(x): |f(x)| / |x|, the median over probe samples",
    "route_shares": "by label of a route: the share of the probe samples that each of its ways is computed for",
    "weights": "the weight arrays themselves: Evidence.weight(label, slot)",
    "latency": "a clock for candidate networks on the device at hand: Evidence.latency(graph) in seconds",
}
KINDS = {**PER_UNIT, **OTHERS}


@dataclass(frozen=True, slots=True)
class Need:
    """A measurement a pass wants before it is asked: one of `KINDS`, for every resizable space."""

    kind: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise NasirError(f"no evidence is called {self.kind!r}; known: {', '.join(KINDS)}")


@dataclass(frozen=True, slots=True)
class _Refusals:
    count: int = 0

    def after(self, record: Record) -> Self:
        return type(self)(self.count + 1) if isinstance(record, DeclinedRecord) else self


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured before a rewrite, and the run so far.

    `measured[kind]` holds, by name of a space, one number per unit, or rows of them; by label for "weight_abs" and
    "residual_ratio"; by "label.slot" for "weights". `history`: the journal records so far. `seed` and `ordinal` (the
    rewrite that is being made, from 1) key the randomness of passes. `latency` gives the seconds that one batch takes
    a network on the device at hand; None unless a pass needs it. `averaged`: the "weights" of the moving average that
    is evaluated in their place; None where there is none.
    """

    measured: Mapping[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    history: Sequence[Record] = ()
    seed: int = 0
    ordinal: int = 0
    latency: Callable[[Graph], float] | None = None
    averaged: Evidence | None = None

    def __post_init__(self) -> None:
        typed(self.history)

    def rng(self, purpose: str) -> Generator:
        """The random stream of this rewrite for one `purpose`: the only randomness a pass may use."""
        refused = fold(self.history, _Refusals()).count
        # refusals do not change the ordinal; without counting them, a pass would draw the refused choice forever
        return random_stream(self.seed, self.ordinal, -1, "", f"{purpose} after {refused}" if refused else purpose)

    def per_index(self, kind: str, space: Atom) -> NDArray[np.float64]:
        """One number per unit of `space`, the mean where several arrays were measured; NasirError if none was."""
        rows = self.members(kind, space)
        if not len(rows):
            raise NasirError(f"{kind!r}: nothing to measure it on writes or runs along space '{space.name}'")
        values: NDArray[np.float64] = rows[0] if len(rows) == 1 else rows.mean(axis=0)
        return values

    def members(self, kind: str, space: Atom) -> NDArray[np.float64]:
        """[members, space.size]: one row for each weight array that was measured along `space`, perhaps none."""
        rows = np.atleast_2d(np.asarray(self._found(kind, space.name, "space"), dtype=np.float64))
        if rows.shape[-1] != space.size:
            raise NasirError(f"{kind!r} of '{space.name}' has {rows.shape[-1]} values for {space.size} units")
        return rows

    def per_weight(self, kind: str, label: str) -> NDArray[np.float64]:
        """The numbers measured for the node `label`; "weight_abs": mean |w| and number of entries of its weight."""
        return np.asarray(self._found(kind, label, "node"), dtype=np.float64)

    def residual_ratio(self, label: str) -> float:
        """|f(x)| / |x| of the residual sum `label`, the median over probe samples; needs Need("residual_ratio")."""
        return float(self._found("residual_ratio", label, "residual sum"))

    def route_shares(self, label: str) -> NDArray[np.float64]:
        """The share of the probe samples that each way of the route `label` is computed for, the block first; needs
        Need("route_shares")."""
        return np.asarray(self._found("route_shares", label, "route"), dtype=np.float64)

    def weight(self, label: str, slot: str) -> NDArray[Any]:
        """A weight array of the network, read-only and on the host, 16-bit floats as float32; needs Need("weights")."""
        return self._found("weights", f"{label}.{slot}", "weight")

    def _found(self, kind: str, name: str, what: str) -> NDArray[Any]:
        try:
            return self.measured[kind][name]
        except KeyError:
            known = ", ".join(self.measured) or "nothing"
            raise NasirError(
                f"{kind!r} was not measured for {what} '{name}' (measured: {known}); "
                f"give the pass `model.observe(change.needs)`; a pass of your own declares needs = (Need({kind!r}),)"
            ) from None
