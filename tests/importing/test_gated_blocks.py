"""Blocks whose branch ends in a gate, or in a module without a rule: what `init: zero` makes of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasir.backends.torch import from_module
from nasir.errors import Decline
from nasir.passes.insert_block import Init, InsertBlock


class Gated(nn.Module):
    """A residual block with squeeze and excitation behind its last norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.down, self.up = nn.Linear(width, 2), nn.Linear(2, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        gate = torch.sigmoid(self.up(F.relu(self.down(y.mean((2, 3))))))
        return F.relu(x + y * gate[:, :, None, None])


class Linear(nn.Module):
    """A product of two linear maps: either of them makes it zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.one(x) * self.other(x)  # type: ignore[no-any-return]


class Attended(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(2).transpose(1, 2)
        return x + self.attention(y, y, y)[0].transpose(1, 2).reshape(x.shape)  # type: ignore[no-any-return]


def network(block: Callable[[int], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), block(6), block(6), nn.Flatten(), nn.Linear(96, 3))


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("block", "silent"), [(Gated, {"norm"}), (Linear, {"one"})])
def test_a_branch_that_ends_in_a_gate_begins_at_zero_and_learns(block: type[nn.Module], silent: set[str]) -> None:
    model = from_module(network(block), images(2)).eval()
    before = model(images(3))
    rewrite = model.apply(InsertBlock(init="zero"), "stage1")
    assert rewrite is not None and rewrite.preserves == "exact"
    assert torch.equal(model(images(3)), before)
    path = model.graph.blocks_of("stage1")[-1].path
    parts = model.get_submodule(path).named_children()
    zero = {name for name, part in parts if not any(map(torch.any, part.parameters()))}
    assert zero == silent
    F.cross_entropy(model.train()(images(4)), torch.tensor([0, 1, 2, 0])).backward()
    assert all(model.get_parameter(f"{path}.{name}.weight").grad.any() for name in silent)  # type: ignore[union-attr]


@pytest.mark.parametrize("init", ["zero", "near_zero"])
def test_a_branch_that_ends_in_a_module_without_a_rule_is_told(init: Init) -> None:
    model = from_module(network(Attended), images(2))
    told = r"the branch ends in '.*attention', and no rule says which weights of .*MultiheadAttention make it zero"
    with pytest.raises(Decline, match=told):
        InsertBlock(init=init).attempt(model.graph, "stage1")
