"""Functions and modules of one number, arithmetic, and what is left out at random: typed, and the same numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasir.backends.torch import Model, from_module
from nasir.backends.torch.importing import runner
from nasir.passes.prune_channels import PruneChannels
from nasir.testing import permutation_difference, unit_axes


class Around(nn.Module):
    """A module between two convolutions."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Conv2d(3, 8, 3), inner, nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.first(x)))  # type: ignore[no-any-return]


class Function(nn.Module):
    """A function as the code of a module; `training` is told."""

    def __init__(self, function: Callable[..., Tensor], told: bool = False) -> None:
        super().__init__()
        self.function, self.told = (function,), told

    def forward(self, x: Tensor) -> Tensor:
        return self.function[0](x, self.training) if self.told else self.function[0](x)


def images(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 7, 7, generator=torch.Generator().manual_seed(seed))


def check_same(net: nn.Module, model: Model, own: nn.Module, x: Tensor) -> None:
    """Evaluation, training with equal seeds, gradients and buffers: not a bit differs."""
    with torch.no_grad():
        assert torch.equal(model.eval()(x), own.eval()(x))
    results = []
    for each in (own.train(), model.train()):
        torch.manual_seed(3)
        results.append(each(x))
        results[-1].square().mean().backward()
    assert torch.equal(*results)
    theirs = dict(own.named_parameters())
    for key, parameter in net.named_parameters():
        assert torch.equal(parameter.grad, theirs[key].grad), key  # type: ignore[arg-type]
    for key, buffer in own.named_buffers():
        assert torch.equal(net.get_buffer(key), buffer), key


def check(inner: nn.Module, *, whole: bool = True) -> Model:
    """The inner module between convolutions: imported without an opaque node, the same, and its units may change."""
    torch.manual_seed(0)
    net = Around(inner)
    own = copy.deepcopy(net)
    model = from_module(net, images(2))
    opaque = [node.label for node in model.graph.nodes.values() if node.facts.family == "opaque"]
    assert not opaque or not whole, opaque
    check_same(net, model, own, images(5))
    rebuilt = Model.from_graph(model.graph)  # by the lowerings alone
    rebuilt.load_state_dict(own.state_dict())
    torch.manual_seed(7)
    wanted = own.train()(images(4))
    torch.manual_seed(7)
    assert torch.equal(rebuilt.train()(images(4)), wanted)
    space = next((atom for atom in model.graph.infer.spaces if atom.name == "first" and not atom.pin), None)
    assert space is not None or not whole
    if space is not None:
        double = copy.deepcopy(own).double().eval()
        run = runner(double, (images(2).double(),))
        state = {key: value.numpy() for key, value in double.state_dict().items()}
        assert permutation_difference(run, state, unit_axes(model.graph, space)) < 1e-9
        assert model.apply(PruneChannels(fraction=0.5), space) is not None
        assert torch.isfinite(model.eval()(images(2))).all()
    return model


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
    "shares": lambda x: F.softmax(x, dim=1) * x.softmax(-1) + torch.log_softmax(x, 2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    check(Function(FUNCTIONS[name]))


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
    pytest.importorskip("transformers")
    from transformers.models.swin.modeling_swin import SwinDropPath

    check(SwinDropPath(0.4))


class OfWeights(nn.Module):
    """Functions of weights, and of a value and a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.size = nn.Parameter(torch.randn(8, 1, 1)), nn.Parameter(torch.rand(8, 1, 1))
        self.slope = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.shift) / (F.softplus(self.size) + 0.1)
        return torch.maximum(F.prelu(x, self.slope), -self.shift.exp())


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
