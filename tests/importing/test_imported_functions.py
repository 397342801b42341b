"""Functions and modules of one number, arithmetic, and what is left out at random: typed, and the same numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from around import Around, check, check_same, images
from torch import Tensor, nn
from torch.nn import functional as F

from nasir.backends.torch import from_module
from nasir.passes.prune_channels import PruneChannels


class Function(nn.Module):
    """A function as the code of a module; `training` is told."""

    def __init__(self, function: Callable[..., Tensor], told: bool = False) -> None:
        super().__init__()
        self.function, self.told = (function,), told

    def forward(self, x: Tensor) -> Tensor:
        return self.function[0](x, self.training) if self.told else self.function[0](x)


MODULES = [
    *(nn.ReLU(), nn.ReLU6(True), nn.LeakyReLU(0.2, True), nn.ELU(0.7), nn.CELU(1.3), nn.SELU(), nn.Hardtanh(-0.5, 0.5)),
    *(nn.GELU(), nn.GELU("tanh"), nn.Sigmoid(), nn.LogSigmoid(), nn.SiLU(True), nn.Mish(), nn.Hardsigmoid()),
    *(nn.Hardswish(), nn.Softplus(2.0, 5.0), nn.Softsign(), nn.Tanh(), nn.PReLU(), nn.PReLU(8, 0.1), nn.Identity()),
    *(nn.Softmax(1), nn.Softmax(-1), nn.LogSoftmax(2), nn.Softmax2d(), nn.Dropout(0.3), nn.Dropout2d(0.3)),
]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_modules(module: nn.Module) -> None:
    check(module)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: F.relu(x) + torch.relu(x) + x.relu() + F.relu_(x * 2),
    "hard": lambda x: F.relu6(x) + F.hardtanh(x, -0.5, 0.7) + x.clamp(-1, 1) + F.hardsigmoid(x) + F.hardswish(x),
    "ends": lambda x: x.clamp(min=0.1) + torch.clamp(x, max=0.2) + x.clamp_min(0.3) + torch.clamp_max(x, 0.4),
    "leaky": lambda x: F.leaky_relu(x, 0.1) + F.elu(x, alpha=0.3) + F.celu(x, 2.0) + F.selu(x) + torch.selu(x),
    "smooth": lambda x: F.gelu(x, approximate="tanh") + F.silu(x) + F.mish(x) + F.softplus(x) + F.logsigmoid(x),
    "tanh": lambda x: torch.tanh(x) + x.tanh() + F.tanh(x) + F.softsign(x) + x.sigmoid(),
    "roots": lambda x: x.abs().sqrt() + (x * x + 1).rsqrt() + torch.reciprocal(x.exp()) + (abs(x) + 0.1).log(),
    "powers": lambda x: x**2 + x.pow(3) + torch.pow(x, 2.0) + x.square() + (x.abs() + 1) ** -0.5,
    "waves": lambda x: x.sin() + torch.cos(x) + torch.erf(x),
    "quick": lambda x: x * torch.sigmoid(1.702 * x),
    "numbers": lambda x: 1 - (x * 0.5 + 1) / math.sqrt(7) - (2 + x) * 3,
    "reverse": lambda x: 2 / (x.exp() + 1) - torch.rsub(x, 3) + (-x) - 0.1,
    "two": lambda x: (x - x.tanh()) / (x.exp() + 1) + torch.maximum(x, -x) - torch.min(x, x * 2),
    "alpha": lambda x: torch.add(x, x.tanh(), alpha=0.3) + x.sub(x.exp(), alpha=0.7) + torch.add(x, 2, alpha=3),
    "in place": lambda x: x.add(1).mul_(2).sub_(0.5).div_(3).neg_().tanh_(),
    "casts": lambda x: x.float() + x.to(torch.float32) * x.to(dtype=torch.float32),
    "shares": lambda x: F.softmax(x, dim=1) * x.softmax(-1) + torch.log_softmax(x, 2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    check(Function(FUNCTIONS[name]), double=name != "casts")


@pytest.mark.parametrize(
    "function",
    [
        lambda x, training: F.dropout(x, 0.2, training),
        lambda x, training: F.dropout2d(x, training=training),
    ],
)
def test_functions_that_are_told_the_mode(function: Callable[..., Tensor]) -> None:
    check(Function(function, told=True))


def test_drop_paths() -> None:
    torchvision = pytest.importorskip("torchvision")
    for mode in ("row", "batch"):
        check(torchvision.ops.StochasticDepth(0.4, mode))
    timm = pytest.importorskip("timm")
    for scale in (True, False):
        check(timm.layers.DropPath(0.4, scale))


@pytest.mark.slow
@pytest.mark.zoo
def test_drop_paths_of_transformers() -> None:
    pytest.importorskip("transformers")
    from transformers.models.swin.modeling_swin import SwinDropPath

    check(SwinDropPath(0.4))


def dropped(x: Tensor, training: bool) -> Tensor:
    """A drop path as people write it."""
    if not training:
        return x
    return x * x.new_empty((x.shape[0], 1, 1, 1)).bernoulli_(0.7).div_(0.7)


def test_a_function_that_draws_noise_of_its_own_shape_pins_nothing() -> None:
    torch.manual_seed(0)
    net = Around(Function(dropped, told=True))
    own = copy.deepcopy(net)
    model = from_module(net, images(2))
    check_same(net, model, own, images(5))
    space = model.graph.infer.slots[model.graph.find("first")]["weight"].axes[0].space
    rewrite = model.apply(PruneChannels(fraction=0.5), space)
    assert rewrite is not None and model.get_submodule("first").weight.shape[0] == 4
    assert torch.isfinite(model.train()(images(3))).all()


class OfWeights(nn.Module):
    """Functions of weights, and of a value and a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.size = nn.Parameter(torch.randn(8, 1, 1)), nn.Parameter(torch.rand(8, 1, 1))
        self.slope = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.shift) / (F.softplus(self.size) + 0.1)
        x = torch.addcmul(self.shift, self.size, x)
        return torch.maximum(F.prelu(x, self.slope), -F.dropout(self.shift.exp(), 0.2, self.training))


def test_functions_of_weights_are_typed() -> None:
    check(OfWeights())


class Gated(nn.Module):
    """A function whose other operand has less places."""

    def forward(self, x: Tensor) -> Tensor:
        gate = F.adaptive_avg_pool2d(x, 1)
        return x / (1 + gate.square()) - gate  # type: ignore[no-any-return]


def test_other_operands_with_less_places_are_repeated() -> None:
    check(Gated())


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.div(x, 2, rounding_mode="floor"),
        lambda x: x.softmax(1, dtype=torch.float64).float(),
        lambda x: F.softmax(x, 0),
        lambda x: 2**x,
        lambda x: x.to(torch.float64).to(torch.float32),
        lambda x: torch.max(x, 1, keepdim=True).values * x,
        lambda x: x * x.shape[0],
        lambda x: F.dropout(x, 0.3, True),
        lambda x: F.dropout(x, 1.0, False) * 2,
    ],
)
def test_what_a_rule_cannot_say_runs_as_it_is(function: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    net = Around(Function(function))
    own = copy.deepcopy(net)
    model = from_module(net, images(2))
    assert any(node.facts.family == "opaque" for node in model.graph.nodes.values())
    x = images(5)
    torch.manual_seed(3)
    wanted: Any = own.train()(x)
    torch.manual_seed(3)
    assert torch.equal(model.train()(x), wanted)
