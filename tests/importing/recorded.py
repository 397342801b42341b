"""Modules around one function, and their recordings, which are checked to compute the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nasir.backends.torch.importing import parity, record
from nasir.importing import Call, Recording

IMAGES = (torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8),)


class From(nn.Module):
    """A module whose forward is a function of it and its inputs, around one linear layer and a buffer."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.linear = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.rand(4) + 0.5)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def rows(batch: int = 2) -> Tensor:
    return torch.randn(batch, 4, generator=torch.Generator().manual_seed(batch))


def recorded(function: Callable[..., Any]) -> Recording:
    """The recording of a function, which is also checked to compute what the function does."""
    module = From(function)
    recording = record(module, (rows(),))
    assert parity(recording, module, (rows(5),)).largest == 0.0
    return recording


def calls_of(recording: Recording, name: str) -> list[Call]:
    return [call for call in recording.calls if call.operation.endswith(f".{name}")]
