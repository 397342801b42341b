"""Writes in place and buffers that forward writes, assigns or makes, as recordings have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import user_modules
from recorded import IMAGES, From, recorded, rows
from torch import Tensor
from torch.nn import functional as F

from nasir.backends.torch.importing import parity, record, replay
from nasir.importing import Switch
from nasir.importing.trees import refs


def test_writes_become_new_values() -> None:
    module = user_modules.InPlace()
    recording = record(module, IMAGES)
    made = [number for call in recording.calls for number in refs(call.result)]
    assert len(made) == len(set(made))
    assert "torch.Tensor.add" in [call.operation for call in recording.calls]  # for +=
    in_place = {call.operation for call in recording.calls if call.in_place}
    assert in_place == {"torch.Tensor.__setitem__", "torch.nn.modules.activation.LeakyReLU"}
    assert parity(recording, module, (torch.randn(5, 3, 8, 8),)).largest == 0.0


WRITES: dict[str, Callable[..., Any]] = {
    "add_": lambda self, x: self.linear(x).add_(1),
    "operator": lambda self, x: operated(self.linear(x)),
    "copy_": lambda self, x: torch.empty_like(x).copy_(self.linear(x)),
    "zero_": lambda self, x: self.linear(x).mul_(torch.ones(4).zero_() + 2),
    "bernoulli_": lambda self, x: x * x.new_empty(x.shape[0], 1).bernoulli_(0.5),
    "narrow dtype": lambda self, x: self.linear(x).to(torch.bfloat16).add_(self.scale),
    "comparison": lambda self, x: x.clone().gt_(0.0) * self.scale,
    "integers": lambda self, x: torch.arange(4).add_(3) * x,
    "rows": lambda self, x: with_row(self.linear(x)),
    "view after write": lambda self, x: view_after_write(self.linear(x)),
    "permuted": lambda self, x: permuted(self.linear(x)),
    "view of a view": lambda self, x: view_of_a_view(self.linear(x)),
    "alias": lambda self, x: aliased(self, x),
    "index tensors": lambda self, x: indexed(self.linear(x)),
    "input": lambda self, x: self.linear(x.mul_(2)) + x,
    "relu_": lambda self, x: F.relu_(self.linear(x)) + torch.relu_(self.linear(x)),
    "masks": lambda self, x: self.linear(x).masked_fill_(x > 0, 0.5),
}


def operated(y: Tensor) -> Tensor:
    kept = y
    y *= 2
    y -= 0.5
    return kept + y


def with_row(y: Tensor) -> Tensor:
    y[0] = 7.0
    y[1:, 2] += y[1:, 3]
    return y


def view_after_write(y: Tensor) -> Tensor:
    part, other = y[:, :2], y[:, 1:]
    y.mul_(3)
    part.add_(1)
    return part.sum(1, keepdim=True) + y + other.mean()


def permuted(y: Tensor) -> Tensor:
    cube = y.reshape(-1, 2, 2)
    cube.permute(2, 0, 1).mul_(2)
    cube.transpose(0, 1).add_(1)
    cube.mT.sub_(3)
    return y + cube.flatten(1)


def view_of_a_view(y: Tensor) -> Tensor:
    y.unsqueeze(1)[:, 0].view(-1, 2, 2)[:, 1].mul_(5)
    return y


def aliased(self: From, x: Tensor) -> Tensor:
    y = self.linear(x)
    same = y.contiguous()
    same.add_(1)
    return y * same


def indexed(y: Tensor) -> Tensor:
    y[:, torch.tensor([0, 2])] = 0.25
    y[y > 1] = 1.0
    return y.index_add_(1, torch.tensor([1]), torch.ones_like(y[:, :1]))


@pytest.mark.parametrize("name", WRITES)
def test_writes_of_all_kinds_are_replayed_exactly(name: str) -> None:
    recorded(WRITES[name])


def test_buffers_that_forward_writes_are_updated() -> None:
    def forward(self: From, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.seen.mul_(0.9).add_(x.mean(0), alpha=0.1)
                self.seen[0] = 3.0
        return self.linear(x) - self.seen

    recording = recorded(forward)
    assert [update.key for update in recording.updates] == ["seen"]
    module = From(forward).eval()
    replay(recording, module, rows())
    assert not module.seen.any()


def test_buffers_that_forward_assigns_are_updated_and_may_change_their_shape() -> None:
    def forward(self: From, x: Tensor) -> Tensor:
        if self.training:
            self.seen = self.seen * 0.9 + x.detach().mean(0) * 0.1
        elif self.seen.ndim == 1:
            self.seen = torch.arange(8.0).reshape(2, 4)
        return self.linear(x) - self.seen.sum()

    recording = recorded(forward)
    (update,) = recording.updates
    assert update.key == "seen" and isinstance(update.value, Switch)
    module = From(forward).eval()
    replay(recording, module, rows())
    assert module.seen.shape == (2, 4)


def test_buffers_that_forward_makes_are_new_ones() -> None:
    def forward(self: From, x: Tensor) -> Tensor:
        if self.made is None:
            self.made = torch.arange(4.0)
        return self.linear(x) + self.made

    module = From(forward)
    module.register_buffer("made", None)
    recording = record(module, (rows(),))
    assert [update.key for update in recording.updates] == ["made"]
    assert "made" not in {entry.key for entry in recording.state}
    assert parity(recording, module, (rows(5),)).largest == 0.0 and module.made is None
