"""The state of one optimizer across a rewrite: all new moments are made before any old one goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nasir.backends.torch.arrays import TorchArrays
from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.optimizers.kinds import Kinds
from nasir.backends.torch.optimizers.refusals import check_value
from nasir.training.states import MOMENTS, StateKind
from nasir.transfer import FIRST, Key, Source, TransferPlan, execute, execute_moment, keys_of, moment_source, only_picks


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
    origins: dict[Key, Key] = {}
    for key in fresh.keys() - old:
        source = plan.sources.get(key)
        parts = followed(source, key, fresh) if source is not None else ()
        if parts and len({held.get(part) for part in parts}) == 1 and parts[0] in held:
            origins[key] = parts[0]
    return {key: origins[key] for key in fresh if key in origins}


def followed(source: Source, key: Key, fresh: Mapping[Key, nn.Parameter]) -> tuple[Key, ...]:
    """The old arrays that state follows from: none when part of the values is new, or copied from a living array."""
    if moment_source(source, FIRST) is None:
        return ()
    parts = tuple(keys_of(source))
    return parts if all(part == key or part not in fresh for part in parts) else ()


def moved_states(
    state: Mapping[Tensor, Mapping[str, Any]],
    kinds: Kinds,
    old: Mapping[Key, Tensor],
    fresh: Mapping[Key, nn.Parameter],
    plan: TransferPlan,
    new: LoweredModule,
    blobs: Mapping[str, Any],
) -> dict[Tensor, dict[str, Any]]:
    """The state of every parameter of `new` that takes over some of `state`, which is of the parameters `old`; `fresh`
    as in `origins_of`, `blobs` the literal arrays of the plan.

    Nothing changes: where this fails (memory, say), the old network trains on. UsageError for state that nothing says
    the kind of, or that is not what its kind says.
    """
    moved: dict[Tensor, dict[str, Any]] = {}
    for key, parameter in fresh.items():
        source = plan.sources.get(key)
        if source is None or old.get(key) is parameter:
            continue
        parts = followed(source, key, fresh)
        if parts and all(part in old and state.get(old[part]) for part in parts):
            held = {part: old[part] for part in parts}
            states = {part: state[tensor] for part, tensor in held.items()}
            moved[parameter] = _Move(kinds, key, source, held, parameter, new, blobs).state(states)
    return {parameter: state for parameter, state in moved.items() if state}


def replace_states(
    state: MutableMapping[Tensor, Any],
    old: Mapping[Key, Tensor],
    fresh: Mapping[Key, nn.Parameter],
    moved: Mapping[Tensor, dict[str, Any]],
) -> None:
    """Drop the state of parameters that are no more and take over that of `moved_states`."""
    for key, parameter in old.items():
        if fresh.get(key) is not parameter:
            state.pop(parameter, None)
    state.update(moved)


@dataclass(frozen=True, slots=True)
class _Move:
    """One parameter's state, made from that of the `parts` its values came from."""

    kinds: Kinds
    key: Key
    source: Source
    parts: Mapping[Key, Tensor]
    parameter: nn.Parameter
    new: LoweredModule
    blobs: Mapping[str, Any]

    def state(self, states: Mapping[Key, Mapping[str, Any]]) -> dict[str, Any]:
        """All of it, from `states` of the parts; scalars are those of the first. Empty, to start anew, where the parts
        keep different things, or where an average over an axis of size 1 says nothing about more."""
        leading = next(iter(states.values()))
        if any(state.keys() != leading.keys() for state in states.values()):
            return {}
        made: dict[str, Any] = {}
        for name, value in leading.items():
            moved = self._value(name, {part: state[name] for part, state in states.items()})
            if moved is None and value is not None:
                return {}
            made[name] = moved
        return made

    def _value(self, name: str, values: Mapping[Key, Any]) -> Any:
        first, old = next(iter(values.values())), next(iter(self.parts.values()))
        if first is None:  # SGD without momentum
            return None
        kind = self.kinds.of(name, first, old)
        if kind in MOMENTS and not only_picks(self.source):
            self.kinds.check_sure(name)
        for part, value in values.items():
            check_value(self.kinds, name, kind, value, self.parts[part])
        if kind in ("scalar", "number"):
            return first.clone() if isinstance(first, Tensor) else first
        if kind == "weight":
            return self._laid_out(self._as_weight(values))
        if kind != "factored":
            return self._laid_out(self._moment(kind, values))
        shapes = zip(first.shape, old.shape, self.parameter.shape, strict=True)
        if any(held == size == 1 and now != 1 for held, size, now in shapes):
            return None
        averaged = [axis for axis, held in enumerate(first.shape) if held == 1]
        whole = self._moment(kind, {part: value.expand(self.parts[part].shape) for part, value in values.items()})
        return whole.mean(averaged, keepdim=True) if averaged else whole

    def _moment(self, kind: StateKind, values: Mapping[Key, Any]) -> Tensor:
        mapped = moment_source(self.source, MOMENTS[kind])
        assert mapped is not None
        arrays = TorchArrays(self.parameter.device, self.parameter.dtype)
        made: Tensor = execute_moment(mapped, values.__getitem__, arrays, tuple(self.parameter.shape))
        return made

    def _as_weight(self, values: Mapping[Key, Any]) -> Tensor:
        """As the weights themselves became; what is new begins as they do, from the same random numbers."""
        made = execute(
            TransferPlan({self.key: self.source}),
            self.new.graph,
            values.__getitem__,
            TorchArrays(self.parameter.device, self.parameter.dtype),
            seed=self.new.seed,
            ordinal=self.new.ordinal,
            blobs=self.blobs,
        )
        weight: Tensor = made[self.key]
        return weight

    def _laid_out(self, tensor: Tensor) -> Tensor:
        channels_last = self.parameter.dim() == 4 and not self.parameter.is_contiguous()
        return tensor.contiguous(memory_format=torch.channels_last) if channels_last else tensor
