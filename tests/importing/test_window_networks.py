"""Networks of users with windows over one to three axes: whole, the same numbers, and right when units go."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from nasir.backends.torch import from_module
from nasir.backends.torch.importing import runner
from nasir.passes.prune_channels import PruneChannels
from nasir.passes.widen import Widen
from nasir.testing import permutation_difference, silenced, unit_axes
from nasir.testing.unit_oracles import Array

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch's own, of even kernels
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
ROUNDING = 1e-9  # outputs are of order 1, in double precision


def conv(
    kind: type[nn.Module], norm: type[nn.Module], read: int, out: int, *args: object, **kwargs: object
) -> nn.Module:
    return nn.Sequential(kind(read, out, *args, **kwargs), norm(out), nn.ReLU())


class UNet(nn.Module):
    """Transposed convolutions on the way up, or interpolation, and what was pooled beside what comes from below."""

    def __init__(self, up: str) -> None:
        super().__init__()
        two, norm = nn.Conv2d, nn.BatchNorm2d
        self.up = up
        self.down1 = conv(two, norm, 3, 6, 3, padding=1, padding_mode="reflect")
        self.down2 = conv(two, norm, 6, 10, 3, padding=1)
        self.bottom = conv(two, norm, 10, 12, 4, padding="same", bias=False)
        if up == "transposed":
            self.up2 = conv(nn.ConvTranspose2d, norm, 12, 8, 2, stride=2)
            self.up1 = conv(nn.ConvTranspose2d, norm, 9, 6, 3, stride=2, padding=1, output_padding=1, groups=3)
        else:
            self.up2 = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), conv(two, norm, 12, 8, 1))
            self.up1 = conv(two, norm, 9, 6, 3, padding=1)
        self.join2 = conv(two, norm, 18, 9, 3, padding=1)
        self.join1 = conv(two, norm, 12, 6, 3, padding=1, padding_mode="replicate")
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        low = self.bottom(F.avg_pool2d(two, 2))
        low = self.up2(low)
        high = self.join2(torch.cat((F.interpolate(low, size=two.shape[-2:]), two), 1))
        if self.up != "transposed":
            high = F.interpolate(high, scale_factor=2, mode="bilinear", align_corners=True)
        high = self.up1(high)
        return self.head(self.join1(torch.cat((high, one), 1)))  # type: ignore[no-any-return]


class Audio(nn.Module):
    """Signals: strided, dilated and depthwise convolutions, pools and padding."""

    def __init__(self) -> None:
        super().__init__()
        one, norm = nn.Conv1d, nn.BatchNorm1d
        self.body = nn.Sequential(
            conv(one, norm, 2, 8, 9, stride=4, padding=4),
            nn.MaxPool1d(3, stride=2, padding=1, ceil_mode=True),
            nn.ReflectionPad1d(2),
            conv(one, norm, 8, 12, 3, dilation=2),
            conv(one, norm, 12, 12, 5, groups=12, padding=2),
            nn.ConstantPad1d((1, 2), 0.0),
            nn.AvgPool1d(2),
            conv(nn.ConvTranspose1d, norm, 12, 10, 4, stride=2, padding=1),
            nn.AdaptiveMaxPool1d(3),
            nn.Flatten(),
        )
        self.fc = nn.Linear(30, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x))  # type: ignore[no-any-return]


class Video(nn.Module):
    """Volumes, with a sum over a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        three, norm = nn.Conv3d, nn.BatchNorm3d
        self.stem = conv(three, norm, 3, 6, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.inner = nn.Sequential(
            conv(three, norm, 6, 8, 3, padding=1), conv(three, norm, 8, 6, (3, 1, 1), padding=(1, 0, 0))
        )
        self.pool = nn.MaxPool3d((1, 2, 2), ceil_mode=True)
        self.out = conv(nn.ConvTranspose3d, norm, 6, 6, 2, stride=2, groups=6)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.out(self.pool(x + self.inner(x)))
        return self.fc(F.adaptive_avg_pool3d(x, 1).flatten(1))  # type: ignore[no-any-return]


class Smooth(nn.Module):
    """Norms of windows, and images resized by cubic polynomials and by means."""

    def __init__(self) -> None:
        super().__init__()
        two, norm = nn.Conv2d, nn.BatchNorm2d
        self.first = conv(two, norm, 3, 6, 3, padding=1)
        self.second = conv(two, norm, 6, 8, 2)
        self.third = conv(two, norm, 8, 5, 3)
        self.pool = nn.LPPool2d(4, (2, 3), ceil_mode=True)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(self.first(x), scale_factor=1.5, mode="bicubic")
        x = self.pool(F.sigmoid(x))
        x = F.interpolate(self.second(x), (5, 9), mode="bilinear", antialias=True)
        x = F.interpolate(self.third(x), (4, 3), mode="bicubic", align_corners=True, antialias=True)
        return self.fc(F.lp_pool2d(F.sigmoid(x), 2, (4, 3)).flatten(1))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Net:
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    free: int


NETS = {
    "unet-transposed": Net(lambda: UNet("transposed"), (3, 16, 16), 8),
    "unet-bilinear": Net(lambda: UNet("bilinear"), (3, 16, 16), 7),
    "smooth": Net(Smooth, (3, 10, 10), 3),
    "audio": Net(Audio, (2, 64), 3),
    "video": Net(Video, (3, 4, 9, 8), 2),
}
VIDEOS = {
    name: Net(lambda name=name: torchvision.models.get_model(name, weights=None, num_classes=5), (3, 4, 16, 16), free)
    for name, free in (("r3d_18", 12), ("mc3_18", 12), ("r2plus1d_18", 29))
}
SLOW = [
    pytest.param(net, id=name, marks=[pytest.mark.slow] + [pytest.mark.zoo] * (name != "mc3_18"))
    for name, net in VIDEOS.items()
]
ALL = [*[pytest.param(net, id=name) for name, net in NETS.items()], *SLOW]


def lively(net: Net) -> nn.Module:
    """Weights and statistics of which no two are alike, in double precision, in evaluation."""
    torch.manual_seed(0)
    module = net.make()
    for inner in module.modules():
        if isinstance(inner, NORMS):
            for tensor in (inner.running_var, inner.weight):
                nn.init.uniform_(tensor, 0.5, 1.5)  # type: ignore[arg-type]
            for tensor in (inner.running_mean, inner.bias):
                nn.init.normal_(tensor, 0.0, 0.2)  # type: ignore[arg-type]
    return module.double().eval()


def given(net: Net, count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, *net.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def state_of(module: nn.Module) -> dict[str, Array]:
    return {key: tensor.detach().numpy().copy() for key, tensor in module.state_dict().items()}


@pytest.mark.parametrize("net", ALL)
def test_it_is_whole_and_computes_what_the_module_does(net: Net) -> None:
    """At another batch size, in both modes, with its gradients and running statistics."""
    module = lively(net)
    own = copy.deepcopy(module)
    model = from_module(module, given(net, 2))
    assert not [node.label for node in model.graph.nodes.values() if node.facts.foreign]
    assert sum(space.resizable for space in model.graph.infer.spaces) == net.free
    x = given(net, 3, seed=2)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), own.eval()(x))
    wanted, made = own.train()(x), model.train()(x)
    assert torch.equal(made, wanted)
    wanted.square().sum().backward()
    made.square().sum().backward()
    theirs = dict(own.named_parameters())
    assert all(torch.equal(p.grad, theirs[name].grad) for name, p in model.named_parameters())  # type: ignore[arg-type]
    assert all(torch.equal(b, dict(own.named_buffers())[name]) for name, b in model.named_buffers())


@pytest.mark.parametrize("net", ALL)
def test_units_of_every_space_may_be_permuted(net: Net) -> None:
    module = lively(net)
    graph = from_module(copy.deepcopy(module), given(net, 2)).graph
    run, state = runner(module, (given(net, 2, seed=3),)), state_of(module)
    for space in graph.infer.spaces:
        if space.resizable and space.size > 1:
            assert permutation_difference(run, state, unit_axes(graph, space)) < ROUNDING, space


@pytest.mark.parametrize("net", ALL)
def test_silent_units_go_without_a_change_and_the_optimizer_goes_on(net: Net) -> None:
    """30 % of the units of every space: silenced in the user's own network, gone in the model."""
    module = lively(net)
    graph = from_module(copy.deepcopy(module), given(net, 2)).graph
    quiet, sizes = state_of(module), {}
    for space in graph.infer.spaces:
        if space.resizable:
            gone = list(range(0, space.size, 3))[: max(1, int(0.3 * space.size))] if space.size > 1 else []
            quiet = silenced(quiet, unit_axes(graph, space, ("write", "along")), gone)
            sizes[space.name] = space.size - len(gone)
    module.load_state_dict({key: torch.as_tensor(array) for key, array in quiet.items()})
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.0, weight_decay=0.0)
    model = from_module(module, given(net, 2))
    model(given(net, 2)).square().sum().backward()
    optimizer.step()
    wanted = copy.deepcopy(module)(given(net, 3, seed=4))
    moments = {id(p): optimizer.state[p]["exp_avg"].clone() for p in module.parameters()}
    before = {name: moments[id(p)] for name, p in model.named_parameters()}
    kinds = ["channels", "widths", "groups"]
    prune = PruneChannels(score="norm_scale", threshold=0.0, spaces=kinds)  # type: ignore[arg-type]
    rewrite = model.apply(prune, "network", optimizers=[optimizer])
    assert rewrite is not None and rewrite.preserves == "exact"
    assert {space.name: space.size for space in model.graph.infer.spaces if space.resizable} == sizes
    assert (model(given(net, 3, seed=4)) - wanted).abs().max() < ROUNDING
    smaller = 0
    for name, parameter in model.named_parameters():
        moment = optimizer.state[parameter]["exp_avg"]
        assert moment.shape == parameter.shape
        assert set(moment.flatten().tolist()) <= {*before[name].flatten().tolist(), 0.0}
        smaller += moment.numel() < before[name].numel()
    assert smaller
    model.train()(given(net, 2)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("how", ["replicate", "fresh", "paired"])
def test_groups_of_transposed_convolutions_grow_exactly(how: str) -> None:
    """Their groups lie along the axis that is read: what is added there is not what is summed over."""
    net = NETS["unet-transposed"]
    module = lively(net)
    model = from_module(module, given(net, 2))
    x = given(net, 2, seed=5)
    wanted = model(x)
    symmetry = {"symmetry": "none"} if how == "replicate" else {}
    for name in [space.name for space in model.graph.infer.spaces if space.resizable]:
        space = next(space for space in model.graph.infer.spaces if space.name == name)
        rewrite = model.apply(Widen(how=how, units=2, **symmetry), space)  # type: ignore[arg-type]
        assert rewrite is not None and rewrite.preserves == "exact"
        assert (model(x) - wanted).abs().max() < ROUNDING, name
