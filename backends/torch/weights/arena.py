"""One block of host memory that takes copies of many tensors, again and again.

Fresh memory costs several times a copy, and pinned memory, which a device copies into while it computes, more still: so
it is asked for once, in one piece, and used for every checkpoint of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

Shape: TypeAlias = tuple[torch.Size, torch.dtype, bool]  # shape, type, whether it lies on a device

ALIGNMENT = 64  # bytes: a cache line, and a multiple of every element size
HEADROOM = 1.25  # of a block over what was asked for: networks grow


class Arena:
    """Holds the copies of one call of `copy` at a time."""

    def __init__(self) -> None:
        self._block = torch.empty(0, dtype=torch.uint8)
        self._pinned = False
        self._pins = True  # until the system refuses
        self._layout: _Layout | None = None  # of the last call: the next one mostly has the same tensors

    @property
    def size(self) -> int:
        """Bytes of the block."""
        return self._block.numel()

    def reserve(self, size: int, pinned: bool) -> None:
        """Have a block of `size` bytes at least, `pinned` for copies from a CUDA device where the system allows it.

        Copies handed out before stay as they are, in the old block, if a new one is needed.
        """
        pinned = pinned and self._pins
        if size <= self.size and self._pinned >= pinned:
            return
        self._block, self._layout = torch.empty(0, dtype=torch.uint8), None  # the old one may go first
        self._pinned, size = pinned, int(size * HEADROOM)
        if pinned:
            try:
                self._block = _memory(size, pin_memory=True)
                return
            except RuntimeError:  # the system pins no more; copies then wait for the device
                self._pinned = self._pins = False
        self._block = _memory(size)

    def copy(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], torch.cuda.Event | None]:
        """Contiguous copies, in the order of `tensors`, which the next call overwrites; and the event after which those
        from a device are complete (None: they are). Values are those of now: on a device, at this place of its stream.
        """
        shapes = [(tensor.shape, tensor.dtype, _on_device(tensor)) for tensor in tensors]
        layout = self._layout
        if layout is None or layout.shapes != shapes or layout.block is not self._block:
            layout = self._layout = self._lay_out(tensors, shapes)
        there = [tensors[index] for index in layout.staged]
        event = self._stage(layout, there) if there else None
        waiting = layout.plain if event is not None else range(len(tensors))
        _copy_all([layout.copies[index] for index in waiting], [tensors[index] for index in waiting])
        return list(layout.copies), event

    def _lay_out(self, tensors: Sequence[Tensor], shapes: list[Shape]) -> _Layout:
        """Places in a block that is large enough, tensors of the device first."""
        staged = [index for index, tensor in enumerate(tensors) if _on_device(tensor)]
        plain = [index for index, tensor in enumerate(tensors) if not _on_device(tensor)]
        offsets, total, there = [0] * len(tensors), 0, 0
        for index in (*staged, *plain):
            offsets[index] = total
            total += -(-tensors[index].nbytes // ALIGNMENT) * ALIGNMENT
            if index in staged[-1:]:
                there = total
        self.reserve(total, pinned=bool(staged))
        copies = [_view(self._block, offset, tensor) for offset, tensor in zip(offsets, tensors, strict=True)]
        return _Layout(shapes, self._block, copies, staged, plain, [offsets[index] for index in staged], there)

    def _stage(self, layout: _Layout, tensors: Sequence[Tensor]) -> torch.cuda.Event | None:
        """Copy within the device first, before the next update of the weights, then to the host in one go beside the
        training. None where the device, or pinned memory, has no room for that: nothing was copied."""
        device = tensors[0].device
        if not self._pinned:
            return None
        try:
            block = _memory(layout.size, device=device)
        except torch.OutOfMemoryError:
            return None
        _copy_all([_view(block, offset, like) for offset, like in zip(layout.offsets, tensors, strict=True)], tensors)
        side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            self._block[: layout.size].copy_(block, non_blocking=True)
            block.record_stream(side)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(side)
        return copied


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where tensors of some shapes go in a block: all `copies`; of those from a device (`staged`: which) the `offsets`,
    and the `size` that they take together at the beginning; `plain`: the others."""

    shapes: list[Shape]
    block: Tensor
    copies: list[Tensor]
    staged: list[int]
    plain: list[int]
    offsets: list[int]
    size: int


def _memory(size: int, **where: Any) -> Tensor:
    """Bytes with whatever was there: under deterministic algorithms torch would fill them, which takes longer than all
    else, and each one is written before it is read."""
    fills: Any = torch.utils.deterministic
    before, fills.fill_uninitialized_memory = fills.fill_uninitialized_memory, False
    try:
        return torch.empty(size, dtype=torch.uint8, **where)
    finally:
        fills.fill_uninitialized_memory = before


def _on_device(tensor: Tensor) -> bool:
    return tensor.is_cuda


def _view(block: Tensor, offset: int, like: Tensor) -> Tensor:
    """The bytes of `block` from `offset` on as a contiguous tensor of the type and shape of `like`."""
    return block[offset : offset + like.nbytes].view(like.dtype).view(like.shape)


def _copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target; those of one type together."""
    by_type: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        pair = by_type.setdefault(source.dtype, ([], []))
        pair[0].append(target)
        pair[1].append(source.detach())
    for group, values in by_type.values():
        torch._foreach_copy_(group, values)
