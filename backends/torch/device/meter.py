"""Bytes of live arrays while something runs on the CPU: tensors as torch makes them, numpy's by tracemalloc."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Meter(TorchDispatchMode):
    """`with Meter(tensors) as meter: ...` and then `meter.extra`: by how many bytes live memory rose at its highest.

    `tensors` are those that exist before and may be let go meanwhile, which counts as less. Tensors made from numpy
    arrays without a copy count once, as arrays; Python's own objects count too.
    """

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        for tensor in tensors:
            self._note(tensor)
        self._before = sum(size for _, size in self._live.values())
        self.extra = 0

    def __enter__(self) -> Meter:
        tracemalloc.start()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        self._look()
        super().__exit__(kind, error, place)  # type: ignore[no-untyped-call]
        tracemalloc.stop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if all(value.alias_info is None for value in func._schema.returns):  # views and in-place ops make no storage
            for tensor in tree_leaves(result):
                if isinstance(tensor, Tensor) and tensor.device.type == "cpu":
                    self._note(tensor)
        self._look()
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        self._live[reference.cdata] = (reference, storage.nbytes())

    def _look(self) -> None:
        """Compare what lives now with before; numpy's arrays at their highest since the last look."""
        for key in [key for key, (reference, _) in self._live.items() if reference.expired()]:  # type: ignore[no-untyped-call]
            del self._live[key]
        _, numpy = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        torch_bytes = sum(size for _, size in self._live.values())
        self.extra = max(self.extra, torch_bytes + numpy - self._before)


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, those that share memory once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def tensors_of(model: torch.nn.Module, optimizers: Iterable[torch.optim.Optimizer] = ()) -> list[Tensor]:
    """Parameters and buffers of a model, and all state of its optimizers."""
    state = [value for o in optimizers for values in o.state.values() for value in values.values()]
    return [*model.state_dict(keep_vars=True).values(), *(value for value in state if isinstance(value, Tensor))]
