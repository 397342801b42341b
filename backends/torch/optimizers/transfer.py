"""Optimizer state across a rewrite: the same optimizer object, its groups and state swapped.

Kept parameters keep their state; resized ones get moments mapped by the plan of their values, and so do those whose
values moved here out of parameters that are no more (`optimizer_state`). New ones, copies of living ones among them,
start with none, so that Adam's step counter starts at zero and SGD's first step takes the raw gradient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nasir.backends.torch.optimizers import momentum
from nasir.backends.torch.optimizers.state import moved_states, origins_of, replace_states
from nasir.ir.infer import collector_paused
from nasir.transfer import Key, TransferPlan

if TYPE_CHECKING:
    from nasir.backends.torch.model import Model


def transfer_optimizer(optimizer: torch.optim.Optimizer, old: Model, new: Model, plan: TransferPlan) -> None:
    """`transfer_optimizers` for one."""
    transfer_optimizers((optimizer,), old, new, plan)


def transfer_optimizers(
    optimizers: Iterable[torch.optim.Optimizer], old: Model, new: Model, plan: TransferPlan
) -> None:
    """Swap the parameters of `old` for those of `new` in every group, with their state.

    Parameters that got the values of others that are gone take their places; new ones join the group whose parameters
    carry the same tags, of several optimizers the one whose parameters lie nearest by label. Parameters that no
    optimizer ever held (frozen ones, another model's) are left alone. UsageError, before any change, for an optimizer
    that cannot take new ones in.
    """
    with collector_paused():
        _transfer(tuple(dict.fromkeys(optimizers)), old, new, plan)


def _transfer(chosen: tuple[torch.optim.Optimizer, ...], old: Model, new: Model, plan: TransferPlan) -> None:
    home = {id(p): Key(node, slot) for node, slot, p in _parameters(old)}
    fresh = {Key(node, slot): p for node, slot, p in _parameters(new)}
    origins = origins_of(plan, home, fresh, chosen)
    known = set(home.values()) | origins.keys()
    shares: dict[int, dict[Key, nn.Parameter]] = {}
    joining = [key for key in fresh if key not in known] if chosen else []
    several = len(chosen) > 1 and bool(joining)
    held = [_labels(optimizer, home, fresh, origins, new) for optimizer in chosen] if several else []
    for key in joining:
        shares.setdefault(_nearest(held, key, new) if several else 0, {})[key] = fresh[key]
    for index in shares:
        momentum.check_joining(chosen[index])
    states = [moved_states(optimizer, home, fresh, plan) for optimizer in chosen]  # what can fail, before any change
    for optimizer, moved in zip(chosen, states, strict=True):
        replace_states(optimizer, home, fresh, moved)
        _swap(optimizer, home, fresh, origins, new)
    for index, added in shares.items():
        _join(chosen[index], added, fresh, new)
    for optimizer in chosen:
        momentum.prepare(optimizer)


def _labels(
    optimizer: torch.optim.Optimizer,
    home: dict[int, Key],
    fresh: dict[Key, nn.Parameter],
    origins: dict[Key, Key],
    model: Model,
) -> list[list[str]]:
    """Paths of the parameters that the optimizer will hold of those it holds, or in their places."""
    keys = {home[id(p)] for group in optimizer.param_groups for p in group["params"] if id(p) in home}
    after = [key for key in keys if key in fresh] + [key for key, origin in origins.items() if origin in keys]
    return [model.graph.nodes[key.node].label.split(".") for key in after]


def _nearest(held: list[list[list[str]]], key: Key, model: Model) -> int:
    """Which optimizer holds the parameter that has the longest common path with that of `key`."""
    label = model.graph.nodes[key.node].label.split(".")
    shared = [max((_common(label, other) for other in paths), default=-1) for paths in held]
    return max(range(len(held)), key=lambda index: shared[index])


def _common(left: list[str], right: list[str]) -> int:
    """Number of equal parts at the beginning of two paths."""
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _swap(
    optimizer: torch.optim.Optimizer,
    home: dict[int, Key],
    fresh: dict[Key, nn.Parameter],
    origins: dict[Key, Key],
    new: Model,
) -> None:
    heirs: dict[Key, list[Key]] = {}
    for key, origin in origins.items():
        heirs.setdefault(origin, []).append(key)
    for group in optimizer.param_groups:
        members: list[Tensor] = []
        for parameter in group["params"]:
            held = home.get(id(parameter))
            if held is None:
                members.append(parameter)
                continue
            if held in fresh:
                members.append(fresh[held])
            members += [fresh[heir] for heir in heirs.get(held, [])]
        _set_members(group, members, new)


def _parameters(model: Model) -> list[tuple[int, str, nn.Parameter]]:
    found = []
    for node_id in model.graph.nodes:
        module = model._lowered.get(node_id)
        if isinstance(module, nn.Module):
            found += [(node_id, name, p) for name, p in module._parameters.items() if p is not None]
    return found


def _set_members(group: dict[str, Any], members: list[Tensor], model: Model) -> None:
    group["params"] = members
    if "param_names" in group:
        names = {id(p): name for name, p in model.named_parameters()}
        group["param_names"] = [names.get(id(p), "") for p in members]


def _join(
    optimizer: torch.optim.Optimizer, added: dict[Key, nn.Parameter], fresh: dict[Key, nn.Parameter], model: Model
) -> None:
    """Add new parameters, each to the group that most parameters with its tags are in."""
    slots = model.graph.infer.slots
    tags = {id(p): slots[key.node][key.slot].tags for key, p in fresh.items()}
    votes: dict[frozenset[str], Counter[int]] = {}
    for index, group in enumerate(optimizer.param_groups):
        for p in group["params"]:
            if id(p) in tags:
                votes.setdefault(tags[id(p)], Counter())[index] += 1
    for key, parameter in added.items():
        tag = tags[id(parameter)]
        group = optimizer.param_groups[votes[tag].most_common(1)[0][0] if tag in votes else _by_decay(optimizer, tag)]
        group["params"].append(parameter)
        if "param_names" in group:
            group["param_names"].append(f"{model.graph.nodes[key.node].label}.{key.slot}")


def _by_decay(optimizer: torch.optim.Optimizer, tags: frozenset[str]) -> int:
    """For tags new to the optimizer: the first group that decays weights if they do, else the first that does not."""
    spared = optimizer.param_groups[0].get("spared", ())
    wanted = bool(tags & {"decay", "norm", "bias"}) and not tags & set(spared)
    for index, group in enumerate(optimizer.param_groups):
        if bool(group.get("weight_decay")) is wanted:
            return index
    return 0
