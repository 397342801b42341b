"""One block of host memory that takes copies of many tensors, again and again.

Fresh memory costs several times a copy, and pinned memory, which a device copies into while it computes, more still: so
it is asked for once, in one piece, and used for every checkpoint of a run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes: a cache line, and a multiple of every element size
HEADROOM = 1.25  # of a block over what was asked for: networks grow


class Arena:
    """Holds the copies of one call of `copy` at a time."""

    def __init__(self) -> None:
        self._block = torch.empty(0, dtype=torch.uint8)
        self._pinned = False
        self._pins = True  # until the system refuses

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
        self._block = torch.empty(0, dtype=torch.uint8)  # the old one may go first
        self._pinned, size = pinned, int(size * HEADROOM)
        if pinned:
            try:
                self._block = torch.empty(size, dtype=torch.uint8, pin_memory=True)
                return
            except RuntimeError:  # the system pins no more; copies then wait for the device
                self._pinned = self._pins = False
        self._block = torch.empty(size, dtype=torch.uint8)

    def copy(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], torch.cuda.Event | None]:
        """Contiguous copies, in the order of `tensors`, which the next call overwrites; and the event after which those
        from a device are complete (None: they are). Values are those of now: on a device, at this place of its stream.
        """
        order = sorted(range(len(tensors)), key=lambda index: not _on_device(tensors[index]))  # of the device first
        offsets, total, staged = [0] * len(tensors), 0, 0
        for index in order:
            offsets[index] = total
            total += -(-tensors[index].nbytes // ALIGNMENT) * ALIGNMENT
            if _on_device(tensors[index]):
                staged = total
        self.reserve(total, pinned=staged > 0)
        copies = [_view(self._block, offset, tensor) for offset, tensor in zip(offsets, tensors, strict=True)]
        with torch.no_grad():
            for index in order:
                if not _on_device(tensors[index]):
                    copies[index].copy_(tensors[index])
            chosen = [index for index in order if _on_device(tensors[index])]
            if not chosen:
                return copies, None
            event = self._stage([tensors[i] for i in chosen], [offsets[i] for i in chosen], staged)
            if event is None:
                for index in chosen:
                    copies[index].copy_(tensors[index])
        return copies, event

    def _stage(self, tensors: Sequence[Tensor], offsets: Sequence[int], total: int) -> torch.cuda.Event | None:
        """Copy within the device first, before the next update of the weights, then to the host in one go beside the
        training. None where the device, or pinned memory, has no room for that: nothing was copied."""
        device = tensors[0].device
        if not self._pinned:
            return None
        try:
            block = torch.empty(total, dtype=torch.uint8, device=device)
        except torch.OutOfMemoryError:
            return None
        by_type: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for offset, tensor in zip(offsets, tensors, strict=True):
            targets, sources = by_type.setdefault(tensor.dtype, ([], []))
            targets.append(_view(block, offset, tensor))
            sources.append(tensor)
        for targets, sources in by_type.values():
            torch._foreach_copy_(targets, sources)
        side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            self._block[:total].copy_(block, non_blocking=True)
            block.record_stream(side)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(side)
        return copied


def _on_device(tensor: Tensor) -> bool:
    return tensor.is_cuda


def _view(block: Tensor, offset: int, like: Tensor) -> Tensor:
    """The bytes of `block` from `offset` on as a contiguous tensor of the type and shape of `like`."""
    return block[offset : offset + like.nbytes].view(like.dtype).view(like.shape)
