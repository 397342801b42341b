"""torch's switches of the whole process, as a session wants them while it works, and as they were in between.

Two sessions in one process, or a session beside a user's own loop, then never see each other's settings.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from nasir.backends.torch.device.precision import Products, float32_products


@dataclass(frozen=True, slots=True)
class Switches:
    """`deterministic`: kernels that give the same bits every time; `products`: how float32 numbers are multiplied."""

    device: torch.device
    deterministic: bool
    products: Products

    def __post_init__(self) -> None:
        if self.deterministic:
            # cuBLAS reads it with its first product; unset, torch refuses every product on the device
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Set the switches, and make the device the current one; put everything back at the end of the `with`."""
        on_cuda = self.device.type == "cuda"
        benchmark = torch.backends.cudnn.benchmark
        # what opens a CUDA context without naming a device (pinned memory, streams) must not open one on another device
        with torch.cuda.device(self.device) if on_cuda else nullcontext(), float32_products(self.products):
            try:
                torch.backends.cudnn.benchmark = (on_cuda or benchmark) and not self.deterministic
                with _deterministic() if self.deterministic else nullcontext():
                    yield
            finally:
                torch.backends.cudnn.benchmark = benchmark


@contextmanager
def _deterministic() -> Iterator[None]:
    import torch._inductor.config as inductor  # which torch's switch sets as well

    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    config: Any = inductor
    compiled = getattr(config, "deterministic", None)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        if compiled is not None:
            config.deterministic = compiled
