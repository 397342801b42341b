"""Imported networks that do other things in training than in evaluation, and that compute buffers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from edges import check_same, learn
from torch import Tensor, nn
from torch.nn import functional as F
from zoo import SLOW

from nasir.analysis.resources import resource_terms
from nasir.analysis.roofline import PROFILES, estimates
from nasir.backends.torch import from_module
from nasir.errors import NasirError
from nasir.passes.prune_channels import PruneChannels


def vectors(batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (torch.randn(batch, 6),), {}


def images(batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (torch.randn(batch, 3, 16, 16),), {}


def unit(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Supervised(nn.Module):
    """A network with an auxiliary head in training, as GoogLeNet has them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = unit(3, 8), unit(8, 12, 2)
        self.aux = nn.Sequential(unit(8, 6, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(6, 5))
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        aux = self.aux(x) if self.training else None
        y = self.fc(self.body(x).mean((2, 3)))
        return {"logits": y, "aux": aux} if self.training else y


class Distilled(nn.Module):
    """Two heads on tokens, as in DeiT: both in training, their mean in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.tokens = nn.Parameter(torch.randn(1, 2, 16) * 0.1)
        self.layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.1, batch_first=True)
        self.head, self.teacher = nn.Linear(16, 5), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Any:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.layer(torch.cat([self.tokens.expand(len(x), -1, -1), x], 1))
        one, other = self.head(x[:, 0]), self.teacher(x[:, 1])
        return (one, other) if self.training else (one + other) / 2


class Branching(nn.Module):
    """Noise in training, another layer in evaluation, a value of either mode that both go on with."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        x = x + torch.randn_like(x) if self.training else F.relu(self.two(x))
        return self.three(F.dropout(x, 0.3, self.training))  # type: ignore[no-any-return]


class Sized(nn.Module):
    """Values of other sizes in training, which one call takes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.GRU(6, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None].expand(-1, 4, -1)
        x = torch.cat([x, x * 2], 1) if self.training else x
        return self.inner(x)[0].sum(1)  # type: ignore[no-any-return]


class Unread(nn.Module):
    """A random call that nobody reads, before one that somebody does."""

    def forward(self, x: Tensor) -> Tensor:
        F.dropout(x, 0.5, self.training)
        torch.rand(3)
        return x + torch.rand_like(x)


class Averaging(nn.Module):
    """Buffers that forward assigns: read before and after, written in place, nobody reads, whole numbers, a queue."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 8)
        self.register_buffer("ema", torch.zeros(8))
        self.register_buffer("seen", torch.zeros(8))
        self.register_buffer("last", torch.zeros(()))
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("queue", torch.zeros(4, 8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        y = y * (1 + self.ema)
        self.calls += 1
        if self.training:
            self.ema = 0.9 * self.ema.detach() + 0.1 * y.detach().mean(0)
            self.seen.mul_(0.5).add_(y.detach().square().mean(0))
            self.queue = torch.cat([y.detach()[:1], self.queue[:-1]])
        self.last = y.detach().mean()
        return y - self.ema * self.calls + self.queue.sum(0) / (1 + self.seen)  # type: ignore[no-any-return]


MODULES: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "supervised": (Supervised, images),
    "distilled": (Distilled, images),
    "branching": (Branching, vectors),
    "sized": (Sized, vectors),
    "unread": (Unread, vectors),
    "averaging": (Averaging, vectors),
}


@pytest.mark.parametrize("name", MODULES)
def test_both_modes_are_those_of_the_module(name: str) -> None:
    make, arguments = MODULES[name]
    torch.manual_seed(0)
    check_same(make(), arguments, steps=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "timm convit_tiny", "timm efficientformer_l1"])
def test_networks_of_others_with_parts_of_one_mode(name: str) -> None:
    cached = tuple(f"blocks.{n}.attn.rel_indices" for n in range(10))
    check_same(SLOW[name].made(), SLOW[name].arguments, steps=1, caches=cached)


def test_what_only_training_needs_is_not_run_in_evaluation() -> None:
    net = Supervised()
    model = from_module(net, *images(2)[0])
    assert not [node for node in model.graph.nodes.values() if node.facts.family == "opaque"]
    run: list[str] = []
    for node, at in model.graph.nodes.items():
        leaf = model.leaf(node) if node in model._lowered else None
        if leaf is not None:
            leaf.register_forward_hook(lambda *_, name=at.label: run.append(name))
    model.eval()(*images(3)[0])
    assert "fc" in run and not [name for name in run if name.startswith("aux")]
    model.train()(*images(3)[0])
    assert "aux.4" in run and set(net.state_dict()) == set(model.state_dict())
    aux = model.graph.cost("aux.4")
    assert aux.macs == 0 and aux.params == 35  # what evaluation takes
    seconds = estimates(model.graph, PROFILES["V100"])
    assert {n for n, cost in seconds.items() if not cost.seconds} - {*model.graph.inputs} == model.graph.idle
    for resource in ("flops", "memory", "activations"):
        assert not model.graph.idle & resource_terms(model.graph, resource, lambda space: False).keys()
    assert model.graph.find("aux.4") in resource_terms(model.graph, "params", lambda space: False)


def test_auxiliary_heads_are_pruned_and_frozen_as_the_rest() -> None:
    net = Supervised()
    optimizer = torch.optim.AdamW(net.parameters())
    model = from_module(net, *images(2)[0]).train()
    learn(model(*images(3)[0]))
    optimizer.step()
    rewrite = model.apply(PruneChannels(fraction=0.5), "network", optimizers=[optimizer])
    assert rewrite is not None and model.get_parameter("aux.0.0.weight").shape == (3, 4, 3, 3)
    learn(model(*images(3)[0]))
    optimizer.step()
    assert model.eval()(*images(3)[0]).shape == (3, 5)
    model.hold(["aux"])
    x = images(3)[0]
    given, again = model.train()(*x)["aux"], model(*x)["aux"]
    assert torch.equal(given, again)  # the head runs, without dropout
    assert given.requires_grad and not model.get_parameter("aux.4.weight").requires_grad


def test_a_buffer_that_is_frozen_stays() -> None:
    model = from_module(Averaging(), *vectors(2)[0]).train()
    model(*vectors(3)[0])
    held = {key: buffer.clone() for key, buffer in model.named_buffers()}
    model.hold(["ema"])
    model(*vectors(3)[0])
    now = dict(model.named_buffers())
    assert torch.equal(now["ema.value"], held["ema.value"])
    assert not torch.equal(now["seen.value"], held["seen.value"])


def test_copies_have_buffers_of_their_own() -> None:
    model = from_module(Averaging(), *vectors(2)[0]).train()
    other = copy.deepcopy(model)
    other(*vectors(3)[0])
    assert not model.get_buffer("ema.value").any() and other.get_buffer("ema.value").any()


def test_buffers_that_cannot_be_kept_are_refused_with_their_names() -> None:
    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("kept", torch.zeros(2, 6))

        def forward(self, x: Tensor) -> Tensor:
            self.kept = torch.cat([self.kept, x])
            return x + 1

    class Late(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if not hasattr(self, "mean"):
                self.register_buffer("mean", x.mean(0))
            return x + 1

    with pytest.raises(NasirError, match=r"buffer kept: forward puts .* in the place of a tensor of shape \(2, 6\)"):
        from_module(Growing(), *vectors(2)[0])
    with pytest.raises(NasirError, match=r"buffer mean: forward makes it in its first call"):
        from_module(Late(), *vectors(2)[0])


def test_a_stage_ends_where_a_head_reads_it() -> None:
    """Blocks in a row, with a head between them in training."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.layer(x).relu()

    class Headed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three, self.four = (Residual() for _ in range(4))
            self.aux, self.fc = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Any:
            x = self.two(self.one(x))
            aux = self.aux(x)
            y = self.fc(self.four(self.three(x)))
            return (y, aux) if self.training else y

    model = check_same(Headed(), vectors)
    assert [list(region.parts) for region in model.graph.stages] == [["one", "two"], ["three", "four"]]
