"""What an optimizer keeps under each key of its state: as its definition says, or as torch names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from nasir.errors import UsageError
from nasir.training.optimizers import StateKind

# the names that torch's own optimizers use, and those that others took over from them
TORCH: Mapping[str, StateKind] = {
    "momentum_buffer": "first",
    "exp_avg": "first",
    "grad_avg": "first",
    "prev": "first",
    "acc_delta": "first",
    "step_size": "second",  # of Rprop, never below 0: new units begin with the mean of the others
    "exp_avg_sq": "second",
    "max_exp_avg_sq": "second",
    "exp_inf": "second",
    "square_avg": "second",
    "sum": "second",
    "variance": "second",
    "row_var": "factored",
    "col_var": "factored",
    "ax": "weight",
    "step": "scalar",
    "mu_product": "scalar",
}
_OWN = frozenset({"params", "param_names", "lr", "initial_lr"})  # of a group: what nasir and schedulers change


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


def state_kind(optimizer: torch.optim.Optimizer, key: str, value: Any, parameter: Tensor) -> StateKind:
    """The kind of what `optimizer` keeps for a parameter under `key`.

    UsageError where its definition does not say it. Of one that was made without a definition the names of torch count,
    and one number beside more weights is a number, whatever its name.
    """
    declared = _KNOWN.get(optimizer)
    kinds = TORCH if declared is None else declared.state
    if key in kinds:
        return kinds[key]
    if declared is None and isinstance(value, Tensor) and is_scalar(key, value, parameter):
        return "scalar"
    if declared is None and isinstance(value, int | float):
        return "number"
    name = type(optimizer).__name__ if declared is None else declared.name
    remedy = (
        "register it in nasir.registry.optimizers with that key in `state`, and make it by its plan"
        if declared is None
        else f"add it to `state` of {name}"
    )
    raise UsageError(
        f"optimizer {name}: nothing says what its state {key!r} holds, so no rewrite can carry it; {remedy}"
    )


def check_state(optimizer: torch.optim.Optimizer) -> None:
    """UsageError where an optimizer made by its definition keeps what that does not name the kind of."""
    declared = _KNOWN.get(optimizer)
    for parameter, state in optimizer.state.items() if declared is not None else ():
        for key, value in state.items():
            if value is not None:
                state_kind(optimizer, key, value, parameter)


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
