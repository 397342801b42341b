"""Optimizers whose groups follow slot tags."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.optimizers import eager, momentum
from nasir.backends.torch.optimizers.kinds import declare
from nasir.backends.torch.optimizers.wrappers import holders
from nasir.errors import GraphError, UsageError
from nasir.registry import code_of
from nasir.training.plans import OptimizerPlan

Tagged = tuple[str, nn.Parameter, frozenset[str]]


def decays(tags: frozenset[str], plan: OptimizerPlan) -> bool:
    """Whether weight decay acts on a slot: weights tagged `decay` always, norms and biases as the plan says."""
    if "norm" in tags and not plan.decay_norms:
        return False
    if "bias" in tags and not plan.decay_biases:
        return False
    return bool(tags & {"decay", "norm", "bias"})


def tagged(model: LoweredModule) -> Iterator[Tagged]:
    """Every parameter of a model by name, with the tags of its slot."""
    slots = model.graph.infer.slots
    parameters = dict(model.named_parameters())
    for name, key in model.keys().items():
        if name in parameters:
            yield name, parameters[name], slots[key.node][key.slot].tags


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
    groups: list[dict[str, object]] = []
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
    remedy = "it is made of the groups, `lr` and the options of its own, by name"
    with code_of(type(plan.options), f"optimizer {plan.kind}", remedy, (torch.OutOfMemoryError,)), eager.make():
        optimizer: Optimizer = plan.options.make(groups, fused)
    _check(optimizer, plan)
    declare(optimizer, plan.kind, plan.options.state)
    momentum.prepare(optimizer)
    return optimizer


def fuses(parameters: Iterable[Tensor]) -> bool:
    """Whether an optimizer takes torch's fused kernel: where there are parameters, and all are on a CUDA device."""
    devices = {parameter.device.type for parameter in parameters}
    return devices == {"cuda"}


def _check(optimizer: Optimizer, plan: OptimizerPlan) -> None:
    """UsageError where the optimizer has no learning rate, or is asked for a weight decay that it does not have."""
    if not isinstance(optimizer, Optimizer):
        raise UsageError(f"optimizer {plan.kind}: made {optimizer!r:.60}, which is no torch.optim.Optimizer")
    if len(holders(optimizer)) > 1:
        raise UsageError(
            f"optimizer {plan.kind}: it wraps an optimizer that keeps state of its own, which no checkpoint of a run "
            "holds; make one that keeps all of it"
        )
    if "lr" not in optimizer.defaults:
        raise UsageError(f"optimizer {plan.kind}: its groups have no `lr`, which the schedule of a phase would set")
    if plan.weight_decay and "weight_decay" not in optimizer.defaults:
        raise UsageError(
            f"optimizer {plan.kind}: weight_decay is {plan.weight_decay}, and it has none; leave it out, or add "
            "the term `l2` under `regularize:`"
        )


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give every group the learning rate `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr
