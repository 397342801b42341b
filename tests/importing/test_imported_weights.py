"""Weights that functions use, as people write them: weights of typed nodes, or factors and summands of their own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasir.backends.torch import Model, from_module
from nasir.backends.torch.importing import runner
from nasir.ir import Draft, Graph
from nasir.ir.space import Atom, resolve
from nasir.passes.prune_channels import PruneChannels
from nasir.passes.widen import Widen
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import Pass, Site
from nasir.testing.unit_oracles import dead_unit_difference, permutation_difference, unit_axes

Forward = Callable[[nn.Module, Tensor], Tensor]


@dataclass(frozen=True)
class Without(Pass):
    """A space loses these units."""

    units: tuple[int, ...] = (0,)

    def sites(self, graph: Graph) -> Iterable[Site]:
        return graph.infer.spaces

    def rewrite(self, draft: Draft, site: Site, seen: Evidence) -> None:
        assert isinstance(site, Atom)
        draft.select(site, np.delete(np.arange(site.size), self.units))


class Own(nn.Module):
    """A forward of one's own over weights of one's own."""

    def __init__(self, forward: Forward, weights: dict[str, Tensor], buffers: dict[str, Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(8, 4)
        self.run = forward
        for name, tensor in weights.items():
            self.register_parameter(name, nn.Parameter(tensor.clone()))
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor.clone(), persistent=not name.startswith("passing"))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def rand(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape) + len(shape))) + 0.5


def _convolution(own: nn.Module, x: Tensor) -> Tensor:
    y = F.conv2d(own.first(x), own.kernel, own.shift, stride=2, padding="valid")
    y = F.batch_norm(y, own.mean, own.var, own.gain, own.offset, own.training, 0.1)
    return own.last(F.relu(y).mean((2, 3)))  # type: ignore[no-any-return]


def _linear(own: nn.Module, x: Tensor) -> Tensor:
    y = F.linear(own.first(x).mean((2, 3)), own.matrix)
    y = F.layer_norm(y, (8,), own.gain, own.offset, 1e-4)
    return F.linear(F.gelu(y), weight=own.last.weight, bias=own.tail)


def _groups(own: nn.Module, x: Tensor) -> Tensor:
    y = F.conv2d(own.first(x), own.kernel, groups=2)
    return own.last(F.group_norm(y, 4, weight=own.gain, bias=own.offset).mean((2, 3)))  # type: ignore[no-any-return]


def _factors(own: nn.Module, x: Tensor) -> Tensor:
    y = F.relu(own.first(x)) * own.factor
    y = own.whole * y + own.places
    y = F.conv2d(own.row * y, own.kernel)
    return own.last(own.gain * y.mean((2, 3)) + own.offset)  # type: ignore[no-any-return]


def _numbers(own: nn.Module, x: Tensor) -> Tensor:
    y = own.first((x + own.mean) * own.passing) * own.mask
    return own.last(F.conv2d(y, own.kernel).mean((2, 3)) * torch.arange(1.0, 9.0) + own.shift)  # type: ignore[no-any-return]


def _standardized(own: nn.Module, x: Tensor) -> Tensor:
    y = own.first((x - own.mean[None, :, None, None]) / own.spread)
    y = F.conv2d(torch.sigmoid(own.logit) * y, own.kernel)
    return own.last(y.mean((2, 3)) / own.gain - own.offset.exp())  # type: ignore[no-any-return]


NORM = {"gain": rand(8), "offset": rand(8)}
MODULES: dict[str, Callable[[], Own]] = {
    "convolution": lambda: Own(
        _convolution,
        {"kernel": rand(8, 6, 3, 3), "shift": rand(8), **NORM},
        {"mean": torch.zeros(8), "var": torch.ones(8)},
    ),
    "linear": lambda: Own(_linear, {"matrix": rand(8, 6), **NORM, "tail": rand(4)}, {}),
    "groups": lambda: Own(_groups, {"kernel": rand(8, 3, 1, 1), **NORM}, {}),
    "factors": lambda: Own(
        _factors,
        {
            **{"factor": rand(6, 1, 1), "whole": rand(1)[0], "places": rand(1, 6, 1, 8), "row": rand(1, 8)},
            **{"kernel": rand(8, 6, 3, 3), **NORM},
        },
        {},
    ),
    "standardized": lambda: Own(
        _standardized,
        {"kernel": rand(8, 6, 3, 3), "logit": rand(6, 1, 1), **NORM},
        {"mean": rand(3), "spread": rand(1, 3, 1, 1)},
    ),
    "numbers": lambda: Own(
        _numbers,
        {"kernel": rand(8, 6, 3, 3), "shift": rand(8)},
        {"mean": rand(3, 1, 1), "passing": rand(3, 1, 1), "mask": (rand(8, 8) > 1).float()},
    ),
}
LOUD = ("standardized",)  # adds exp(0) where a weight is silent


def made(name: str) -> Own:
    torch.manual_seed(0)
    return MODULES[name]().double()


def images(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).double()


def check_parity(model: Model, own: nn.Module, net: nn.Module, x: Tensor) -> None:
    """The model over the tensors of `net` does what `own`, a copy of it, does."""
    with torch.no_grad():
        assert torch.equal(model.eval()(x), own.eval()(x))
    results = []
    for module in (model, own):
        torch.manual_seed(3)
        results.append(module.train()(x))
        results[-1].square().sum().backward()
    assert torch.equal(*results)
    theirs = dict(own.named_parameters())
    for key, parameter in net.named_parameters():
        if theirs[key].grad is not None:
            assert torch.equal(parameter.grad, theirs[key].grad), key  # type: ignore[arg-type]
    for key, buffer in own.named_buffers():
        assert torch.equal(net.get_buffer(key), buffer), key


@pytest.mark.parametrize("name", MODULES)
def test_it_is_typed_and_computes_what_the_module_does(name: str) -> None:
    net = made(name)
    own = copy.deepcopy(net)
    model = from_module(net, images(2))
    assert not [node.label for node in model.graph.nodes.values() if node.facts.family == "opaque"]
    assert {id(p) for p in model.parameters()} <= {id(p) for p in net.parameters()}
    check_parity(model, own, net, images(5))


@pytest.mark.parametrize("name", MODULES)
def test_what_runs_along_a_space_is_all_that_does(name: str) -> None:
    """The oracle of permutations, on the user's own module."""
    net = made(name).eval()
    model = from_module(net, images(2))
    run, state = runner(net, (images(3),)), {key: value.numpy() for key, value in net.state_dict().items()}
    free = [space for space in model.graph.infer.spaces if space.resizable]
    assert free or name == "numbers"
    for space in free:
        assert permutation_difference(run, state, unit_axes(model.graph, space)) < 1e-12, space


def space_of(model: Model, label: str, slot: str) -> Atom:
    space = resolve(model.graph.weights(model.graph.find(label))[slot][1].axes[0].space)
    assert isinstance(space, Atom)
    return space


@pytest.mark.parametrize("name", MODULES)
def test_optimizers_go_on_through_a_rewrite(name: str) -> None:
    net = made(name)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    model = from_module(net, images(2)).train()

    def step() -> None:
        optimizer.zero_grad()
        model(images(4)).square().mean().backward()
        optimizer.step()

    step()
    moments = {id(p): optimizer.state[p]["exp_avg"].clone() for p in model.parameters()}
    kept = list(model.parameters())
    for name in [space.name for space in model.graph.infer.spaces if space.resizable]:
        # of a single group no space is left
        for space in [space for space in model.graph.infer.spaces if space.name == name]:
            model.apply(PruneChannels(score="l1", fraction=0.5), space, optimizers=[optimizer])
    after = list(model.parameters())
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} >= {id(p) for p in after}
    assert all(optimizer.state[p]["exp_avg"].shape == p.shape for p in after)
    for parameter in kept:
        if any(parameter is p for p in after):
            assert torch.equal(optimizer.state[parameter]["exp_avg"], moments[id(parameter)])
    step()
    assert torch.isfinite(model(images(2))).all()


@pytest.mark.parametrize("name", MODULES)
def test_silent_units_go_without_a_change(name: str) -> None:
    """The oracle of pruning: zero in the user's own module along all that writes and scales them, gone in the model."""
    net = made(name).eval()
    run, state = runner(net, (images(3),)), {key: value.numpy() for key, value in net.state_dict().items()}
    for space in [space.name for space in from_module(net, images(2)).graph.infer.spaces if space.resizable]:
        model = from_module(copy.deepcopy(net), images(2))
        atom = next(other for other in model.graph.infer.spaces if other.name == space)
        if atom.mixed is not None or name in LOUD:
            continue
        writers = unit_axes(model.graph, atom, ("write", "along"))
        model.apply(Without((0,)), atom)
        with torch.no_grad():
            pruned = [model(images(3)).numpy()]
        assert dead_unit_difference(run, state, writers, (0,), pruned) < 1e-12, space


@pytest.mark.parametrize("silent", [True, False])
def test_units_whose_factor_is_zero_go_exactly(silent: bool) -> None:
    net = made("factors").eval()
    with torch.no_grad():
        for weak in (net.first.weight, net.first.bias, net.kernel.transpose(0, 1)):  # type: ignore[operator]
            weak[::2] *= 1e-3
        net.factor[::2] *= 0.0 if silent else 1e-3  # type: ignore[operator]
        net.places[:, ::2] *= 0.0 if silent else 1e-3  # type: ignore[operator]
    model = from_module(net, images(2))
    wanted = net(images(3))
    rewrite = model.apply(PruneChannels(fraction=0.5), space_of(model, "first", "weight"))
    assert rewrite is not None and model.graph.find("factor") is not None
    assert rewrite.preserves == ("exact" if silent else "no")
    assert ((model(images(3)) - wanted).abs().max() < 1e-12) == silent


HOW = [{"how": "fresh"}, {"how": "paired"}, {"how": "replicate", "symmetry": "none"}]


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("options", HOW, ids=lambda options: options["how"])
def test_new_units_leave_the_function_as_it_is(name: str, options: dict[str, Any]) -> None:
    net = made(name).eval()
    wanted = net(images(3))
    for space in [space.name for space in from_module(net, images(2)).graph.infer.spaces if space.resizable]:
        model = from_module(copy.deepcopy(net), images(2))
        atom = next(other for other in model.graph.infer.spaces if other.name == space)
        rewrite = model.apply(Widen(units=2, **options), atom)
        assert rewrite is not None and rewrite.preserves == ("no" if atom.mixed else "exact")
        if atom.mixed is None:
            assert (model(images(3)) - wanted).abs().max() < 1e-12, space


def test_new_units_of_a_factor_are_alive() -> None:
    """One that began with zero, and is read by zeros, would get no gradient for ever."""
    model = from_module(made("factors").eval(), images(2))
    assert model.apply(Widen(how="fresh", factor=1.5), space_of(model, "first", "weight")) is not None
    factor, places = (model.get_submodule(name).value for name in ("factor", "places"))
    assert isinstance(factor, Tensor) and factor.shape == (9, 1, 1) and (factor != 0.0).all()
    assert isinstance(places, Tensor) and places.shape == (1, 9, 1, 8)


def test_numbers_that_are_not_learned_pin_what_they_meet() -> None:
    model = from_module(made("numbers"), images(2))
    pins = {atom.name: atom.pin or "" for atom in model.graph.infer.spaces}
    assert "whose numbers are not learned" in pins["conv2d"] or "constants" in pins["conv2d"], pins


def test_an_import_in_evaluation_stays_in_evaluation() -> None:
    """Also where functions became modules, which begin in training by themselves."""

    class Drops(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout2d(F.dropout(x, 0.5, self.training), 0.5, self.training)  # type: ignore[no-any-return]

    model = from_module(Drops().eval(), images(2))
    assert torch.equal(model(images(3)), images(3))


def test_a_kernel_that_is_a_buffer_is_no_weight_that_learns() -> None:
    """Blurring before a step: what no op has as it is stays a call of the function, with the buffer."""
    net = Own(
        lambda own, x: own.last(F.conv2d(F.conv2d(own.first(x), own.blur, groups=6), own.kernel).mean((2, 3))),
        {"kernel": rand(8, 6, 3, 3)},
        {"blur": rand(6, 1, 3, 3)},
    ).double()
    own = copy.deepcopy(net)
    model = from_module(net, images(2))
    opaque = [node.attrs["runs"] for node in model.graph.nodes.values() if node.facts.family == "opaque"]
    assert opaque == ["torch.nn.functional.conv2d"]
    assert {id(p) for p in model.parameters()} == {id(p) for p in net.parameters()}
    assert model.state_dict().keys() == net.state_dict().keys()
    check_parity(model, own, net, images(5))
