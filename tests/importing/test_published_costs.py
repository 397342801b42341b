"""Parameters and multiply-accumulates of imported networks are those that torchvision publishes."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasir.backends.torch import from_module
from nasir.backends.torch.importing import graph_of
from nasir.errors import NasirError, NasirWarning
from nasir.ir import Draft, Graph

torchvision = pytest.importorskip("torchvision")

QUICK = ["resnet18", "squeezenet1_1", "vit_b_32"]
MODELS = torchvision.models.list_models(torchvision.models)  # all that classify images
AUXILIARY = {"inception_v3": 3_326_696, "googlenet": 0}
"""What of the published parameters belongs to auxiliary classifiers, which only run in training: left out here."""


def built(name: str, side: int) -> nn.Module:
    """A network of torchvision for images of a size, on the meta device if it can be made there."""
    options: dict[str, Any] = {"aux_logits": False, "init_weights": False} if name in AUXILIARY else {}
    if name.startswith("vit_"):
        options["image_size"] = side
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"):
                made: nn.Module = torchvision.models.get_model(name, **options)
        except RuntimeError:  # it draws its initial weights where they are
            made = torchvision.models.get_model(name, **options)
    return made


def check(name: str) -> None:
    for weights in torchvision.models.get_model_weights(name):
        side = weights.transforms().crop_size[0]
        cost = graph_of(built(name, side), torch.empty(2, 3, side, side, device="meta")).cost()
        meta = weights.meta
        assert cost.params == meta["num_params"] - AUXILIARY.get(name, 0), weights
        assert round(cost.macs / 1e9, 3) == meta["_ops"], weights


@pytest.mark.parametrize("name", QUICK)
def test_costs_are_those_that_are_published(name: str) -> None:
    check(name)


@pytest.mark.zoo
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name not in QUICK])
def test_costs_of_every_network_are_those_that_are_published(name: str) -> None:
    check(name)


class Foreign(nn.Module):
    """Calls without a rule: products of matrices with and without a batch, a recurrent layer, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(6, 8))
        self.v = nn.Parameter(torch.randn(6))
        self.rnn = nn.LSTM(6, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # (B, 4, 8)
        y = F.linear(x, self.w).tanh()  # 4 * 6 * 8
        y = F.scaled_dot_product_attention(y[:, None], y[:, None], y[:, None])[:, 0]  # 2 * 4 * 4 * 6
        z = torch.einsum("btc,c->bt", y, self.v)  # 4 * 6
        return self.rnn(y)[0].sum(-1) * z  # 4 * (6 + 5) * 4 * 5


def macs(graph: Graph) -> int:
    return graph.cost().macs


def test_calls_without_a_rule_are_counted() -> None:
    torch.manual_seed(0)
    graph = from_module(Foreign(), torch.randn(2, 4, 8)).graph
    assert macs(graph) == 4 * 6 * 8 + 2 * 4 * 4 * 6 + 4 * 6 + 4 * (6 + 5) * 4 * 5


def test_an_opaque_node_counts_for_a_sample_whatever_rows_it_makes_of_one() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=(6,))
    y = draft.add("opaque", [x], "f", call="{}", runs="f", shapes=[(3,)], dtypes=["float32"], rows=[2], macs=7)
    draft.output(y)
    assert macs(draft.commit()) == 7
    older = draft.add("opaque", [x], "g", call="{}", runs="g", shapes=[(3,)], dtypes=["float32"], rows=[2])
    draft.output(older)
    graph = draft.commit()
    assert macs(graph) == 7 and "macs" not in graph.nodes[older.node].facts.stated(graph.nodes[older.node].attrs)


def test_what_cannot_be_counted_is_told() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.bincount(torch.arange(3, device=x.device)).cumsum(0)[:1] * torch.nonzero(x).sum()

    with pytest.warns(NasirWarning, match=r"torch.nonzero .*count as 0: it does not run on the meta device"):
        from_module(Masked(), torch.randn(2, 3))


@pytest.mark.parametrize("name", ["resnet18", pytest.param("shufflenet_v2_x0_5", marks=pytest.mark.slow)])
def test_the_structure_alone_is_the_graph_of_the_model(name: str) -> None:
    torch.manual_seed(0)
    net = getattr(torchvision.models, name)()
    x = torch.randn(2, 3, 32, 32)
    assert graph_of(net, x) == from_module(net, x).graph
    assert graph_of(net.to("meta"), x) == graph_of(net, x.to("meta"))


def test_the_structure_of_what_needs_numbers_is_refused() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = torch.randn(3)

        def forward(self, x: Tensor) -> Any:
            return x + self.shift

    with pytest.raises(NasirError, match="Plain"):
        graph_of(Plain(), torch.randn(2, 3))
