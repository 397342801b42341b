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
_ORDINARY = _OWN | {"name", "weight_decay", "momentum", "betas", "max_lr", "min_lr", "base_momentum", "max_momentum"}
_KEY, _SOME = "KEY", "'...'"  # in a remedy: stands for the key of the state


@dataclass(frozen=True, slots=True)
class _Declared:
    """Of an optimizer that was made by its definition: its name, its kinds, and its groups as they began."""

    name: str
    state: Mapping[str, StateKind]
    group: Mapping[str, Any]


_TORCH = frozenset(kind for kind in vars(torch.optim).values() if isinstance(kind, type)) - {torch.optim.Optimizer}
_KNOWN: WeakKeyDictionary[torch.optim.Optimizer, _Declared] = WeakKeyDictionary()


def declare(optimizer: torch.optim.Optimizer, name: str, state: Mapping[str, StateKind]) -> None:
    """From now on the state of `optimizer` is what its definition, `name`, says."""
    _KNOWN[optimizer] = _Declared(name, state, _plain(optimizer))


@dataclass(frozen=True, slots=True)
class Kinds:
    """The kinds of the state of an optimizer, with those of the optimizers that it wraps.

    `named`: what is known by name. `strict`: it is all that there is, so that other keys are errors; else one number
    beside more weights is a number, whatever its name. `familiar`: all of them are torch's or registered. `sure`: the
    names mean what they mean in torch; of others that is only likely, but where they hand out what they wrap. `counts`:
    as in `Keeps`. `defaults`: the options of groups as they were at the start.
    """

    optimizer: str
    named: Mapping[str, StateKind]
    strict: bool
    familiar: bool
    sure: bool
    counts: frozenset[str]
    defaults: Mapping[str, Any]
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
            f"{self.remedy_for(key)}"
        )

    def check_sure(self, key: str) -> None:
        """UsageError where more has to be done with what is kept under `key` than to pick it, and what it is is only
        likely."""
        if not self.sure:
            raise UsageError(
                f"optimizer {self.optimizer}: its state {key!r} has to be made up for new units or scaled for "
                "replicated ones, and nothing says whether it is what torch's optimizers keep under this name; "
                f"{self.remedy_for(key)}"
            )

    def check_joining(self, optimizer: Any) -> None:
        """UsageError where new parameters may not begin as the others began, and nothing says what is counted."""
        if self.familiar:
            return
        odd = {repr(key) for part in chain(optimizer) for key in part.state if not isinstance(key, Tensor)}
        for group in optimizer.param_groups:
            changed = (key for key, value in group.items() if not _same(value, self.defaults.get(key)))
            odd |= {repr(key) for key in changed if key not in _ORDINARY}
        if odd:
            raise UsageError(
                f"optimizer {self.optimizer}: nothing says what {', '.join(sorted(odd))}, which it keeps for all "
                f"parameters of a group, means for new ones; {self.remedy_for(None)}"
            )

    def remedy_for(self, key: str | None) -> str:
        """What there is to be done about a key of the state, or about what is kept for groups."""
        return self.remedy.replace(_KEY, _SOME if key is None else repr(key))


def kinds_of(optimizer: torch.optim.Optimizer) -> Kinds:
    """What is known of the state of an optimizer, by its definition, its registration, or the names that torch uses."""
    named: dict[str, StateKind] = {}
    counts: set[str] = set()
    defaults: dict[str, Any] = {}
    strict = familiar = sure = True
    names: list[str] = []
    remedy = ""
    wrapped = chain(optimizer)
    for place, part in enumerate(wrapped):
        declared = _KNOWN.get(part) if isinstance(part, torch.optim.Optimizer) else None
        keeps = keeps_of(type(part)) if declared is None else None
        names.append(type(part).__name__ if declared is None else declared.name)
        if declared is not None:
            found = declared.state
            remedy = remedy or f"add it to `state` of {declared.name}"
        elif keeps is not None:
            found = keeps.state
            counts |= set(keeps.counts)
            remedy = remedy or f"add it to what is registered for {_path(part)}"
        else:
            found, strict = CONVENTIONAL, False
            known = any(base in _TORCH for base in type(part).__mro__)
            hands_out = any(part.state is inner.state for inner in wrapped[place + 1 :])
            mending = (
                f'register it once, with the kind of every key, as in nasir.registry.optimizer_states.register("'
                f'{_path(part)}")(nasir.training.Keeps({{{_KEY}: "first"}})) (docs/extending.md lists the kinds and '
                "says how to name what its groups count), or make the optimizer anew after the rewrite"
            )
            remedy = mending if familiar and not known else remedy or mending
            familiar, sure = familiar and known, sure and (known or hands_out)
        named = {**found, **named}
        defaults = {**getattr(part, "defaults", {}), **defaults}
    return Kinds(
        "(".join(names) + ")" * (len(names) - 1),
        named,
        strict,
        familiar,
        sure,
        frozenset(counts),
        defaults,
        remedy,
    )


def _same(value: Any, first: Any) -> bool:
    """Whether an option of a group is what it was at the start; what is no number counts nothing."""
    if isinstance(value, Tensor) or isinstance(first, Tensor):
        return value is first or (isinstance(first, Tensor) and bool((torch.as_tensor(value) == first).all()))
    return isinstance(value, bool) or not isinstance(value, int | float) or bool(value == first)


def _path(part: Any) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"


def check_state(optimizer: torch.optim.Optimizer, kinds: Kinds) -> None:
    """UsageError where an optimizer whose `kinds` are all that there is keeps something else."""
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
