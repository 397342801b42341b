"""A module between two convolutions: imported, compared bit for bit, permuted and pruned."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from nasir.backends.torch import Model, from_module
from nasir.backends.torch.importing import runner
from nasir.ir.space import atoms_of
from nasir.passes.prune_channels import PruneChannels
from nasir.testing import permutation_difference, unit_axes


class Around(nn.Module):
    """A module between two convolutions."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Conv2d(3, 8, 3), inner, nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.first(x)))  # type: ignore[no-any-return]


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


def check(inner: nn.Module, *, free: bool = True, double: bool = True) -> Model:
    """The inner module between convolutions: imported without an opaque node, the same, and its units may change.

    Not `free`: they may not. Not `double`: it computes in float32, whatever its weights are.
    """
    torch.manual_seed(0)
    net = Around(inner)
    own = copy.deepcopy(net)
    model = from_module(net, images(2))
    opaque = [node.label for node in model.graph.nodes.values() if node.facts.family == "opaque"]
    assert not opaque, opaque
    check_same(net, model, own, images(5))
    rebuilt = Model.from_graph(model.graph)  # by the lowerings alone
    rebuilt.load_state_dict(own.state_dict())
    torch.manual_seed(7)
    wanted = own.train()(images(4))
    torch.manual_seed(7)
    assert torch.equal(rebuilt.train()(images(4)), wanted)
    first = model.graph.infer.slots[model.graph.find("first")]["weight"].axes[0].space
    spaces = [atom for atom in atoms_of(first) if not atom.pin]
    assert bool(spaces) == free
    for space in spaces[:1]:
        kind, bound = (torch.float64, 1e-9) if double else (torch.float32, 1e-4)
        net = copy.deepcopy(own).to(kind).eval()
        run = runner(net, (images(2).to(kind),))
        state = {key: value.numpy() for key, value in net.state_dict().items()}
        assert permutation_difference(run, state, unit_axes(model.graph, space)) < bound
        assert model.apply(PruneChannels(fraction=0.5), space) is not None
        assert torch.isfinite(model.eval()(images(2))).all()
    return model
