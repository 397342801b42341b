"""The state of one optimizer across a rewrite: all new moments are made before any old one goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nasir.backends.torch.arrays import TorchArrays
from nasir.backends.torch.optimizers.named import is_counter
from nasir.transfer import Key, Source, TransferPlan, execute_moment, keys_of, moment_source

# state tensors that average squared gradients; every other one of the parameter's shape follows the gradient
SECOND_MOMENTS = frozenset({"exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "exp_inf"})


def origins_of(
    plan: TransferPlan,
    home: Mapping[int, Key],
    fresh: Mapping[Key, nn.Parameter],
    optimizers: Iterable[torch.optim.Optimizer],
) -> dict[Key, Key]:
    """For every new key whose values all moved out of parameters that are gone and were held by one optimizer: the
    first of those. `home` gives the old key of a parameter by its identity, `fresh` the new parameters."""
    held: dict[Key, int] = {}
    for index, optimizer in enumerate(optimizers):
        for group in optimizer.param_groups:
            held.update({home[id(p)]: index for p in group["params"] if id(p) in home})
    old = set(home.values())
    found: dict[Key, Key] = {}
    for key in fresh.keys() - old:
        source = plan.sources.get(key)
        parts = followed(source, key, fresh) if source is not None else ()
        if parts and len({held.get(part) for part in parts}) == 1 and parts[0] in held:
            found[key] = parts[0]
    return {key: found[key] for key in fresh if key in found}


def followed(source: Source, key: Key, fresh: Mapping[Key, nn.Parameter]) -> tuple[Key, ...]:
    """The old arrays that state follows from: none when part of the values is new, or copied from a living array."""
    if moment_source(source, 1) is None:
        return ()
    parts = tuple(keys_of(source))
    return parts if all(part == key or part not in fresh for part in parts) else ()


def moved_states(
    optimizer: torch.optim.Optimizer, home: Mapping[int, Key], fresh: Mapping[Key, nn.Parameter], plan: TransferPlan
) -> dict[Tensor, dict[str, Any]]:
    """The state of every new parameter that takes over state; `home` and `fresh` as in `origins_of`.

    The optimizer stays as it is: where this fails (memory, say), the old network trains on.
    """
    old = {home[id(p)]: p for group in optimizer.param_groups for p in group["params"] if id(p) in home}
    moved: dict[Tensor, dict[str, Any]] = {}
    for key, parameter in fresh.items():
        source = plan.sources.get(key)
        if source is None or old.get(key) is parameter:
            continue
        parts = followed(source, key, fresh)
        if parts and all(part in old and optimizer.state.get(old[part]) for part in parts):
            states = {part: optimizer.state[old[part]] for part in parts}
            moved[parameter] = _moved(source, old[parts[0]], states, parameter)
    return moved


def replace_states(
    optimizer: torch.optim.Optimizer,
    home: Mapping[int, Key],
    fresh: Mapping[Key, nn.Parameter],
    moved: Mapping[Tensor, dict[str, Any]],
) -> None:
    """Drop the state of parameters that are no more and take over that of `moved_states`."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            key = home.get(id(parameter))
            if key is not None and fresh.get(key) is not parameter:
                optimizer.state.pop(parameter, None)
    optimizer.state.update(moved)


def _moved(
    source: Source, first: Tensor, states: Mapping[Key, dict[str, Any]], parameter: nn.Parameter
) -> dict[str, Any]:
    """The new state; the counters are those of the first part."""
    arrays = TorchArrays(parameter.device, parameter.dtype)
    leading = next(iter(states.values()))
    moved: dict[str, Any] = {}
    for name, value in leading.items():
        if not isinstance(value, Tensor) or is_counter(name, value, first) or value.shape != first.shape:
            moved[name] = value.clone() if isinstance(value, Tensor) else value
            continue
        mapped = moment_source(source, 2 if name in SECOND_MOMENTS else 1)
        assert mapped is not None
        values = {part: state[name] for part, state in states.items()}
        moment = execute_moment(mapped, values.__getitem__, arrays, tuple(parameter.shape))
        if parameter.dim() == 4 and not parameter.is_contiguous():
            moment = moment.contiguous(memory_format=torch.channels_last)
        moved[name] = moment
    return moved
