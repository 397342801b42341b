"""What an optimizer keeps under each key of its state: as its definition says, or its registration, or as torch names
it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from nasir.backends.torch.optimizers.wrappers import chain
from nasir.errors import UsageError
from nasir.training.shipped_states import CONVENTIONAL
from nasir.training.states import StateKind, keeps_of

_OWN = frozenset({"params", "param_names", "lr", "initial_lr"})  # of a group: what nasir and schedulers change
_KEY = "KEY"  # in a remedy: stands for the key of the state
_COUNTS = ("step",)  # of the groups of an optimizer that nothing is registered for


@dataclass(frozen=True, slots=True)
class _Declared:
    """Of an optimizer that was made by its definition: its name, its kinds, and its groups as they began."""

    name: str
    state: Mapping[str, StateKind]
    group: Mapping[str, Any]


_KNOWN: WeakKeyDictionary[torch.optim.Optimizer, _Declared] = WeakKeyDictionary()


def declare(optimizer: torch.optim.Optimizer, name: str, state: Mapping[str, StateKind]) -> None:
    """From now on the state of `optimizer` is what its definition, `name`, says."""
    _KNOWN[optimizer] = _Declared(name, state, _plain(optimizer))


@dataclass(frozen=True, slots=True)
class Kinds:
    """The kinds of the state of an optimizer, with those of the optimizers that it wraps.

    `named`: what is known by name. `strict`: it is all that there is, so that other keys are errors; else one number
    beside more weights is a number, whatever its name. `counts`: as in `Keeps`.
    """

    optimizer: str
    named: Mapping[str, StateKind]
    strict: bool
    counts: Mapping[str, float | None]
    remedy: str

    def of(self, key: str, value: Any, parameter: Tensor) -> StateKind:
        """The kind of what is kept for a parameter under `key`; UsageError where nothing says it."""
        if key in self.named:
            return self.named[key]
        if not self.strict and isinstance(value, Tensor) and is_scalar(key, value, parameter):
            return "scalar"
        if not self.strict and isinstance(value, int | float):
            return "number"
        raise UsageError(
            f"optimizer {self.optimizer}: nothing says what its state {key!r} holds, so no rewrite can carry it; "
            f"{self.remedy.replace(_KEY, repr(key))}"
        )


def kinds_of(optimizer: torch.optim.Optimizer) -> Kinds:
    """What is known of the state of an optimizer, by its definition, its registration, or the names that torch uses."""
    named: dict[str, StateKind] = {}
    counts: dict[str, float | None] = {}
    strict, names, remedy = True, [], ""
    for part in chain(optimizer):
        declared = _KNOWN.get(part) if isinstance(part, torch.optim.Optimizer) else None
        keeps = keeps_of(type(part)) if declared is None else None
        names.append(type(part).__name__ if declared is None else declared.name)
        if declared is not None:
            found = declared.state
            remedy = f"add it to `state` of {declared.name}"
        elif keeps is not None:
            found = keeps.state
            counts |= keeps.counts
            remedy = f"add it to what is registered for {_path(part)}"
        else:
            found, strict = CONVENTIONAL, False
            counts |= {key: getattr(part, "defaults", {}).get(key) for key in _COUNTS}
            remedy = (
                f'register it once, with the kind of every key, as in nasir.registry.optimizer_states.register("'
                f'{_path(part)}")(nasir.training.Keeps({{{_KEY}: "first"}})) (docs/extending.md lists the kinds), or '
                "make the optimizer anew after the rewrite"
            )
        named = {**found, **named}
    return Kinds("(".join(names) + ")" * (len(names) - 1), named, strict, counts, remedy)


def _path(part: Any) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"


def check_state(optimizer: torch.optim.Optimizer) -> None:
    """UsageError where an optimizer that is known keeps what nothing names the kind of."""
    kinds = kinds_of(optimizer)
    for part in chain(optimizer) if kinds.strict else ():
        for parameter, state in part.state.items():
            for key, value in state.items() if isinstance(parameter, Tensor) else ():
                if value is not None:
                    kinds.of(key, value, parameter)


def is_scalar(key: str, value: Tensor, parameter: Tensor) -> bool:
    """Whether a tensor counts or scales steps by what can be seen: `step`, or one number beside larger weights.

    All else has a number for each weight of the parameter, which may itself be a single one.
    """
    return key == "step" or (value.ndim == 0 and parameter.ndim > 0)


def check_groups(optimizer: torch.optim.Optimizer) -> None:
    """UsageError where an optimizer made by its definition changes options of its groups, which no checkpoint holds."""
    declared = _KNOWN.get(optimizer)
    if declared is None:
        return
    now = _plain(optimizer)
    changed = sorted(key for key in now if declared.group.get(key) != now[key])
    if changed:
        raise UsageError(
            f"optimizer {declared.name}: it changes {', '.join(changed)} of its groups while it trains, and a "
            "checkpoint holds only the state of parameters; keep it there"
        )


def _plain(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Options of the first group that can be compared."""
    group = optimizer.param_groups[0]
    return {
        key: value
        for key, value in group.items()
        if key not in _OWN and isinstance(value, bool | int | float | str | tuple | None)
    }
