"""`transfer.Arrays` over torch tensors: everything stays on the tensor's device, no host round trip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Index: TypeAlias = NDArray[Any]

PIECE = 1 << 19  # bytes: what a gather along several axes may hold beside its result, or a 32nd of that if it is more


class TorchArrays:
    """Tensor operations of a transfer. `device` and `dtype` are those of freshly filled tensors; with `channels_last`
    those of 4 axes are laid out like that, so that no second copy is made."""

    def __init__(self, device: torch.device, dtype: torch.dtype, channels_last: bool = False) -> None:
        self.device = device
        self.dtype = dtype
        self.channels_last = channels_last
        self._known: dict[int, tuple[Index, Tensor]] = {}  # indices by id, kept so that no other array gets that id

    def take(self, array: Tensor, index: Sequence[Index | None], out: Tensor | None) -> Tensor:
        if out is None and array.is_contiguous():
            axes = [axis for axis, i in enumerate(index) if i is not None]
            if len(axes) == 1:
                return array.index_select(axes[0], self._index(index[axes[0]], array))  # type: ignore[arg-type]
        shape = tuple([n if i is None else len(i) for n, i in zip(array.shape, index, strict=True)])
        new = self.empty(array, shape) if out is None else out
        if new.numel() == 0:
            return new
        order = list(range(array.dim()))
        if array.dim() == 4 and not array.is_contiguous():
            order = [0, 2, 3, 1]  # channels last: the order of its memory
        chosen = [(axis, self._index(i, array)) for axis, d in enumerate(order) if (i := index[d]) is not None]
        _gather(array.permute(order), chosen, new.permute(order))
        return new

    def scale(self, array: Tensor, axis: int, gain: NDArray[Any]) -> None:
        shape = [1] * array.dim()
        shape[axis] = -1
        array.mul_(torch.from_numpy(gain).to(array.device, array.dtype).reshape(shape))

    def overwrite(self, array: Tensor, axis: int, where: Index, values: Tensor | float) -> None:
        index = self._index(where, array)
        if isinstance(values, Tensor) and values.dim():
            array.index_copy_(axis, index, values)
        else:
            array.index_fill_(axis, index, values)

    def add(self, array: Tensor, start: int, values: NDArray[Any]) -> None:
        array.narrow(0, start, len(values)).add_(torch.from_numpy(values).to(array.device, array.dtype))

    def empty(self, like: Tensor, shape: tuple[int, ...]) -> Tensor:
        last = len(shape) == 4 and like.dim() == 4 and not like.is_contiguous()
        layout = torch.channels_last if last else torch.contiguous_format
        return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)

    def part(self, array: Tensor, axis: int, start: int, size: int) -> Tensor:
        return array.narrow(axis, start, size)

    def assign(self, array: Tensor, values: Tensor) -> None:
        array.copy_(values)

    def host(self, array: NDArray[Any], dtype: str, like: Tensor | None) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
        if like is not None:
            return tensor.to(like.device, like.dtype)
        tensor = tensor.to(self.device, torch.int64 if dtype == "int64" else self.dtype)
        return _turned(tensor) if self.channels_last and tensor.dim() == 4 else tensor

    def mean(self, array: Tensor) -> Tensor:
        return array.mean()

    def total(self, arrays: Sequence[Tensor], gain: float, out: Tensor | None) -> Tensor:
        total = torch.stack(list(arrays)).sum(0).mul_(gain)
        return total if out is None else out.copy_(total)

    def spread(self, array: Tensor) -> float:
        return float(array.std(correction=0))

    def _index(self, index: Index, like: Tensor) -> Tensor:
        known = self._known.get(id(index))
        if known is None or known[1].device != like.device:
            known = self._known[id(index)] = (index, torch.from_numpy(np.ascontiguousarray(index)).to(like.device))
        return known[1]


def _gather(array: Tensor, chosen: list[tuple[int, Tensor]], out: Tensor) -> None:
    """out = array[index, ...] along the chosen axes, holding a small piece of it at a time besides."""
    if not chosen:
        out.copy_(array)
    elif len(chosen) == 1:
        torch.index_select(array, *chosen[0], out=out)
    elif array.is_cuda:
        _gather_at_once(array, chosen, out)
    else:
        axis, index = chosen[0]
        rows = array.numel() // array.shape[axis] * array.element_size()  # bytes of one position, all else whole
        step = max(1, max(PIECE, out.numel() * out.element_size() // 32) // max(1, rows))
        for start in range(0, len(index), step):
            picked = index[start : start + step]
            # the piece has no name: it is gone before the next one is made
            _gather(array.index_select(axis, picked), chosen[1:], out.narrow(axis, start, len(picked)))


def _gather_at_once(array: Tensor, chosen: list[tuple[int, Tensor]], out: Tensor) -> None:
    """The same in one kernel, for devices on which many small ones cost more."""
    grid = [torch.arange(size, device=array.device) for size in array.shape]
    for axis, index in chosen:
        grid[axis] = index
    views = [index.reshape([-1 if i == axis else 1 for i in range(len(grid))]) for axis, index in enumerate(grid)]
    torch.ops.aten.index.Tensor_out(array, views, out=out)


def _turned(tensor: Tensor) -> Tensor:
    """A contiguous [N, C, H, W] in channels-last layout, turned in its own memory: rows of N stay where they are."""
    count, channels, height, width = tensor.shape
    flat = tensor.view(count, -1)
    rows = max(1, PIECE // 4 // max(1, flat.shape[1] * tensor.element_size()))
    for start in range(0, count, rows):
        part = tensor[start : start + rows].permute(0, 2, 3, 1).reshape(-1, flat.shape[1])
        if part.data_ptr() != flat[start].data_ptr():
            flat[start : start + rows].copy_(part)
    size = channels * height * width
    return tensor.as_strided(tuple(tensor.shape), (size, 1, width * channels, channels))
