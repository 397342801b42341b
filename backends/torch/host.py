"""Values of a model as numpy arrays, whatever its dtype."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def widened(tensor: Tensor) -> Tensor:
    """16-bit floats as float32, which holds them exactly; every other tensor as it is.

    numpy has no bfloat16, and sums that are rounded to 8 or 11 bits make ties and overflow.
    """
    narrow = tensor.is_floating_point() and tensor.element_size() < torch.float32.itemsize
    return tensor.float() if narrow else tensor


def on_host(tensor: Tensor) -> NDArray[Any]:
    """A tensor without gradient as an array, 16-bit floats as float32; a view where it lies on the CPU otherwise."""
    array: NDArray[Any] = widened(tensor.detach()).cpu().numpy()
    return array
