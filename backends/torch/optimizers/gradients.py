"""Gradients that have been accumulated when a rewrite comes: they follow the plan, as momentum does."""

from __future__ import annotations

import torch
from torch import Tensor

from nasir.backends.torch.arrays import TorchArrays
from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.optimizers.state import followed
from nasir.backends.torch.optimizers.transfer import parameters_by_key
from nasir.transfer import FIRST, TransferPlan, execute_moment, keys_of, moment_source


def moved_gradients(old: LoweredModule, new: LoweredModule, plan: TransferPlan) -> list[tuple[Tensor, Tensor]]:
    """(parameter of `new`, its gradient) for each that takes the place of parameters of `old` that have one.

    Of parameters that are kept nothing changes; new ones, and copies of living ones, have no gradient yet.
    """
    if not any(_has_gradient(old.find_tensor(part)) for source in plan.sources.values() for part in keys_of(source)):
        return []
    before, after = parameters_by_key(old), parameters_by_key(new)
    moved: list[tuple[Tensor, Tensor]] = []
    for key, parameter in after.items():
        source = plan.sources.get(key)
        parts = followed(source, key, after) if source is not None and before.get(key) is not parameter else ()
        if source is None or all(before[part].grad is None for part in parts):
            continue
        gradients = {part: _gradient(before[part]) for part in parts}
        sparse = any(gradient.layout != torch.strided for gradient in gradients.values())
        dense = {part: gradient.to_dense() for part, gradient in gradients.items()} if sparse else gradients
        mapped = moment_source(source, FIRST)
        assert mapped is not None  # it has parts that are followed
        arrays = TorchArrays(parameter.device, parameter.dtype)
        with torch.no_grad():
            gradient = execute_moment(mapped, dense.__getitem__, arrays, tuple(parameter.shape))
        moved.append((parameter, gradient.to_sparse() if sparse else gradient))
    return moved


def _has_gradient(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.grad is not None


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
