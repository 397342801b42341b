"""How parameters that join an optimizer begin: as they would in one that is made anew."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from nasir.backends.torch.optimizers import eager
from nasir.backends.torch.optimizers.kinds import Kinds
from nasir.backends.torch.optimizers.wrappers import chain

JOINED = "joined"  # a key of groups that rewrites added


def counted(group: Mapping[str, Any], kinds: Kinds) -> list[str]:
    """The keys of a group that count steps and are no longer as they were at the start."""
    return [key for key in sorted(kinds.counts) if group.get(key) != kinds.defaults.get(key)]


def uncounted(group: Mapping[str, Any], kinds: Kinds) -> dict[str, Any]:
    """A group of the same options without parameters, whose counts are as at the start."""
    new = {**group, "params": [], JOINED: True}
    for key in kinds.counts:
        new.pop(key, None)
        if key in kinds.defaults:
            new[key] = kinds.defaults[key]
    if "param_names" in new:
        new["param_names"] = []
    return new


def starting_states(
    optimizer: Any, group: Mapping[str, Any], parameters: Iterable[Tensor]
) -> dict[Tensor, dict[str, Any]]:
    """The state that parameters have before their first step in a group (Adagrad's sums), found by making another
    optimizer of the same class. Nothing where there is none, and where the class cannot be made of its options."""
    stepping = chain(optimizer)[-1]
    accepted = inspect.signature(type(stepping)).parameters
    options = {key: group.get(key, value) for key, value in stepping.defaults.items() if key in accepted}
    stand_ins = {parameter: parameter.detach().requires_grad_() for parameter in parameters}
    with eager.make(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = type(stepping)(list(stand_ins.values()), **options)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception:  # it asks for something else
            return {}
    return {p: dict(made.state[alias]) for p, alias in stand_ins.items() if made.state.get(alias)}
