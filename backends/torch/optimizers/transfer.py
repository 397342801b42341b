"""Optimizer state across a rewrite: the same optimizer object, its groups and state swapped.

Kept parameters keep their state; resized ones get moments mapped by the plan of their values, and so do those whose
values moved here out of parameters that are no more (`optimizer_state`). New ones, copies of living ones among them,
start with none, so that Adam's step counter starts at zero and SGD's first step takes the raw gradient. Then every
group stands in the order of `model.parameters()`: torch stores an optimizer's state by position.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.optimizers import momentum
from nasir.backends.torch.optimizers.kinds import Kinds, check_state, kinds_of
from nasir.backends.torch.optimizers.order import in_order, positions
from nasir.backends.torch.optimizers.refusals import (
    check_groups_shared,
    check_held_elsewhere,
    check_matrices,
    check_new_group,
)
from nasir.backends.torch.optimizers.starting import counted, starting_states, uncounted
from nasir.backends.torch.optimizers.state import moved_states, origins_of, replace_states
from nasir.backends.torch.optimizers.wrappers import add_group, chain, holders, without_inner
from nasir.ir.infer import collector_paused
from nasir.transfer import Key, TransferPlan


def transfer_optimizers(
    optimizers: Iterable[torch.optim.Optimizer],
    old: LoweredModule,
    new: LoweredModule,
    plan: TransferPlan,
    blobs: Mapping[str, Any],
) -> None:
    """Swap the parameters of `old` for those of `new` in every group, with their state.

    Parameters that got the values of others that are gone follow them; new ones join the group whose parameters
    carry the same tags, of several optimizers the one whose parameters lie nearest by label; of those that lie as near,
    the one that holds most with the same tags and number of axes. In each group the model's parameters then stand
    together, in the order of `new.parameters()`, where the first of them stood; those of other models keep their order
    before and behind them. Parameters that no optimizer ever held (frozen ones) stay out. `blobs`: the literal arrays
    of the plan. An optimizer goes with those that it wraps.
    UsageError, before any change, for an optimizer that cannot take new ones in.
    """
    with collector_paused():
        _transfer(without_inner(optimizers), old, new, plan, blobs)


def _transfer(
    chosen: tuple[torch.optim.Optimizer, ...],
    old: LoweredModule,
    new: LoweredModule,
    plan: TransferPlan,
    blobs: Mapping[str, Any],
) -> None:
    kinds = [kinds_of(optimizer) for optimizer in chosen]
    for optimizer, known_kinds in zip(chosen, kinds, strict=True):
        check_state(optimizer, known_kinds)
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
    ready = [
        _Ready.of(
            optimizer, kinds[index], shares.get(index, {}), _Rewritten(home, fresh, origins, plan, old, new, blobs)
        )
        for index, optimizer in enumerate(chosen)
    ]
    for one in ready:
        one.replace(fresh)
    place = positions(new)
    labels = {id(p): _name(key, new) for key, p in fresh.items()}
    for one in ready:
        one.put_in_order(place, labels)
        momentum.prepare(one.optimizer)


@dataclass(frozen=True, slots=True)
class _Rewritten:
    """Two networks and how the parameters of one became those of the other: `home`, `fresh` and `origins` as in
    `origins_of`."""

    home: Mapping[int, Key]
    fresh: Mapping[Key, nn.Parameter]
    origins: Mapping[Key, Key]
    plan: TransferPlan
    old: LoweredModule
    new: LoweredModule
    blobs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Ready:
    """All that becomes of one optimizer, made before anything changes.

    `members`: the parameters of each of its groups, with those that join; `groups`: those that are added, each beside
    the group of that number; `states`: the state of each holder, and what moves into it; `starting`: of those that
    join; `names` and `prefixes` as `_prefixes` gives them.
    """

    optimizer: torch.optim.Optimizer
    held: Mapping[Key, Tensor]
    members: list[list[Tensor]]
    groups: dict[int, dict[str, Any]]
    states: list[tuple[MutableMapping[Tensor, Any], dict[Tensor, dict[str, Any]]]]
    starting: dict[Tensor, dict[str, Any]]
    names: dict[int, str]
    prefixes: list[str]

    @classmethod
    def of(
        cls,
        optimizer: torch.optim.Optimizer,
        kinds: Kinds,
        added: Mapping[Key, nn.Parameter],
        around: _Rewritten,
    ) -> Self:
        """UsageError for an optimizer that cannot go on."""
        home, fresh = around.home, around.fresh
        mine = {home[id(p)]: p for group in optimizer.param_groups for p in group["params"] if id(p) in home}
        gone = [p for key, p in mine.items() if fresh.get(key) is not p]
        if gone or added:
            check_groups_shared(optimizer, home)
        check_held_elsewhere(optimizer, gone, f"the rewrite replaces {len(gone)} of the network's")
        if added:
            check_held_elsewhere(optimizer, mine.values(), f"{len(added)} new ones would join them")
            check_matrices(optimizer, {_name(key, around.new): parameter for key, parameter in added.items()})
            kinds.check_joining(optimizer)
            check_new_group(optimizer, kinds, len(added))
            momentum.check_joining(optimizer)
        states = [
            (part.state, moved_states(part.state, kinds, mine, fresh, around.plan, around.new, around.blobs))
            for part in holders(optimizer)
        ]
        members = [_swapped(group["params"], home, fresh, around.origins) for group in optimizer.param_groups]
        joining = _joining(optimizer, members, added, fresh, around.new)
        groups: dict[int, dict[str, Any]] = {}
        starting: dict[Tensor, dict[str, Any]] = {}
        for index, parameters in joining.items():
            group = optimizer.param_groups[index]
            if counted(group, kinds):
                groups[index] = {**uncounted(group, kinds), "params": parameters}
            else:
                members[index] += parameters
            starting |= starting_states(optimizer, group, parameters)
        return cls(optimizer, mine, members, groups, states, starting, *_prefixes(optimizer, home, around.old))

    def replace(self, fresh: Mapping[Key, nn.Parameter]) -> None:
        """Have the optimizer hold the parameters of the new network, with their state."""
        for state, moved in self.states:
            replace_states(state, self.held, fresh, moved)
        if self.starting:
            chain(self.optimizer)[-1].state.update(self.starting)
        for group, members in zip(self.optimizer.param_groups, self.members, strict=True):
            group["params"] = members
        for index, group in self.groups.items():
            add_group(self.optimizer, self.optimizer.param_groups[index], group)
            self.prefixes.append(self.prefixes[index])

    def put_in_order(self, place: Mapping[int, int], labels: Mapping[int, str]) -> None:
        """Each group in the order of the network, with the names of its parameters where it has names."""
        for group, prefix in zip(self.optimizer.param_groups, self.prefixes, strict=True):
            group["params"] = in_order(group["params"], place)
            if "param_names" in group:
                group["param_names"] = [
                    f"{prefix}{labels[id(p)]}" if id(p) in labels else self.names.get(id(p), "")
                    for p in group["params"]
                ]


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


def _swapped(
    parameters: Iterable[Tensor],
    home: Mapping[int, Key],
    fresh: Mapping[Key, nn.Parameter],
    origins: Mapping[Key, Key],
) -> list[Tensor]:
    """The parameters of a group, with those of the new network in the places of those of the old one."""
    heirs: dict[Key, list[Key]] = {}
    for key, origin in origins.items():
        heirs.setdefault(origin, []).append(key)
    members: list[Tensor] = []
    for parameter in parameters:
        held = home.get(id(parameter))
        if held is None:
            members.append(parameter)
            continue
        if held in fresh:
            members.append(fresh[held])
        members += [fresh[heir] for heir in heirs.get(held, [])]
    return members


def parameters_by_key(model: LoweredModule) -> dict[Key, nn.Parameter]:
    """The parameters of a model's nodes, by node and slot; one that several nodes share, by its owner."""
    parameters: dict[Key, nn.Parameter] = {}
    for node_id in model.graph.nodes:
        module = model._lowered.get(node_id)
        if isinstance(module, nn.Module):
            held = module.named_parameters() if module._modules else module._parameters.items()
            parameters |= {Key(node_id, name): p for name, p in held if p is not None}
    for key in model.graph.ties:
        parameters.pop(key, None)
    return parameters


def _joining(
    optimizer: torch.optim.Optimizer,
    members: list[list[Tensor]],
    added: Mapping[Key, nn.Parameter],
    fresh: Mapping[Key, nn.Parameter],
    model: LoweredModule,
) -> dict[int, list[Tensor]]:
    """New parameters by the number of the group that most parameters with their tags are in."""
    slots = model.graph.infer.slots
    tags = {id(p): slots[key.node][key.slot].tags for key, p in fresh.items()} if added else {}
    votes: dict[frozenset[str], Counter[int]] = {}
    for index, parameters in enumerate(members):
        for p in parameters:
            if id(p) in tags:
                votes.setdefault(tags[id(p)], Counter())[index] += 1
    chosen: dict[int, list[Tensor]] = {}
    for parameter in added.values():
        tag = tags[id(parameter)]
        index = votes[tag].most_common(1)[0][0] if tag in votes else _by_decay(optimizer, tag)
        chosen.setdefault(index, []).append(parameter)
    return chosen


def _by_decay(optimizer: torch.optim.Optimizer, tags: frozenset[str]) -> int:
    """For tags new to the optimizer: the first group that decays weights if they do, else the first that does not."""
    spared = optimizer.param_groups[0].get("spared", ())
    wanted = bool(tags & {"decay", "norm", "bias"}) and not tags & set(spared)
    for index, group in enumerate(optimizer.param_groups):
        if bool(group.get("weight_decay")) is wanted:
            return index
    return 0
