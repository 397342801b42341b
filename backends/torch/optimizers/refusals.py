"""Optimizers that a rewrite would leave training something else than the network: refused before anything changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from nasir.errors import UsageError

_GROUPS = frozenset({"param_groups", "state", "defaults"})


def check_held_elsewhere(optimizer: torch.optim.Optimizer, going: Iterable[Tensor], what: str) -> None:
    """UsageError where an optimizer has a list of its own of parameters that go, or that others join: it would step
    along that list. `going`: those of its groups that `what` is about."""
    mine = {id(parameter) for parameter in going}
    for name, value in vars(optimizer).items():
        if name not in _GROUPS and any(id(tensor) in mine for tensor in _tensors(value)):
            kind = type(optimizer).__name__
            raise UsageError(
                f"optimizer {kind}: it holds parameters in its attribute {name!r}, outside its groups, and {what}; "
                f"apply the rewrite without it, and then make {kind} anew"
            )


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Mapping):
        return [item for pair in value.items() for item in pair if isinstance(item, Tensor)]
    return [item for item in value if isinstance(item, Tensor)] if isinstance(value, list | tuple | set) else ()


def check_matrices(optimizer: torch.optim.Optimizer, joining: Mapping[str, Tensor]) -> None:
    """UsageError where parameters, by name, would join an optimizer that takes in matrices alone."""
    if not isinstance(optimizer, torch.optim.Muon):
        return
    others = {name: tuple(parameter.shape) for name, parameter in joining.items() if parameter.ndim != 2}
    if others:
        name, shape = next(iter(others.items()))
        raise UsageError(
            f"optimizer Muon: {len(others)} of {len(joining)} new parameters are no matrices ({name} is {shape}), "
            "and it takes in nothing else; give the rewrite the optimizer of the other parameters too, as in "
            "optimizers=[muon, adamw]"
        )
