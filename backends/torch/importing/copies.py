"""What a recording runs on: fresh copies of the module, and examples of other batch sizes."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nasir.backends.torch.importing.leaves import attributes_of
from nasir.backends.torch.importing.lending import lent, part
from nasir.backends.torch.importing.names import class_name
from nasir.errors import NasirError, NasirWarning

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def fresh_copy(module: nn.Module, training: bool, meta: bool = False, borrowing: bool = False) -> nn.Module:
    """A copy of the module in one mode, without the user's hooks; the module itself is only read.

    Hooks of torch itself (weight_norm, pruning) stay. `meta`: its parameters and buffers have no numbers, and take no
    memory. `borrowing`: its parameters take none before they are written (see `lent`). Raises NasirError for modules
    that cannot be copied.
    """
    borrowed = lent(module.parameters()) if borrowing else {}
    memo: dict[int, Any] = {**borrowed}
    if meta:
        for parameter in module.parameters():
            memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)
        for buffer in module.buffers():
            memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    for inner in module.modules():
        for hook in _hooks(inner):
            if not _of_torch(hook):
                memo[id(hook)] = hook  # a bound method would be copied with all that its object holds
        for held in vars(inner).values():
            if type(held) is OrderedDict and not held:  # a module has a dozen, whose copies take most of the time
                memo[id(held)] = OrderedDict()
        for tensor in _computed(vars(inner)):
            memo[id(tensor)] = tensor.detach().clone()  # deepcopy refuses it; whoever reads it is told
    try:
        twin = copy.deepcopy(module, memo)
    except Exception as error:
        part(borrowed.values())  # whoever keeps the error keeps them
        raise NasirError(
            f"record: the module ({class_name(type(module))}) cannot be copied ({type(error).__name__}: {error}); runs "
            "are made on copies, so that it stays as it is: let copy.deepcopy(module) work"
        ) from error
    for inner in twin.modules():
        for name in HOOKS:
            hooks = getattr(inner, name)
            for key in [key for key, hook in hooks.items() if not _of_torch(hook)]:
                del hooks[key]
    twin.train()  # many modules drop what they keep from eval mode
    twin.train(training)
    return twin


def warn_about_hooks(module: nn.Module) -> None:
    """NasirWarning where modules have forward hooks of the user: the recording goes without them."""
    hooked = [
        path or "the root"
        for path, inner in module.named_modules()
        if any(not _of_torch(hook) for hook in [*inner._forward_hooks.values(), *inner._forward_pre_hooks.values()])
    ]
    if hooked:
        warnings.warn(
            f"record: forward hooks of {', '.join(hooked[:3])}{' and others' if len(hooked) > 3 else ''} were not "
            "called and are no part of the recording; put what they compute into forward",
            NasirWarning,
            stacklevel=3,
        )


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """Numbers, strings and the like that lie in attributes of the module and of those in it, by path and name."""
    return {
        f"{path}.{name}" if path else name: value
        for path, inner in module.named_modules()
        for name, value in attributes_of(inner).items()
    }


def _hooks(module: nn.Module) -> Iterator[Any]:
    for name in HOOKS:
        yield from getattr(module, name).values()


def _of_torch(hook: Any) -> bool:
    home = getattr(hook, "__module__", None) or type(hook).__module__
    return home == "torch" or home.startswith("torch.")


def _computed(held: Any, depth: int = 3) -> Iterator[Tensor]:
    """Tensors with a gradient history in plain attributes."""
    if isinstance(held, Tensor):
        if held.grad_fn is not None:
            yield held
    elif depth and isinstance(held, (dict, list, tuple)):
        for part in held.values() if isinstance(held, dict) else held:
            yield from _computed(part, depth - 1)


def samples_of(tensors: list[Tensor]) -> int | None:
    """The batch size of an example: the length of axis 0 of its first tensor that has axes; None without such."""
    return next((tensor.shape[0] for tensor in tensors if tensor.ndim), None)


def is_batched(tensor: Tensor, samples: int | None) -> bool:
    """Whether axis 0 of a tensor of an example with so many samples is the batch."""
    return samples is not None and tensor.ndim > 0 and tensor.shape[0] == samples


def of_batch(tensor: Tensor, samples: int | None, batch: int) -> Tensor:
    """A copy of a tensor of an example with `samples` rows, for `batch` rows: its own in turn."""
    tensor = tensor.detach()
    if not is_batched(tensor, samples):
        return tensor.clone()
    assert samples is not None
    return tensor[torch.arange(batch, device=tensor.device) % samples]
