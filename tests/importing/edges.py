"""Comparing a model with the user's module that it was imported from: what it returns, gradients and buffers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nasir.backends.torch import Model, from_module
from nasir.backends.torch.nested import fields_of, tensors_in

Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]


def structure(output: Any) -> Any:
    """What an output is beside the numbers of its tensors: classes, names, plain values, shapes."""
    if isinstance(output, Tensor):
        return output.shape, output.dtype
    parts = fields_of(output)
    if parts is not None:
        return type(output), [(name, structure(part)) for name, part in parts]
    if isinstance(output, Mapping):
        return type(output), [(name, structure(part)) for name, part in output.items()]
    if isinstance(output, (tuple, list)):
        return type(output), [structure(part) for part in output]
    return output


def check_same(
    net: nn.Module,
    arguments: Callable[[int], Arguments],
    *,
    steps: int = 2,
    samples: tuple[int, int] = (2, 5),
    caches: tuple[str, ...] = (),
    **options: Any,
) -> Model:
    """The model imported from `net`, which returns, learns and keeps in its buffers what a copy of `net` does.

    It is imported with `samples[0]` samples and compared with `samples[1]`; `caches`: buffers that only the copy fills.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of other libraries
        own = copy.deepcopy(net)
        given, named = arguments(samples[0])
        model = from_module(net, *given, **options, **named)
        given, named = arguments(samples[1])
        with torch.no_grad():
            torch.manual_seed(3)
            wanted = own.eval()(*given, **named)
            torch.manual_seed(3)
            assert_same(model.eval()(*given, **named), wanted)
        for _ in range(steps):
            outputs = []
            for module in (own.train(), model.train()):
                module.zero_grad()
                torch.manual_seed(3)
                outputs.append(module(*given, **named))
                learn(outputs[-1])
            assert_same(outputs[1], outputs[0])
            for key, parameter in own.named_parameters():
                assert_same(net.get_parameter(key).grad, parameter.grad, key)
    held = {key.removesuffix(".value"): tensor for key, tensor in model.named_buffers()}
    for key, buffer in own.named_buffers():
        if key in held and key not in caches:
            assert_same(held[key], buffer, key)
    return model


def assert_same(given: Any, wanted: Any, what: str = "") -> None:
    """Both have one structure and the same numbers."""
    assert structure(given) == structure(wanted), what
    for one, other in zip(tensors_in(given), tensors_in(wanted), strict=True):
        assert torch.equal(one, other) or torch.allclose(one, other, rtol=0, atol=0, equal_nan=True), what


def learn(output: Any) -> None:
    """Gradients of a fixed weighted sum of all that is differentiable."""
    generator = torch.Generator().manual_seed(1)
    terms = [(t * torch.randn(t.shape, generator=generator)).sum() for t in tensors_in(output) if t.requires_grad]
    if terms:
        torch.autograd.backward(torch.stack(terms).sum())
