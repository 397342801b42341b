"""State of an optimizer by parameter name, as checkpoints hold it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.optim import Optimizer

from nasir.backends.torch.optimizers.kinds import check_groups, is_scalar, kinds_of
from nasir.errors import CheckpointError
from nasir.training.optimizers import OptimizerPlan
from nasir.training.states import StateKind

State = dict[str, dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class KeptBy:
    """Whose state it is: an optimizer by name, and the keys that it keeps; None in checkpoints that do not say."""

    kind: str
    held: frozenset[str] | None

    @classmethod
    def of(cls, plan: OptimizerPlan) -> Self:
        """Of an optimizer with its options."""
        return cls(plan.kind, frozenset(plan.options.held()))

    @classmethod
    def read(cls, meta: Mapping[str, Any]) -> Self | None:
        """From the meta data of a checkpoint; None before the first phase."""
        kind, held = meta["optimizer_kind"], meta.get("optimizer_held")
        return None if kind is None else cls(kind, None if held is None else frozenset(held))

    @staticmethod
    def meta(kept_by: KeptBy | None) -> dict[str, Any]:
        """For the meta data of a checkpoint."""
        if kept_by is None or kept_by.held is None:
            return {"optimizer_kind": None if kept_by is None else kept_by.kind}
        return {"optimizer_kind": kept_by.kind, "optimizer_held": sorted(kept_by.held)}

    def serves(self, plan: OptimizerPlan) -> bool:
        """Whether an optimizer can go on with it: the same kind, whose options ask for nothing that is not there."""
        return self.kind == plan.kind and (self.held is None or frozenset(plan.options.held()) <= self.held)


def flat(state: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """{name: {key: tensor}} as {"name/key": tensor}."""
    return {f"{name}/{key}": tensor for name, values in state.items() for key, tensor in values.items()}


def nested(flat: Mapping[str, Tensor]) -> State:
    """{"name/key": tensor} as {name: {key: tensor}}."""
    state: State = {}
    for path, tensor in flat.items():
        name, _, key = path.rpartition("/")
        state.setdefault(name, {})[key] = tensor
    return state


def export_state(optimizer: Optimizer, named: Iterable[tuple[str, Tensor]]) -> State:
    """State by parameter name, {name: {key: tensor}}, of the parameters in `named` (`model.named_parameters()`).

    Parameters without state are left out. The tensors are the optimizer's own, not copies; a plain number becomes a
    float64 scalar. Names come from the model, not from the groups: a rewrite may have renamed or moved a parameter.
    UsageError for what a checkpoint cannot hold: state that nothing says the kind of, and changed options of groups.
    """
    check_groups(optimizer)
    kinds = kinds_of(optimizer)
    exported: State = {}
    for name, parameter in named:
        values: dict[str, Tensor] = {}
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is None:  # SGD without momentum
                continue
            kinds.of(key, value, parameter)
            if isinstance(value, Tensor):
                values[key] = value
            else:
                values[key] = torch.tensor(value, dtype=torch.float64)
        if values:
            exported[name] = values
    return exported


def import_state(
    optimizer: Optimizer, state: Mapping[str, Mapping[str, Tensor]], named: Iterable[tuple[str, Tensor]]
) -> None:
    """Replace all state by `state` (see `export_state`); parameters not in it start empty.

    CheckpointError for a name that is not a parameter of the optimizer, or a moment of another shape than its own.
    """
    tensors, kinds = dict(named), kinds_of(optimizer)
    homes = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    unknown = sorted(name for name in state if name not in tensors or id(tensors[name]) not in homes)
    if unknown:
        raise CheckpointError(
            f"optimizer state for {', '.join(unknown[:3])} ({len(unknown)} in all) has no parameter here; "
            "the checkpoint belongs to another network"
        )
    placed: dict[Tensor, dict[str, Tensor | int | float]] = {}
    for name, values in state.items():
        parameter = tensors[name]
        group = homes[id(parameter)]
        placed[parameter] = {
            key: _imported(kinds.of(key, value, parameter), name, key, value, parameter, group)
            for key, value in values.items()
        }
    optimizer.state.clear()
    optimizer.state.update(placed)


def _imported(
    kind: StateKind, name: str, key: str, value: Tensor, parameter: Tensor, group: Mapping[str, object]
) -> Tensor | int | float:
    """A copy of one stored value, as its kind asks for."""
    if kind == "number":
        number = float(value)
        return int(number) if number.is_integer() else number
    if kind == "scalar":
        return _scalar(value, parameter, group)
    if kind != "factored":
        return _shaped(name, key, value, parameter)
    sizes = zip(value.shape, parameter.shape, strict=False)
    if value.ndim != parameter.ndim or any(own not in (1, size) for own, size in sizes):
        raise _foreign(name, key, value, parameter)
    return value.to(parameter.device, copy=True)


def place_state(name: str, key: str, value: Tensor, parameter: Tensor, group: Mapping[str, object]) -> Tensor:
    """A copy of one stored tensor of `name`'s state, where an optimizer with this group would have it.

    Of an optimizer that nothing need be known of: one number, or a tensor of the parameter's shape. CheckpointError for
    another shape.
    """
    if is_scalar(key, value, parameter):
        return _scalar(value, parameter, group)
    return _shaped(name, key, value, parameter)


def _scalar(value: Tensor, parameter: Tensor, group: Mapping[str, object]) -> Tensor:
    # Adam's step counter lives on the CPU unless a fused or capturable kernel reads it on the device
    on_device = bool(group.get("fused") or group.get("capturable"))
    return value.to(parameter.device if on_device else "cpu", copy=True)


def _shaped(name: str, key: str, value: Tensor, parameter: Tensor) -> Tensor:
    if value.shape != parameter.shape:
        raise _foreign(name, key, value, parameter)
    # like the parameter's own layout, as a fresh optimizer would have made it
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _foreign(name: str, key: str, value: Tensor, parameter: Tensor) -> CheckpointError:
    return CheckpointError(
        f"optimizer state {key} of {name} has shape {tuple(value.shape)}, the parameter "
        f"{tuple(parameter.shape)}; the checkpoint belongs to another network"
    )
