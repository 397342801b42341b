"""Weights that are computed: weight and spectral normalization of both kinds, masks, weight standardization."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn import utils
from torch.nn.utils import parametrizations, prune

from nasir.backends.torch import from_module
from nasir.passes.prune_channels import PruneChannels

Wrap = Callable[[nn.Module], nn.Module]


class Standardized(nn.Conv2d):
    """A convolution whose kernels have mean 0 and variance 1."""

    def forward(self, x: Tensor) -> Tensor:
        mean, spread = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / (spread + 1e-5), self.bias, padding=self.padding)


class Net(nn.Module):
    """Plain layers around a convolution and a linear layer whose weights are computed."""

    def __init__(self, wrap: Wrap, first: type[nn.Conv2d] = nn.Conv2d) -> None:
        super().__init__()
        self.first = wrap(first(3, 4, 3, padding=1))
        self.plain, self.tail = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 6, 1)
        self.last = wrap(nn.Linear(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.tail(F.relu(self.plain(F.relu(self.first(x))))))
        return self.last(x.mean((2, 3)))  # type: ignore[no-any-return]


def old(wrap: Callable[..., nn.Module]) -> Wrap:
    def wrapped(module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer torch has parametrizations for it
            return wrap(module)

    return wrapped


def masked(module: nn.Module) -> nn.Module:
    return prune.l1_unstructured(module, "weight", amount=0.3)  # type: ignore[no-any-return, no-untyped-call]


MODULES: dict[str, Callable[[], Net]] = {
    "weight_norm": lambda: Net(parametrizations.weight_norm),
    "weight_norm with hooks": lambda: Net(old(utils.weight_norm)),
    "spectral_norm": lambda: Net(parametrizations.spectral_norm),
    "spectral_norm with hooks": lambda: Net(old(utils.spectral_norm)),
    "mask": lambda: Net(masked),
    "standardized": lambda: Net(lambda module: module, Standardized),
}


def made(name: str) -> Net:
    torch.manual_seed(0)
    return MODULES[name]()


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(count))


@pytest.mark.filterwarnings("ignore:.*hooks")
@pytest.mark.parametrize("name", MODULES)
def test_computed_weights_stay_computed(name: str) -> None:
    net, own = made(name), made(name)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    model = from_module(net, images(2))
    assert {id(p) for p in model.parameters()} == {id(p) for p in net.parameters()}
    assert model.state_dict().keys() == net.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(model.eval()(images(5)), own.eval()(images(5)))
    for module in (model.train(), own.train()):
        module(images(5)).square().sum().backward()
    theirs = dict(own.named_parameters())
    assert all(torch.equal(p.grad, theirs[key].grad) for key, p in net.named_parameters())  # type: ignore[arg-type]
    assert all(torch.equal(buffer, net.get_buffer(key)) for key, buffer in own.named_buffers())

    optimizer.step()  # what is between them can be resized
    free = next(space for space in model.graph.infer.spaces if space.resizable)
    assert free.name == "plain" and model.apply(PruneChannels(fraction=0.5), free, optimizers=[optimizer])
    model(images(3)).square().sum().backward()
    optimizer.step()
    assert all(optimizer.state[p]["exp_avg"].shape == p.shape for p in model.parameters())
    assert model.state_dict().keys() == net.state_dict().keys()
