"""Optimizers that wrap others: lookahead, sharpness-aware minimization, those of launchers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch


def attributes(part: Any) -> Mapping[str, Any]:
    """What an object holds by itself."""
    return getattr(part, "__dict__", {})


def chain(optimizer: Any) -> tuple[Any, ...]:
    """An optimizer and those that its attributes hold, directly or in lists, outermost first."""
    found: list[Any] = [optimizer]
    for part in found:  # grows on the way
        for value in attributes(part).values():
            for inner in value if isinstance(value, list | tuple) else (value,):
                if isinstance(inner, torch.optim.Optimizer) and all(inner is not other for other in found):
                    found.append(inner)
    return tuple(found)


def holders(optimizer: Any) -> list[Any]:
    """Those of the chain that hold state of their own: the one that owns it where several hand out the same."""
    owners = {id(part.state): part for part in chain(optimizer)}
    return list(owners.values())


def without_inner(optimizers: Iterable[Any]) -> tuple[Any, ...]:
    """The optimizers, each once, without those that another of them wraps."""
    chosen = tuple({id(optimizer): optimizer for optimizer in optimizers}.values())
    inner = {id(part) for optimizer in chosen for part in chain(optimizer)[1:]}
    return tuple(optimizer for optimizer in chosen if id(optimizer) not in inner)


def add_group(optimizer: Any, beside: Mapping[str, Any], group: dict[str, Any]) -> None:
    """Add a group to every list of groups in the chain that has `beside`, each once."""
    lists: dict[int, list[Any]] = {id(part.param_groups): part.param_groups for part in chain(optimizer)}
    for groups in lists.values():
        if any(other is beside for other in groups):
            groups.append(group)
