"""Parity: a recording computes what its module computes, in both modes, its gradients and buffers included."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nasir.backends.torch.host import on_host
from nasir.backends.torch.importing.copies import fresh_copy
from nasir.backends.torch.importing.operands import tensors_in
from nasir.backends.torch.importing.recording import Caller
from nasir.backends.torch.importing.replaying import replay
from nasir.importing.recording import Recording


@dataclass(frozen=True)
class Parity:
    """The largest absolute differences between a module and its recording; infinite where forms or NaNs differ.

    `eval`, `train`: outputs, with equal seeds; `buffers`: buffers after the step in train mode; `gradients`: those of
    parameters after it, infinite where only one of both has any.
    """

    eval: float
    train: float
    buffers: float
    gradients: float

    @property
    def largest(self) -> float:
        """The largest of all."""
        return max(self.eval, self.train, self.buffers, self.gradients)


def parity(
    recording: Recording,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    call: Caller | None = None,
    seed: int = 0,
) -> Parity:
    """Compare a recording with copies of its module, on arguments of any batch size; `call` as it was recorded.

    In train mode the gradients are those of a fixed weighted sum of all floating-point outputs.
    """
    run = call or (lambda twin, *given, **named: twin(*given, **named))
    named = dict(kwargs or {})
    sides = []
    for replayed in (False, True):
        outputs = []
        for training in (False, True):
            twin = fresh_copy(module, training)
            given, given_named = copy.deepcopy((args, named))
            with torch.random.fork_rng(), torch.enable_grad():
                torch.manual_seed(seed)
                made = replay(recording, twin, *given, **given_named) if replayed else run(twin, *given, **given_named)
                outputs.append(list(tensors_in(made)))
        _differentiate(outputs[1], seed)
        gradients = {name: parameter.grad for name, parameter in twin.named_parameters()}
        sides.append((outputs[0], outputs[1], dict(twin.named_buffers()), gradients))
    (eval_one, train_one, buffers_one, gradients_one), (eval_two, train_two, buffers_two, gradients_two) = sides
    return Parity(
        _apart(eval_one, eval_two),
        _apart(train_one, train_two),
        _apart([*buffers_one.values()], [*buffers_two.values()]),
        _apart([*gradients_one.values()], [*gradients_two.values()]),
    )


def runner(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None, *, call: Caller | None = None
) -> Callable[[Mapping[str, NDArray[Any]]], list[NDArray[Any]]]:
    """A function from a state (arrays by key) to the outputs of the module in eval mode on these arguments.

    Keys that the state lacks keep the module's own tensors. The module is copied once, and stays as it is. What
    nasir.testing's oracles of units take.
    """
    twin = fresh_copy(module, training=False)
    tensors = {
        **dict(twin.named_parameters(remove_duplicate=False)),
        **dict(twin.named_buffers(remove_duplicate=False)),
    }
    start = {key: tensor.detach().clone() for key, tensor in tensors.items()}
    run = call or (lambda copied, *given, **named: copied(*given, **named))

    def outputs(state: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        with torch.no_grad(), torch.random.fork_rng():
            for key, tensor in tensors.items():
                tensor.copy_(torch.as_tensor(state[key]) if key in state else start[key])
            made = run(twin, *copy.deepcopy(args), **copy.deepcopy(dict(kwargs or {})))
            return [on_host(tensor).copy() for tensor in tensors_in(made)]

    return outputs


def _differentiate(outputs: list[Tensor], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    total: Tensor | None = None
    for output in outputs:
        if output.requires_grad:
            weights = torch.randn(output.shape, generator=generator).to(output)
            term = (output * weights).sum()
            total = term if total is None else total + term
    if total is not None:
        torch.autograd.backward(total)


def _apart(ones: list[Any], others: list[Any]) -> float:
    if len(ones) != len(others):
        return float("inf")
    return max([_difference(one, other) for one, other in zip(ones, others, strict=True)], default=0.0)


def _difference(one: Tensor | None, other: Tensor | None) -> float:
    """The largest difference of two tensors; equal infinities and NaNs in the same places do not differ."""
    if one is None or other is None:
        return 0.0 if one is other else float("inf")
    if one.shape != other.shape or one.dtype != other.dtype:
        return float("inf")
    same = (one == other) | ((one != one) & (other != other))
    if bool(same.all()):
        return 0.0
    apart = (one.detach().double() - other.detach().double()).abs()[~same]
    return float(torch.nan_to_num(apart, nan=float("inf")).max())
