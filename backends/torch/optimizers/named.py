"""State of an optimizer by parameter name, as checkpoints hold it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from nasir.errors import CheckpointError

State = dict[str, dict[str, Tensor]]


def flat(state: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """{name: {key: tensor}} as {"name/key": tensor}."""
    return {f"{name}/{key}": tensor for name, values in state.items() for key, tensor in values.items()}


def nested(flat: Mapping[str, Tensor]) -> State:
    """{"name/key": tensor} as {name: {key: tensor}}."""
    found: State = {}
    for path, tensor in flat.items():
        name, _, key = path.rpartition("/")
        found.setdefault(name, {})[key] = tensor
    return found


def is_counter(key: str, value: Tensor, parameter: Tensor) -> bool:
    """Whether a tensor of an optimizer's state counts or scales steps: `step`, or one number beside larger weights.

    All else has a number for each weight of the parameter, which may itself be a single one.
    """
    return key == "step" or (value.ndim == 0 and parameter.ndim > 0)


def export_state(optimizer: Optimizer, named: Iterable[tuple[str, Tensor]]) -> State:
    """State by parameter name, {name: {key: tensor}}, of the parameters in `named` (`model.named_parameters()`).

    Parameters without state are left out. The tensors are the optimizer's own, not copies; a plain number becomes a
    float64 scalar. Names come from the model, not from the groups: a rewrite may have renamed or moved a parameter.
    """
    exported: State = {}
    for name, parameter in named:
        values: dict[str, Tensor] = {}
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                values[key] = value
            elif value is not None:  # SGD without momentum stores None
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
    tensors = dict(named)
    homes = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    unknown = sorted(name for name in state if name not in tensors or id(tensors[name]) not in homes)
    if unknown:
        raise CheckpointError(
            f"optimizer state for {', '.join(unknown[:3])} ({len(unknown)} in all) has no parameter here; "
            "the checkpoint belongs to another network"
        )
    placed: dict[Tensor, dict[str, Tensor]] = {}
    for name, values in state.items():
        parameter = tensors[name]
        group = homes[id(parameter)]
        placed[parameter] = {key: place_state(name, key, value, parameter, group) for key, value in values.items()}
    optimizer.state.clear()
    optimizer.state.update(placed)


def place_state(name: str, key: str, value: Tensor, parameter: Tensor, group: Mapping[str, object]) -> Tensor:
    """A copy of one stored tensor of `name`'s state, where an optimizer with this group would have it.

    CheckpointError for a moment whose shape is not the parameter's.
    """
    if is_counter(key, value, parameter):
        # Adam's step counter lives on the CPU unless a fused or capturable kernel reads it on the device
        on_device = bool(group.get("fused") or group.get("capturable"))
        return value.to(parameter.device if on_device else "cpu", copy=True)
    if value.shape != parameter.shape:
        raise CheckpointError(
            f"optimizer state {key} of {name} has shape {tuple(value.shape)}, the parameter "
            f"{tuple(parameter.shape)}; the checkpoint belongs to another network"
        )
    # like the parameter's own layout, as a fresh optimizer would have made it
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
