"""Augmented batches of images that lie on a device, in two ways that give the same bits.

An image is padded with zeros, cut back to its size at its own offset and perhaps mirrored. `Windows` does one after the
other with the images of a batch: for small ones the quicker way on a CPU. `Gather` keeps the images padded and fetches
each pixel of a batch from its place in one operation, for devices where every operation has to be launched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from nasir.training.plans import DataPlan

Cut = Callable[[slice], Tensor]  # from places in an epoch's order to images [n, H, W, C]


@dataclass(frozen=True, slots=True)
class Draw:
    """An epoch's randomness, on the device: order [N] into the images, offsets of a crop and mirroring [N] of each."""

    order: Tensor
    top: Tensor
    left: Tensor
    mirrored: Tensor


class Augmenter(Protocol):
    """`values`: the images [N, H, W, C], or vectors [N, D], as they are; `epoch`: cuts batches as a draw says."""

    @property
    def values(self) -> Tensor: ...

    def epoch(self, draw: Draw) -> Cut: ...


class Windows:
    """Padding, cropping and mirroring of the images of a batch, one after the other."""

    def __init__(self, values: Tensor, plan: DataPlan) -> None:
        self.values = values
        self._pad, self._flips = plan.pad, plan.flips

    def epoch(self, draw: Draw) -> Cut:
        def cut(part: slice) -> Tensor:
            values = self.values.index_select(0, draw.order[part])
            if self._pad:
                values = _crop(values, self._pad, draw.top[part], draw.left[part])
            if self._flips:
                values = torch.where(draw.mirrored[part, None, None, None], values.flip(2), values)
            return values

        return cut


class Gather:
    """All at once, by the row and the column that each pixel comes from; both are worked out once an epoch.

    The images are kept with their borders, which takes (H + 2 pad)(W + 2 pad) / HW of their memory, and an epoch
    8 (H + W) bytes for each image.
    """

    def __init__(self, values: Tensor, plan: DataPlan) -> None:
        self._pad, self._flips = plan.pad, plan.flips
        self._room, self.values = values, values
        if self._pad:
            count, height, width, channels = values.shape
            pad = self._pad
            self._room = values.new_zeros(count, height + 2 * pad, width + 2 * pad, channels)
            self.values = self._room[:, pad : pad + height, pad : pad + width]
            self.values.copy_(values)

    def epoch(self, draw: Draw) -> Cut:
        if not self._pad and not self._flips:
            return lambda part: self.values.index_select(0, draw.order[part])
        height, width = self.values.shape[1:3]
        down, across = (torch.arange(side, device=self.values.device) for side in (height, width))
        rows, columns = down.expand(len(draw.order), -1), across.expand(len(draw.order), -1)
        if self._flips:
            columns = torch.where(draw.mirrored[:, None], across.flip(0), across)
        if self._pad:
            rows, columns = rows + draw.top[:, None], columns + draw.left[:, None]

        def cut(part: slice) -> Tensor:
            return self._room[draw.order[part, None, None], rows[part, :, None], columns[part, None, :]]

        return cut


def _crop(values: Tensor, pad: int, top: Tensor, left: Tensor) -> Tensor:
    """Each image of [n, H, W, C], padded with zeros by `pad`, cut back to H x W at its own (top, left) in 0..2*pad."""
    count, height, width, channels = values.shape
    room = values.new_zeros(count, height + 2 * pad, width + 2 * pad, channels)
    room[:, pad : pad + height, pad : pad + width] = values
    windows = room.unfold(1, height, 1).unfold(2, width, 1).permute(0, 1, 2, 4, 5, 3)
    return windows[torch.arange(count, device=values.device), top, left]
