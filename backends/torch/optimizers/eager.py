"""torch's optimizers while nothing can be compiled: a process that compiles nothing starts seconds sooner.

torch wraps parts of its optimizers so that its compiler does not trace them. The wrappers import the compiler, which
takes seconds, even where nothing is ever compiled. Until somebody else has loaded it, the same functions are called
without these wrappers; a release of torch that wraps them in another way is used as usual.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim import optimizer as base

__all__ = ["clear_gradients", "make", "step"]

COMPILER = "torch._dynamo"


@contextmanager
def make() -> Iterator[None]:
    """Within it, optimizers are made without the compiler."""
    usual = Optimizer.add_param_group
    plain = getattr(usual, "__wrapped__", None)
    if COMPILER in sys.modules or plain is None:
        yield
        return
    Optimizer.add_param_group = plain  # type: ignore[method-assign]
    try:
        yield
    finally:
        Optimizer.add_param_group = usual  # type: ignore[method-assign]


def step(optimizer: Optimizer) -> None:
    """One step by the gradients that are there, with all hooks that were registered."""
    plain = None if COMPILER in sys.modules else _plain(optimizer)
    if plain is None:
        optimizer.step()
        return
    given: tuple[Any, Any] = ((optimizer,), {})
    for before in chain(base._global_optimizer_pre_hooks.values(), optimizer._optimizer_step_pre_hooks.values()):
        given = before(optimizer, *given) or given
    with torch.no_grad():
        plain(*given[0], **given[1])
    for after in chain(optimizer._optimizer_step_post_hooks.values(), base._global_optimizer_post_hooks.values()):
        after(optimizer, *given)


def clear_gradients(optimizer: Optimizer) -> None:
    """Give the memory of all gradients back."""
    if COMPILER in sys.modules or type(optimizer).zero_grad is not Optimizer.zero_grad:
        optimizer.zero_grad(set_to_none=True)
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def _plain(optimizer: Optimizer) -> Callable[..., Any] | None:
    """The step of an optimizer of torch below its two wrappers: one for hooks and profilers, one for gradients off.

    None where the wrappers are others, or where they do more than `step` does.
    """
    hooked = type(optimizer).step
    graded = getattr(hooked, "__wrapped__", None)
    plain: Callable[..., Any] | None = getattr(graded, "__wrapped__", None)
    known = (
        getattr(hooked, "hooked", False)
        and getattr(getattr(graded, "__code__", None), "co_name", "") == "_use_grad"
        and getattr(plain, "__module__", "").startswith("torch.optim.")
    )
    profiled: bool = torch._C._autograd._profiler_enabled()
    more = optimizer.defaults.get("differentiable", True) or profiled
    return plain if known and not more else None
