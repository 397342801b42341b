"""A small ConvNeXt of torchvision: layer norms of images, layer scales, stochastic depth; no part of it is opaque."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasir.backends.torch import from_module
from nasir.backends.torch.importing import runner
from nasir.passes.prune_channels import PruneChannels
from nasir.passes.widen import Widen
from nasir.testing.unit_oracles import permutation_difference, unit_axes

torchvision = pytest.importorskip("torchvision")


def network() -> nn.Module:
    torch.manual_seed(0)
    config = torchvision.models.convnext.CNBlockConfig
    settings = [config(8, 12, 2), config(12, None, 1)]
    made: nn.Module = torchvision.models.ConvNeXt(settings, 0.3, layer_scale=0.5, num_classes=5).double()
    return made


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(count)).double()


def test_it_is_the_network() -> None:
    net, own = network(), network()
    model = from_module(net, images(2))
    assert not [node.label for node in model.graph.nodes.values() if node.facts.foreign and node.facts.arity[1] != 0]
    assert model.state_dict().keys() == net.state_dict().keys()
    assert model.graph.cost().params == sum(p.numel() for p in net.parameters())
    assert model.graph.depths() == {"features.1": 2, "features.3": 1}
    with torch.no_grad():
        assert torch.equal(model.eval()(images(3)), own.eval()(images(3)))
    for module in (model.train(), own.train()):
        torch.manual_seed(1)
        module(images(3)).square().sum().backward()
    theirs = dict(own.named_parameters())
    assert all(torch.equal(p.grad, theirs[key].grad) for key, p in net.named_parameters())  # type: ignore[arg-type]


def test_layer_scales_follow_the_stream() -> None:
    net = network().eval()
    model = from_module(copy.deepcopy(net), images(2)).eval()
    run, state = runner(net, (images(2),)), {key: value.numpy() for key, value in net.state_dict().items()}
    free = {space.name: space for space in model.graph.infer.spaces if space.resizable}
    assert len(free) == 2 + 3  # the stream of each stage, and what lies within each block
    for space in free.values():
        assert permutation_difference(run, state, unit_axes(model.graph, space)) < 1e-12
    assert "features.1.0.layer_scale" in unit_axes(model.graph, free["features.0.0"])

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for change in (PruneChannels(fraction=0.5), Widen(how="fresh", units=3)):
        model.train()
        F.cross_entropy(model(images(4)), torch.arange(4)).backward()
        optimizer.step()
        optimizer.zero_grad()
        space = next(space for space in model.graph.infer.spaces if space.name == "features.0.0")
        assert model.apply(change, space, optimizers=[optimizer]) is not None
        assert all(optimizer.state[p]["exp_avg"].shape == p.shape for p in model.parameters())
    assert model.state_dict()["features.1.0.layer_scale"].shape == (7, 1, 1)
    assert model.state_dict().keys() == net.state_dict().keys()
