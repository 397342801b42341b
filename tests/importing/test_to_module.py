"""The user's own module back: it has the tensors of the model and computes what that does, or is refused."""

from __future__ import annotations

import copy
import gc
import io

import pytest
import torch
import torchvision
from edges import assert_same
from torch import Tensor, nn
from torch.nn import functional as F

from nasir.backends.torch import Model, from_module
from nasir.errors import UsageError
from nasir.passes.prune_channels import PruneChannels
from nasir.passes.remove_block import RemoveBlock


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class Small(nn.Module):
    """Layers whose sizes follow from their tensors, a function with weights, a buffer, a part that nothing calls."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 3, 3, 3) * 0.2)
        self.norm = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, groups=8)
        self.group, self.act = nn.GroupNorm(2, 8), nn.PReLU(8)
        self.out = nn.Linear(8, 5)
        self.unused = nn.Linear(2, 2)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(F.conv2d(x, self.w))
        x = self.act(self.group(self.deep(x)))
        return self.out(x.mean((2, 3))) * self.scale  # type: ignore[no-any-return]


class Counting(nn.Module):
    """Code that holds a width of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x).relu().mean((2, 3))
        return self.two(x) * 8 / self.one.out_channels + len(self.two.weight[0]) - 8  # type: ignore[no-any-return]


class Viewing(nn.Module):
    """Code that lays a value out by a width of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).relu().mean((2, 3)).reshape(len(x), 8))  # type: ignore[no-any-return]


def trained(model: Model) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model.train()(images(4)), torch.arange(4)).backward()
    optimizer.step()
    optimizer.zero_grad()


def test_the_own_module_has_the_tensors_of_the_model() -> None:
    net = torchvision.models.resnet18(num_classes=5)
    model = from_module(net, images(2))
    trained(model)
    model.double()
    assert model.to_module() is net
    model.eval()
    assert_same(model.to_module()(images(3).double()), model(images(3).double()))
    assert not net.training and net.fc.weight is model.get_parameter("fc.weight")


def test_without_the_own_module_it_is_one_like_it() -> None:
    model = from_module(Small(), images(2))
    gc.collect()
    trained(model)
    made = model.eval().to_module()
    assert isinstance(made, Small) and made.w is model.state_dict(keep_vars=True)["w"]
    assert not any(tensor.is_meta for tensor in made.state_dict().values())
    assert_same(made(images(3)), model(images(3)))


def test_a_copy_of_the_model_leaves_the_module_alone() -> None:
    net = Small()
    model = copy.deepcopy(from_module(net, images(2)))
    trained(model)
    made = model.to_module()
    assert made is not net and not torch.equal(made.w, net.w)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [Small, lambda: torchvision.models.mobilenet_v3_small(num_classes=5)])
def test_after_pruning_the_sizes_are_those_of_the_model(make: type[nn.Module]) -> None:
    net = make()
    before = {key: tensor.shape for key, tensor in net.state_dict().items()}
    model = from_module(net, images(2))
    assert model.apply(PruneChannels(fraction=0.5), "network") is not None
    made = model.eval().to_module()
    assert made is not net and {key: tensor.shape for key, tensor in net.state_dict().items()} == before
    assert sum(p.numel() for p in made.parameters()) < sum(p.numel() for p in net.parameters())
    assert (made(images(3)) - model(images(3))).abs().max() < 1e-5
    for name, layer in made.named_modules():
        if isinstance(layer, nn.Conv2d):
            shape = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
            assert layer.weight.shape == shape, name
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.weight.shape == (layer.num_features,), name


def test_what_is_another_architecture_is_refused_with_what_changed() -> None:
    model = from_module(torchvision.models.resnet18(num_classes=5), images(2))
    model.apply(RemoveBlock(), "layer2.1")
    with pytest.raises(UsageError, match=r"no longer that of torchvision.*ResNet: without 'layer2.1.conv1', .* and"):
        model.to_module()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (Counting, r"does not compute what the model does: sizes in it do not follow"),
        (Viewing, r"does not run with the new sizes \(RuntimeError: shape"),
    ],
)
def test_sizes_that_code_holds_are_refused(make: type[nn.Module], text: str) -> None:
    model = from_module(make(), images(2))
    assert model.apply(PruneChannels(fraction=0.5), "network") is not None
    with pytest.raises(UsageError, match=text):
        model.to_module()


def test_models_that_come_from_elsewhere_have_none() -> None:
    buffer = io.BytesIO()
    model = from_module(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.randn(2, 12))
    torch.save(model, buffer)
    buffer.seek(0)
    with pytest.raises(UsageError, match="not imported from a module in this process"):
        torch.load(buffer, weights_only=False).to_module()
