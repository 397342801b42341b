"""Optimizers whose groups follow slot tags and whose state goes by parameter name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nasir.backends.torch.optimizers import momentum
from nasir.errors import CheckpointError, GraphError
from nasir.training.plans import OptimizerPlan

Tagged = tuple[str, nn.Parameter, frozenset[str]]
State = dict[str, dict[str, Tensor]]


def decays(tags: frozenset[str], plan: OptimizerPlan) -> bool:
    """Whether weight decay acts on a slot: weights tagged `decay` always, norms and biases as the plan says."""
    if "norm" in tags and not plan.decay_norms:
        return False
    if "bias" in tags and not plan.decay_biases:
        return False
    return bool(tags & {"decay", "norm", "bias"})


def build_optimizer(params: Iterable[Tagged], plan: OptimizerPlan, *, fused: bool | None = None) -> Optimizer:
    """An optimizer over (name, parameter, tags) with two groups, `decay` and `no_decay`, each also if empty.

    Groups carry `name`, `param_names` in the order of `params` (torch's own key, kept up to date by rewrites), and
    `spared`, the tags that the plan does not decay: parameters that a rewrite adds are sorted by them.
    `fused=None` takes the fused kernel where `fuses` says so. A name or tensor given twice is a GraphError.
    """
    members = list(params)
    names = [name for name, _, _ in members]
    tensors = {id(parameter) for _, parameter, _ in members}
    if len(set(names)) != len(names) or len(tensors) != len(members):
        twice = sorted({name for name in names if names.count(name) > 1}) or ["a tied tensor under two names"]
        raise GraphError(f"optimizer: given twice: {', '.join(twice)}; list each parameter once, under its owner")
    if fused is None:
        fused = fuses(parameter for _, parameter, _ in members)
    groups = []
    spared = (() if plan.decay_norms else ("norm",)) + (() if plan.decay_biases else ("bias",))
    for group_name, wanted in (("decay", True), ("no_decay", False)):
        chosen = [(name, parameter) for name, parameter, tags in members if decays(tags, plan) is wanted]
        groups.append(
            {
                "params": [parameter for _, parameter in chosen],
                "name": group_name,
                "param_names": [name for name, _ in chosen],
                "weight_decay": plan.weight_decay if wanted else 0.0,
                "spared": spared,
            }
        )
    optimizer = _make(groups, plan, fused)
    momentum.prepare(optimizer)
    return optimizer


def fuses(parameters: Iterable[Tensor]) -> bool:
    """Whether an optimizer takes torch's fused kernel: where there are parameters, and all are on a CUDA device."""
    devices = {parameter.device.type for parameter in parameters}
    return devices == {"cuda"}


def _make(groups: list[dict[str, object]], plan: OptimizerPlan, fused: bool) -> Optimizer:
    if plan.kind == "sgd":
        return torch.optim.SGD(groups, lr=plan.lr, momentum=plan.momentum, nesterov=plan.nesterov, fused=fused or None)
    make = torch.optim.Adam if plan.kind == "adam" else torch.optim.AdamW
    return make(groups, lr=plan.lr, betas=plan.betas, eps=plan.eps, fused=fused or None)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give every group the learning rate `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr


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
