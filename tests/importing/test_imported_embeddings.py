"""Tables of vectors: looked up by layers and functions, by numbers of the input and constant ones, tied to the head."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasir.backends.torch import Model, from_module
from nasir.backends.torch.importing import runner
from nasir.errors import TypeRuleError
from nasir.ir import Draft, Graph, Port
from nasir.passes.prune_channels import PruneChannels
from nasir.passes.widen import Widen
from nasir.testing import evaluate, random_weights
from nasir.testing.unit_oracles import permutation_difference, unit_axes


class Words(nn.Module):
    """Words and their places, and the table of words again to tell the next one."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 6, padding_idx=3)
        self.places = nn.Parameter(torch.randn(4, 6))
        self.register_buffer("ids", torch.arange(4)[None], persistent=False)
        self.hidden, self.back = nn.Linear(6, 9), nn.Linear(9, 6)
        self.head = nn.Linear(6, 11, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.words(x) + F.embedding(self.ids, self.places)
        return self.head(y + self.back(F.gelu(self.hidden(y))))  # type: ignore[no-any-return]


def made(tied: bool = True) -> Words:
    torch.manual_seed(0)
    return Words(tied).double()


def words(count: int) -> Tensor:
    return torch.randint(0, 11, (count, 4), generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("tied", [True, False])
def test_it_computes_what_the_module_does(tied: bool) -> None:
    net, own = made(tied), made(tied)
    model = from_module(net, words(2))
    assert not [node.label for node in model.graph.nodes.values() if node.facts.family == "opaque"]
    assert model.state_dict().keys() == net.state_dict().keys()
    assert model.graph.cost().params == sum(p.numel() for p in net.parameters())
    for module in (model, own):
        module(words(5)).square().sum().backward()
    assert torch.equal(model(words(3)), own(words(3)))
    theirs = dict(own.named_parameters())
    assert all(torch.equal(p.grad, theirs[key].grad) for key, p in net.named_parameters())  # type: ignore[arg-type]


@pytest.mark.parametrize("tied", [True, False])
def test_its_channels_are_a_space(tied: bool) -> None:
    net = made(tied).eval()
    model = from_module(copy.deepcopy(net), words(2))
    run, state = runner(net, (words(5),)), {key: value.numpy() for key, value in net.state_dict().items()}
    free = {space.name: space for space in model.graph.infer.spaces if space.resizable}
    assert free.keys() == {"words", "hidden"}
    for space in free.values():
        assert permutation_difference(run, state, unit_axes(model.graph, space)) < 1e-12
    optimizer = torch.optim.AdamW(model.parameters())
    model(words(3)).square().sum().backward()
    optimizer.step()
    model.apply(PruneChannels(fraction=0.5), free["words"], optimizers=[optimizer])
    table = model.get_submodule("words").weight
    assert isinstance(table, Tensor) and optimizer.state[table]["exp_avg"].shape == table.shape == (11, 3)
    assert (model.get_submodule("head").weight is table) == tied
    assert model.get_submodule("words").padding_idx == 3


def test_units_of_an_untied_table_go_exactly_and_come_exactly() -> None:
    net = made(tied=False).eval()
    with torch.no_grad():
        for tensor in (net.words.weight.t(), net.places.t(), net.back.weight, net.back.bias):
            tensor[1::2] = 0.0
    for change in (PruneChannels(fraction=0.5), Widen(how="fresh", units=2)):
        model = from_module(copy.deepcopy(net), words(2))
        space = next(space for space in model.graph.infer.spaces if space.name == "words")
        rewrite = model.apply(change, space)
        assert rewrite is not None and rewrite.preserves == "exact"
        assert (model(words(5)) - net(words(5))).abs().max() < 1e-12


def looked_up(**attrs: object) -> Graph:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[2, 3], dtype=attrs.pop("dtype", "int64"))
    draft.output(draft.add("embedding", x, "table", **{"count": 5, "out": 4, **attrs}))
    return draft.commit()


def test_the_op_is_its_definition() -> None:
    graph = looked_up(padding=1)
    assert graph.infer.types[Port(1)].shape == (2, 3, 4) and graph.infer.types[Port(1)].channels_last
    weights, x = random_weights(graph, 0), np.random.default_rng(0).integers(0, 5, (7, 2, 3))
    model = Model.from_graph(graph, dtype=torch.float64)
    with torch.no_grad():
        model.get_submodule("table").weight.copy_(torch.from_numpy(next(iter(weights.values()))))  # type: ignore[operator]
    assert np.array_equal(model(torch.from_numpy(x)).detach().numpy(), evaluate(graph, weights, x))
    with pytest.raises(TypeRuleError, match=r"padding must be from 0 to 4, not 5"):
        looked_up(padding=5)
    with pytest.raises(TypeRuleError, match=r"needs whole numbers .int64 or int32., got float32 from 'x'"):
        looked_up(dtype="float32")
