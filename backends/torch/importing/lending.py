"""Copies of parameters that take no memory of their own before one of both is written (torch's copy-on-write)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

_lazy_clone: Callable[[Tensor], Tensor] | None = getattr(torch, "_lazy_clone", None)  # not public: we can do without


def lent(parameters: Iterable[nn.Parameter]) -> dict[int, nn.Parameter]:
    """Copies by id of the parameter, of those that torch can lend; whoever writes into either one first parts them.

    `part` the parameters once their copies are gone.
    """
    twins: dict[int, nn.Parameter] = {}
    for parameter in filter(_plain, parameters):
        try:
            twins[id(parameter)] = nn.Parameter(_lazy_clone(parameter.data), parameter.requires_grad)  # type: ignore[misc]
        except RuntimeError:  # its memory is not torch's: an array of numpy, a file, memory of several processes
            continue
    return twins


def part(tensors: Iterable[Tensor]) -> None:
    """Give tensors ordinary memory of their own: what the other one holds as well is copied, else all stays in place.

    No number is written.
    """
    for tensor in filter(_plain, tensors):
        if tensor.numel():
            # an array may be written: this is what parts them
            tensor.detach().as_strided((1,), (1,)).view(torch.uint8).numpy()


def _plain(tensor: Any) -> bool:
    """Whether it is an ordinary parameter in memory of the CPU."""
    return (
        _lazy_clone is not None
        and type(tensor) is nn.Parameter
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not tensor.is_quantized
    )
