"""Multiply-accumulates of recorded calls that are no op of nasir, counted on tensors without numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nasir.backends.torch.importing.copies import fresh_copy
from nasir.backends.torch.importing.replaying import carry_out, shape_at
from nasir.errors import NasirWarning
from nasir.importing.recording import Call, Recording
from nasir.importing.trees import refs

META = torch.device("meta")


def _of_matrix(matrix: tuple[int, ...], *_: Any, out_shape: Any = None) -> int:
    return 2 * prod(matrix)


def _added(_: tuple[int, ...], matrix: tuple[int, ...], *__: Any, out_shape: Any = None) -> int:
    return 2 * prod(matrix)


PRODUCTS = {
    torch.ops.aten.mv: _of_matrix,
    torch.ops.aten.dot: _of_matrix,
    torch.ops.aten.vdot: _of_matrix,
    torch.ops.aten.addmv: _added,
}
"""Products that torch's counter leaves out, in floating-point operations."""


def counter(recording: Recording, module: nn.Module) -> Callable[[Call], int | None]:
    """A function from calls of the recording to the multiply-accumulates of one sample in evaluation.

    Warns (NasirWarning) of calls that do not run on tensors without numbers, and gives None for them.
    """

    def count(call: Call) -> int | None:
        try:
            return _counted(recording, call, module)
        except Exception as error:  # whatever a foreign function raises
            warnings.warn(
                f"{call.place}: its multiply-accumulates count as 0: it does not run on the meta device "
                f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'})",
                NasirWarning,
                stacklevel=2,
            )
            return None

    return count


def _counted(recording: Recording, call: Call, module: nn.Module) -> int:
    tensors = {number: _like(recording, number) for number in refs((call.args, dict(call.kwargs)))}
    leaf = None
    if call.module is not None:
        leaf = fresh_copy(module.get_submodule(call.module), training=False, meta=True)
    plain = replace(call, autocast=None, gradient=True, module=None if call.module is None else "")
    with (
        torch.enable_grad(),  # torch has shortcuts without gradients, which its counter does not know
        sdpa_kernel(SDPBackend.MATH),  # as it does not know the kernels of every device
        FlopCounterMode(display=False, custom_mapping=PRODUCTS) as counted,
    ):
        carry_out(plain, tensors, META, 1, call.only or "eval", leaf)
    return int(counted.get_total_flops()) // 2


def _like(recording: Recording, number: int) -> Tensor:
    value = recording.values[number]
    shape = [size if size is not None else 0 for size in shape_at(value, 1)]
    return torch.empty(shape, dtype=getattr(torch, value.dtype), device=META)
