"""Optimizers that a rewrite would leave training something else than the network: refused before anything changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nasir.backends.torch.optimizers.kinds import Kinds
from nasir.backends.torch.optimizers.starting import counted
from nasir.backends.torch.optimizers.wrappers import attributes, chain
from nasir.errors import UsageError
from nasir.training.states import StateKind

_GROUPS = frozenset({"param_groups", "state", "defaults"})


def check_held_elsewhere(optimizer: torch.optim.Optimizer, going: Iterable[Tensor], what: str) -> None:
    """UsageError where an optimizer has a list of its own of parameters that go, or that others join: it would step
    along that list. `going`: those of its groups that `what` is about."""
    mine = {id(parameter) for parameter in going}
    for part in chain(optimizer) if mine else ():
        for name, value in attributes(part).items():
            if name not in _GROUPS and any(id(tensor) in mine for tensor in _tensors(value)):
                kind = type(part).__name__
                raise UsageError(
                    f"optimizer {kind}: it holds parameters in its attribute {name!r}, outside its groups, and {what}; "
                    f"apply the rewrite without it, and then make {kind} anew"
                )


def _tensors(value: Any, depth: int = 3) -> Iterator[Tensor]:
    """The tensors of an attribute: itself, or in lists, tuples, sets and mappings within each other."""
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, Mapping):
        for pair in value.items():
            yield from _tensors(pair, depth)
    elif depth and isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _tensors(item, depth - 1)


def check_groups_shared(optimizer: Any, mine: Mapping[int, Any]) -> None:
    """UsageError where an optimizer and one that it wraps have groups of their own with parameters of the network, by
    identity in `mine`: only those of the outer one would follow."""
    own = {id(group) for group in optimizer.param_groups}
    for part in chain(optimizer)[1:]:
        groups = [group for group in part.param_groups if id(group) not in own]
        if any(id(p) in mine for group in groups for p in group["params"]):
            outer, inner = type(optimizer).__name__, type(part).__name__
            raise UsageError(
                f"optimizer {outer}: it wraps {inner}, and both have groups of their own with parameters of the "
                f"network; apply the rewrite without it, and then make {inner} and {outer} anew"
            )


def check_value(kinds: Kinds, key: str, kind: StateKind, value: Any, parameter: Tensor) -> None:
    """UsageError where what is kept for a parameter under `key` is not what its `kind` says."""
    if kind == "number":
        right, wanted = isinstance(value, int | float), "a Python number"
    elif kind == "scalar":
        right = isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)
        wanted = "one number"
    else:
        dense = type(value) in (Tensor, nn.Parameter) and value.is_floating_point() and value.layout == torch.strided
        shape = tuple(parameter.shape)
        if kind == "factored":
            axes = zip(value.shape, shape, strict=False) if dense else ()
            right = dense and value.ndim == len(shape) and all(held in (1, size) for held, size in axes)
            wanted = f"a dense floating-point tensor of the shape {shape}, or with 1 in its place"
        else:
            right = dense and tuple(value.shape) == shape
            wanted = f"a dense floating-point tensor of the shape {shape}"
    if not right:
        held = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{value!r:.60}"
        raise UsageError(
            f"optimizer {kinds.optimizer}: its state {key!r} is a {type(value).__name__} ({held}), and of kind "
            f"{kind!r} it has to be {wanted}, so no rewrite can carry it; apply the rewrite without the optimizer, and "
            "then make it anew"
        )


def check_new_group(optimizer: Any, kinds: Kinds, count: int) -> None:
    """UsageError where `count` new parameters need a group of their own, and a schedule knows the groups by number."""
    counting = sorted({key for group in optimizer.param_groups for key in counted(group, kinds)})
    if counting and any("initial_lr" in group for group in optimizer.param_groups):
        raise UsageError(
            f"optimizer {kinds.optimizer}: it counts {', '.join(counting)} for all parameters of a group, so the "
            f"{count} new ones need a group of their own, which a learning-rate schedule made before knows nothing of; "
            "apply the rewrite without the optimizer, and then make it and its schedule anew"
        )


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
