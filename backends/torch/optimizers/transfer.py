"""Optimizer state across a rewrite: the same optimizer object, its groups and state swapped.

Kept parameters keep their state; resized ones get moments mapped by the plan of their values, and so do those whose
values moved here out of parameters that are no more (`optimizer_state`). New ones, copies of living ones among them,
start with none, so that Adam's step counter starts at zero and SGD's first step takes the raw gradient. Then every
group stands in the order of `model.parameters()`: torch stores an optimizer's state by position.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.optimizers import momentum
from nasir.backends.torch.optimizers.kinds import check_state
from nasir.backends.torch.optimizers.order import in_order, positions
from nasir.backends.torch.optimizers.refusals import check_held_elsewhere, check_matrices
from nasir.backends.torch.optimizers.state import moved_states, origins_of, replace_states
from nasir.ir.infer import collector_paused
from nasir.transfer import Key, TransferPlan


def transfer_optimizer(
    optimizer: torch.optim.Optimizer, old: LoweredModule, new: LoweredModule, plan: TransferPlan
) -> None:
    """`transfer_optimizers` for one."""
    transfer_optimizers((optimizer,), old, new, plan)


def transfer_optimizers(
    optimizers: Iterable[torch.optim.Optimizer], old: LoweredModule, new: LoweredModule, plan: TransferPlan
) -> None:
    """Swap the parameters of `old` for those of `new` in every group, with their state.

    Parameters that got the values of others that are gone follow them; new ones join the group whose parameters
    carry the same tags, of several optimizers the one whose parameters lie nearest by label; of those that lie as near,
    the one that holds most with the same tags and number of axes. In each group the model's parameters then stand
    together, in the order of `new.parameters()`, where the first of them stood; those of other models keep their order
    before and behind them. Parameters that no optimizer ever held (frozen ones) stay out.
    UsageError, before any change, for an optimizer that cannot take new ones in.
    """
    with collector_paused():
        _transfer(tuple(dict.fromkeys(optimizers)), old, new, plan)


def _transfer(
    chosen: tuple[torch.optim.Optimizer, ...], old: LoweredModule, new: LoweredModule, plan: TransferPlan
) -> None:
    for optimizer in chosen:
        check_state(optimizer)
    home = {id(p): key for key, p in parameters_by_key(old).items()}
    fresh = parameters_by_key(new)
    origins = origins_of(plan, home, fresh, chosen)
    known = set(home.values()) | origins.keys()
    shares: dict[int, dict[Key, nn.Parameter]] = {}
    joining = [key for key in fresh if key not in known] if chosen else []
    several = len(chosen) > 1 and bool(joining)
    held = [_kept(optimizer, home, fresh, origins) for optimizer in chosen] if several else []
    for key in joining:
        shares.setdefault(_nearest(held, key, fresh, new) if several else 0, {})[key] = fresh[key]
    for index, optimizer in enumerate(chosen):
        mine = [p for group in optimizer.param_groups for p in group["params"] if id(p) in home]
        gone = [p for p in mine if fresh.get(home[id(p)]) is not p]
        check_held_elsewhere(optimizer, gone, f"the rewrite replaces {len(gone)} of the network's")
        if added := shares.get(index):
            check_held_elsewhere(optimizer, mine, f"{len(added)} new ones would join them")
            check_matrices(optimizer, {_name(key, new): parameter for key, parameter in added.items()})
            momentum.check_joining(optimizer)
    states = [
        moved_states(optimizer, home, fresh, plan, new) for optimizer in chosen
    ]  # what can fail, before any change
    named = [_prefixes(optimizer, home, old) for optimizer in chosen]
    for optimizer, moved in zip(chosen, states, strict=True):
        replace_states(optimizer, home, fresh, moved)
        _swap(optimizer, home, fresh, origins)
    for index, added in shares.items():
        _join(chosen[index], added, fresh, new)
    place = positions(new)
    labels = {id(p): _name(key, new) for key, p in fresh.items()}
    for optimizer, (known_names, prefixes) in zip(chosen, named, strict=True):
        for group, prefix in zip(optimizer.param_groups, prefixes, strict=True):
            group["params"] = in_order(group["params"], place)
            if "param_names" in group:
                group["param_names"] = [
                    f"{prefix}{labels[id(p)]}" if id(p) in labels else known_names.get(id(p), "")
                    for p in group["params"]
                ]
        momentum.prepare(optimizer)


def _prefixes(
    optimizer: torch.optim.Optimizer, home: Mapping[int, Key], model: LoweredModule
) -> tuple[dict[int, str], list[str]]:
    """The names of an optimizer's parameters by identity; and what stands before the model's own names, by group."""
    names: dict[int, str] = {}
    prefixes = []
    for group in optimizer.param_groups:
        given = dict(zip(map(id, group["params"]), group.get("param_names", ()), strict=False))
        names |= given
        own = ((given[p], _name(key, model)) for p, key in home.items() if p in given)
        prefixes.append(next((name.removesuffix(label) for name, label in own if name.endswith(label)), ""))
    return names, prefixes


def _name(key: Key, model: LoweredModule) -> str:
    return f"{model.graph.nodes[key.node].label}.{key.slot}"


def _kept(
    optimizer: torch.optim.Optimizer,
    home: Mapping[int, Key],
    fresh: Mapping[Key, nn.Parameter],
    origins: Mapping[Key, Key],
) -> list[Key]:
    """The parameters that the optimizer will hold of those it holds, or in their places."""
    keys = {home[id(p)] for group in optimizer.param_groups for p in group["params"] if id(p) in home}
    return [key for key in keys if key in fresh] + [key for key, origin in origins.items() if origin in keys]


def _nearest(held: list[list[Key]], key: Key, fresh: Mapping[Key, nn.Parameter], model: LoweredModule) -> int:
    """Which optimizer holds the parameter that has the longest common path with that of `key`; of several, which holds
    most parameters of its kind."""

    def path(param_key: Key) -> list[str]:
        return model.graph.nodes[param_key.node].label.split(".")

    def kind(param_key: Key) -> tuple[frozenset[str], int]:
        return model.graph.infer.slots[param_key.node][param_key.slot].tags, fresh[param_key].ndim

    own_path, own_kind = path(key), kind(key)

    def rank(index: int) -> tuple[int, int]:
        shared = max((_common(own_path, path(other)) for other in held[index]), default=-1)
        return shared, sum(kind(other) == own_kind for other in held[index])

    return max(range(len(held)), key=rank)


def _common(left: list[str], right: list[str]) -> int:
    """Number of equal parts at the beginning of two paths."""
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _swap(
    optimizer: torch.optim.Optimizer,
    home: dict[int, Key],
    fresh: dict[Key, nn.Parameter],
    origins: dict[Key, Key],
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
        group["params"] = members


def parameters_by_key(model: LoweredModule) -> dict[Key, nn.Parameter]:
    """The parameters of a model's nodes, by node and slot; one that several nodes share, by its owner."""
    parameters: dict[Key, nn.Parameter] = {}
    for node_id in model.graph.nodes:
        module = model._lowered.get(node_id)
        if isinstance(module, nn.Module):
            parameters |= {Key(node_id, name): p for name, p in module._parameters.items() if p is not None}
    for key in model.graph.ties:
        parameters.pop(key, None)
    return parameters


def _join(
    optimizer: torch.optim.Optimizer,
    added: dict[Key, nn.Parameter],
    fresh: dict[Key, nn.Parameter],
    model: LoweredModule,
) -> None:
    """Add new parameters, each to the group that most parameters with its tags are in."""
    slots = model.graph.infer.slots
    tags = {id(p): slots[key.node][key.slot].tags for key, p in fresh.items()}
    votes: dict[frozenset[str], Counter[int]] = {}
    for index, group in enumerate(optimizer.param_groups):
        for p in group["params"]:
            if id(p) in tags:
                votes.setdefault(tags[id(p)], Counter())[index] += 1
    for parameter in added.values():
        tag = tags[id(parameter)]
        group = optimizer.param_groups[votes[tag].most_common(1)[0][0] if tag in votes else _by_decay(optimizer, tag)]
        group["params"].append(parameter)


def _by_decay(optimizer: torch.optim.Optimizer, tags: frozenset[str]) -> int:
    """For tags new to the optimizer: the first group that decays weights if they do, else the first that does not."""
    spared = optimizer.param_groups[0].get("spared", ())
    wanted = bool(tags & {"decay", "norm", "bias"}) and not tags & set(spared)
    for index, group in enumerate(optimizer.param_groups):
        if bool(group.get("weight_decay")) is wanted:
            return index
    return 0
