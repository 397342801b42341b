"""`transfer.Arrays` over torch tensors: everything stays on the tensor's device, no host round trip."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class TorchArrays:
    """Tensor operations of a transfer. `device` and `dtype` are those of freshly filled tensors."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype

    def gather(self, array: Tensor, axis: int, index: NDArray[Any]) -> Tensor:
        return array.index_select(axis, self._index(index, array))

    def scale(self, array: Tensor, axis: int, gain: NDArray[Any]) -> Tensor:
        shape = [1] * array.dim()
        shape[axis] = -1
        return array * torch.from_numpy(gain).to(array.device, array.dtype).reshape(shape)

    def overwrite(self, array: Tensor, axis: int, where: NDArray[Any], values: Tensor) -> Tensor:
        index = self._index(where, array)
        return array.index_copy_(axis, index, values.index_select(axis, index))

    def add(self, array: Tensor, values: Tensor) -> Tensor:
        return array + values

    def concat(self, arrays: list[Tensor], axis: int) -> Tensor:
        return torch.cat(arrays, axis)

    def host(self, array: NDArray[Any], dtype: str, like: Tensor | None) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
        if like is not None:
            return tensor.to(like.device, like.dtype)
        return tensor.to(self.device, torch.int64 if dtype == "int64" else self.dtype)

    def mean(self, array: Tensor) -> Tensor:
        return array.mean()

    def spread(self, array: Tensor) -> float:
        return float(array.std(correction=0))

    def filled(self, array: Tensor, shape: tuple[int, ...], value: Any) -> Tensor:
        empty = torch.empty(shape, dtype=array.dtype, device=array.device)
        return empty.copy_(value) if isinstance(value, Tensor) else empty.fill_(value)

    def _index(self, index: NDArray[Any], like: Tensor) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(index)).to(like.device)
