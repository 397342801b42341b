"""What optimizers keep: the kinds of their state, and what the classes of a package keep, by registration.

    from nasir.registry import optimizer_states
    from nasir.training import Keeps

    optimizer_states.register("my_package.optimizers.Lion")(Keeps({"ema": "first"}))

A package states all of its classes at once, by entry point: the top-level name of the package stands for a mapping of
the names of its classes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from nasir.errors import UsageError
from nasir.registry import optimizer_states
from nasir.transfer.moments import FIRST, SECOND, Moment

StateKind = Literal[
    "first", "second", "magnitude", "direction", "update", "update_size", "update_square", "weight", "factored",
    "scalar", "number",
]  # fmt: skip
"""What an optimizer keeps for a parameter under one key of its state, and so what becomes of it in a rewrite:

first: an average of gradients; second: one of squared gradients; magnitude: an average or a maximum of absolute
gradients; direction: an average of updates whose size does not depend on that of the gradients; update: a part of an
update, or an average of them; update_size: the size of an update, update_square: an average of squared updates;
weight: an average or a copy of the weights; factored: as second, but of size 1 along the axes it is averaged over;
scalar: a tensor of one number, such as a count of steps; number: a plain Python number.
All but the last three have the shape of the parameter.
"""
STATE_KINDS: tuple[str, ...] = get_args(StateKind)
MOMENTS: Mapping[StateKind, Moment] = {
    "first": FIRST,
    "second": SECOND,
    "factored": SECOND,
    "magnitude": Moment(gradient=1, signed=False),
    "direction": Moment(),
    "update": Moment(weight=1),
    "update_size": Moment(weight=1, signed=False),
    "update_square": Moment(weight=2, signed=False),
}
"""How those kinds that follow a plan scale with it; the others are carried as weights, or as they are."""


@dataclass(frozen=True, slots=True)
class Keeps:
    """What an optimizer keeps: `state`, the kind of every key that it keeps for a parameter.

    `counts`: keys of its groups that change as it trains, such as a count of steps. New parameters then get a group of
    their own, where these are what the optimizer's `defaults` say, or missing.
    """

    state: Mapping[str, StateKind] = field(default_factory=dict)
    counts: Collection[str] = ()


def keeps_of(kind: type[Any]) -> Keeps | None:
    """What is registered for a class of optimizers, or for the nearest of its bases; None if nothing is."""
    names = optimizer_states.names()
    for owner in kind.__mro__:
        package, path = owner.__module__.partition(".")[0], f"{owner.__module__}.{owner.__qualname__}"
        if path in names:
            return _checked(optimizer_states.get(path), path)
        if package in names:
            classes = optimizer_states.get(package)
            found = classes.get(owner.__qualname__) if isinstance(classes, Mapping) else classes
            if found is not None:
                return _checked(found, path)
    return None


def _checked(found: Any, path: str) -> Keeps:
    kinds = found.state.values() if isinstance(found, Keeps) else ()
    if not isinstance(found, Keeps) or any(kind not in STATE_KINDS for kind in kinds):
        raise UsageError(
            f"the state of optimizer {path}: {found!r:.80} is registered; it has to be Keeps({{key: kind}}), of "
            f"the kinds {', '.join(STATE_KINDS)}"
        )
    return found
