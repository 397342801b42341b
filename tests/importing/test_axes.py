"""Code that rearranges axes is typed: ops with the numbers of the module, and spaces that are right."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nasir import Pass
from nasir.backends.torch import from_module
from nasir.backends.torch.importing import runner
from nasir.errors import RunError
from nasir.ir import Draft, Graph
from nasir.passes.prune_channels import PruneChannels
from nasir.pruning.spaces import kinds_of
from nasir.rewriting.evidence import Evidence
from nasir.testing import dead_unit_difference, permutation_difference, silenced, unit_axes

torchvision = pytest.importorskip("torchvision")
SHAPE = (8, 6, 4)
ROUNDING = 1e-12


class Written(nn.Module):
    """A convolution, code on its output, and a convolution or a linear layer behind it."""

    def __init__(self, code: Callable[[Tensor], Tensor], shape: tuple[int, ...], image: bool) -> None:
        super().__init__()
        self.code = code
        self.before = nn.Conv2d(3, SHAPE[0], 1)
        self.norm = nn.BatchNorm2d(SHAPE[0])
        self.behind = nn.Conv2d(shape[0], 5, 1) if image else nn.Linear(shape[-1], 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.code(torch.relu(self.norm(self.before(x)))))  # type: ignore[no-any-return]


def images(count: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *SHAPE[1:], generator=generator, dtype=torch.float64)


def made(code: Callable[[Tensor], Tensor]) -> Written:
    torch.manual_seed(0)
    with torch.no_grad():
        shape = tuple(code(torch.zeros(2, *SHAPE)).shape[1:])
    return Written(code, shape, len(shape) == 3 and code is not CODES["moved"]).double()


def shuffled(x: Tensor, groups: int = 2) -> Tensor:
    """As in torchvision's ShuffleNet."""
    count, channels, height, width = x.size()
    x = x.view(count, groups, channels // groups, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(count, channels, height, width)


def in_halves(x: Tensor) -> Tensor:
    """A shuffle of two halves that are cut apart again."""
    left, right = shuffled(torch.cat([x, nn.functional.silu(x)], 1)).chunk(2, dim=1)
    return torch.cat([left * right, right], dim=1)


def windows(x: Tensor, size: int = 2) -> Tensor:
    """Means over the windows of a partition, as Swin transformers make it: windows lie in the batch."""
    count, channels, height, width = x.shape
    x = x.view(count, channels, height // size, size, width // size, size)
    x = x.permute(0, 2, 4, 3, 5, 1).reshape(-1, size * size, channels)
    x = x * x
    x = x.view(count, height // size, width // size, size, size, channels)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(count, channels, height, width)


def pixels(x: Tensor) -> Tensor:
    """A shuffle of pixels written out; which of the factors are the channels, only the layer behind it tells."""
    count, channels, height, width = x.shape
    x = x.view(count, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(count, channels // 4, 2 * height, 2 * width)


CODES: dict[str, Callable[[Tensor], Tensor]] = {
    "halves": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "uneven parts": lambda x: torch.cat(torch.split(x, [1, 4, 3], dim=1)[1:], 1),
    "parts of three": lambda x: torch.cat(x.split(3, dim=1), 1),
    "tensor_split": lambda x: torch.cat(torch.tensor_split(x, 3, dim=1), 1),
    "slices": lambda x: torch.cat([x[:, :3], x[:, 5:], x[:, -1:]], dim=1),
    "a slice of rows": lambda x: torch.cat([x[:, :, 1:4], x[..., 4:, :]], dim=2),
    "patches merged": lambda x: torch.cat([x[:, :, 0::2, 0::2], x[:, :, 1::2, ::2], x[..., 1::2, 1::2]], 1),
    "narrow": lambda x: x.narrow(1, 2, 4),
    "each second channel": lambda x: x[:, ::2],
    "one row": lambda x: x[:, :, 2].transpose(1, 2),
    "one channel": lambda x: x[:, 1].unsqueeze(1),
    "select": lambda x: x.select(3, -1).mT,
    "unbind": lambda x: torch.stack(x.unbind(2)[1:], dim=-1).flatten(2).transpose(1, 2),
    "stack": lambda x: torch.stack([x, nn.functional.silu(x)], dim=1).flatten(1, 2),
    "new axes": lambda x: x * x[:, :, :1, :1].reshape(x.shape[0], -1)[:, :, None, None],
    "squeezed": lambda x: x[:, :, :1, :1].squeeze(-1).squeeze(2),
    "places as tokens": lambda x: x.view(x.shape[0], x.shape[1], -1).permute(0, 2, 1),
    "moved": lambda x: x.movedim(1, -1),
    "swapped": lambda x: x.swapaxes(1, 3).transpose(2, 1).swapdims(-3, -2).transpose(1, 3),
    "flattened": lambda x: torch.flatten(x, 1),
    "viewed": lambda x: x.view(x.size(0), -1),
    "unflattened": lambda x: x.unflatten(1, (2, 4)).flatten(1, 2),
    "shuffle": shuffled,
    "shuffle of four": lambda x: shuffled(x, 4),
    "shuffled halves": in_halves,
    "heads": lambda x: x.flatten(2).mT.reshape(x.shape[0], -1, 2, 4).transpose(1, 2).transpose(1, 2).flatten(2),
    "windows": windows,
    "a gate": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "a gate of sums": lambda x: x * torch.sigmoid(x.sum(dim=[-1, -2], keepdim=True)).expand_as(x),
    "a mean of places": lambda x: x.mean([2, 3]),
    "the largest row": lambda x: x.amax(2).transpose(1, 2),
    "attention over channels": lambda x: (
        x * torch.sigmoid(torch.cat([x.mean(1, True), x.amax(1, keepdim=True)], 1).sum(1, True))
    ),
    "one channel for all": lambda x: x[:, 1:] * torch.sigmoid(x[:, :1]),
    "two means": lambda x: x.mean(3).sum(axis=-1),
    "radix": lambda x: x.view(x.shape[0], 2, -1, *x.shape[2:]).sum(dim=1),
    "pixels": lambda x: nn.functional.pixel_shuffle(x, 2),
    "pixels written out": pixels,
    "an image of a channel": lambda x: x[:, 1][:, None],
    "pixels as modules": lambda x: nn.PixelUnshuffle(2)(nn.PixelShuffle(2)(x)),
    "channel_shuffle": lambda x: nn.functional.channel_shuffle(x, 2),
    "ChannelShuffle": lambda x: nn.ChannelShuffle(4)(x),
    "rolled": lambda x: torch.roll(x, shifts=(1, -1), dims=(2, 3)),
    "rolled channels": lambda x: x.roll(1, 1),
    "repeated": lambda x: x.repeat(1, 2, 1, 2),
    "interleaved": lambda x: x.repeat_interleave(2, 1).repeat_interleave(2, dim=3),
    "cut apart": lambda x: x.reshape(x.shape[0], 12, 4, 4).flatten(1),
}


@pytest.mark.parametrize("name", CODES)
def test_it_is_typed_and_computes_what_the_module_does(name: str) -> None:
    net = made(CODES[name])
    own = copy.deepcopy(net)
    model = from_module(net, images(2))
    assert not opaque(model.graph), opaque(model.graph)
    x = images(5)
    assert torch.equal(model.eval()(x), own.eval()(x))
    wanted, given = own.train()(x), model.train()(x)
    assert torch.equal(given, wanted)
    wanted.square().sum().backward()
    given.square().sum().backward()
    theirs = dict(own.named_parameters())
    for key, parameter in net.named_parameters():
        assert torch.equal(parameter.grad, theirs[key].grad), key  # type: ignore[arg-type]


FREE = {name: [8] for name in CODES}
"""Sizes of the spaces that can be resized."""
FREE |= {
    "halves": [4, 4],
    "uneven parts": [1, 4, 3],
    "parts of three": [3, 3, 2],
    "tensor_split": [3, 3, 2],
    "slices": [3, 2, 2, 1],
    "narrow": [2, 4, 2],
    "each second channel": [],
    "one channel": [],
    "unflattened": [2, 4],
    "shuffle": [2, 4],
    "shuffle of four": [4, 2],
    "shuffled halves": [4],
    "heads": [2, 4],
    "one channel for all": [7],
    "radix": [2, 4],
    "pixels": [2],
    "pixels as modules": [2],
    "pixels written out": [2],
    "an image of a channel": [],
    "channel_shuffle": [2, 4],
    "ChannelShuffle": [4, 2],
    "rolled channels": [],
    "cut apart": [],
}


@pytest.mark.parametrize("name", CODES)
def test_spaces_are_those_of_the_module(name: str) -> None:
    """Units change their places, or are silent, in the user's own network."""
    net = randomized(made(CODES[name]))
    graph = from_module(copy.deepcopy(net), images(2)).graph
    sizes = [atom.size for atom in graph.infer.spaces if atom.resizable]
    assert sorted(sizes) == sorted(FREE[name]), [(atom, atom.pin) for atom in graph.infer.spaces]
    assert_right(net, images(2))


@pytest.mark.parametrize("name", CODES)
def test_silent_units_go_without_a_change(name: str) -> None:
    """Constants are followed through what rearranges axes; where units depend on one another nothing is claimed."""
    net = randomized(made(CODES[name]))
    graph = from_module(copy.deepcopy(net), images(2)).graph
    for space in [atom for atom in graph.infer.spaces if atom.resizable and atom.size > 1]:
        silent = copy.deepcopy(net)
        state = {key: value.numpy() for key, value in silent.state_dict().items()}
        quiet = silenced(state, unit_axes(graph, space, ("write", "along")), range(0, space.size, 2))
        silent.load_state_dict({key: torch.from_numpy(np.asarray(value)) for key, value in quiet.items()})
        wanted = silent(images(3))
        model = from_module(silent, images(2)).eval()
        rewrite = model.apply(PruneChannels(score="norm_scale", threshold=0.0), space.name)
        assert rewrite is not None and (rewrite.preserves == "exact") == (not space.mixed), space
        if not space.mixed:
            assert abs(model(images(3)) - wanted).max() < ROUNDING, space


@dataclass(frozen=True)
class Keep(Pass):
    """Only some units of a space stay."""

    index: tuple[int, ...] = ()
    shrinks = True

    def sites(self, graph: Graph) -> list[str]:
        return [atom.name for atom in graph.infer.spaces]

    def rewrite(self, draft: Draft, site: Any, seen: Evidence) -> None:
        assert draft.base is not None
        draft.select(next(atom for atom in draft.base.infer.spaces if atom.name == site), self.index)


def assert_right(net: nn.Module, x: Tensor, each: int = 1) -> None:
    """Both oracles for all spaces that can be resized, or for each so many of them."""
    run = runner(net, (x,))
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    model = from_module(copy.deepcopy(net), x).eval()
    for space in [atom for atom in model.graph.infer.spaces if atom.resizable and atom.size > 1][::each]:
        assert permutation_difference(run, state, unit_axes(model.graph, space)) < ROUNDING, space
        units = list(range(0, space.size, 2))
        if space.mixed:  # a mean over units has fewer without the silent ones
            continue
        pruned = copy.deepcopy(model)
        pruned.apply(Keep(tuple(np.setdiff1d(np.arange(space.size), units).tolist())), space.name)
        writers = unit_axes(model.graph, space, ("write", "along"))
        assert dead_unit_difference(run, state, writers, units, [pruned(x).detach().numpy()]) < ROUNDING, space


def randomized(net: nn.Module) -> nn.Module:
    """In evaluation, with norms that do something."""
    generator = torch.Generator().manual_seed(2)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.5), (module.bias, -0.5), (module.running_mean, -0.5)):
                with torch.no_grad():
                    tensor.uniform_(low, low + 1.0, generator=generator)  # type: ignore[union-attr]
    return net.eval()


def opaque(graph: Graph) -> list[str]:
    return [f"{n.label}: {n.attrs['runs']}" for n in graph.nodes.values() if n.facts.family == "opaque"]


def test_values_of_which_only_the_shape_is_taken_are_left_out() -> None:
    class Shaped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.write, self.like, self.read = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.write(x).flatten(1).view_as(self.like(x))
            return self.read(y * torch.sigmoid(y.amax(1, keepdim=True)).expand_as(y))  # type: ignore[no-any-return]

    net = Shaped().double().eval()
    model = from_module(net, images(2)).eval()
    assert not opaque(model.graph) and "like" not in model.graph.labels
    assert torch.equal(model(images(3)), net(images(3)))


def test_inputs_of_another_size_are_refused_by_reshapes() -> None:
    """A batch of windows would take them for more samples."""
    model = from_module(made(windows), images(2))
    with pytest.raises(RunError, match=r"a reshape of values of shape \(8, 6, 4\) got \(8, 4, 4\).*made for"):
        model(images(2)[:, :, :4])


def test_layers_find_their_channels() -> None:
    """A layer reads the axis that torch says, whichever held the channels before it."""
    graph = from_module(made(pixels), images(2)).graph
    (node,) = [node for node in graph.nodes.values() if node.op == "layout"]
    assert node.label == "behind_layout" and node.attrs == {"channel_axis": 0}
    assert graph.infer.types[graph.nodes[graph.find("behind")].inputs[0]].is_image
    pinned = {atom.pin for atom in graph.infer.spaces}
    assert "conv2d 'behind' slides a window along it" in pinned


@pytest.mark.slow
def test_a_shufflenet_is_whole_and_pruned_right() -> None:
    torch.manual_seed(0)
    net = randomized(torchvision.models.shufflenet_v2_x0_5(num_classes=7).double())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    graph = from_module(copy.deepcopy(net), x).graph
    assert not opaque(graph)
    hidden = [f"stage{s}.{n}.branch2.0" for s, count in ((2, 4), (3, 8), (4, 4)) for n in range(count)]
    free = {atom.name for atom in graph.infer.spaces if atom.resizable}
    assert free >= {"conv1.0", "conv5.0", *hidden}
    assert_right(net, x, each=6)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["x1_0", *[pytest.param(size, marks=pytest.mark.zoo) for size in ("x1_5", "x2_0")]])
def test_larger_shufflenets_are_whole_and_pruned_right(size: str) -> None:
    torch.manual_seed(0)
    net = randomized(getattr(torchvision.models, f"shufflenet_v2_{size}")(num_classes=7).double())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    graph = from_module(copy.deepcopy(net), x).graph
    assert not opaque(graph)
    assert_right(net, x)


class Headed(nn.Module):
    """A layer on each of the heads into which the channels are cut."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.write = nn.Conv2d(3, 8, 1)
        self.each = nn.Linear(4, 6, bias=bias)
        self.read = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.write(x)).flatten(2).mT.unflatten(2, (2, 4))
        return self.read(self.each(x).flatten(2)).mean(1)  # type: ignore[no-any-return]


def test_heads_and_their_channels_are_pruned_each_for_itself() -> None:
    torch.manual_seed(0)
    net = Headed(bias=False).double().eval()
    graph = from_module(copy.deepcopy(net), images(2)).graph
    free = {atom.name: atom for atom in graph.infer.spaces if atom.resizable}
    assert {name: atom.size for name, atom in free.items()} == {"write": 2, "write#2": 4, "each": 6}
    kinds, _ = kinds_of(graph)
    assert [kinds[free[name]] for name in free] == ["widths", "widths", "channels"]
    assert_right(net, images(2))


def test_heads_that_put_out_a_bias_are_not_silent() -> None:
    torch.manual_seed(0)
    net = Headed(bias=True).double().eval()
    with torch.no_grad():
        net.write.weight[4:] = 0.0
        net.write.bias[4:] = 0.0  # type: ignore[index]
    model = from_module(net, images(2)).eval()
    wanted = model(images(3))
    rewrite = model.apply(PruneChannels(fraction=0.5), "write")
    assert rewrite is not None and rewrite.preserves == "no"
    assert model.get_submodule("read").weight.shape == (5, 6)
    assert abs(model(images(3)) - wanted).max() > ROUNDING
