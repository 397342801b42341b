"""Norms of torch, torchvision and timm, as modules and as functions: typed, and the same numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from around import Around, check, images
from torch import Tensor, nn
from torch.nn import functional as F

from nasir.backends.torch import from_module
from nasir.errors import Decline
from nasir.passes.refresh_norms import RefreshNorms

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")


def stirred(module: nn.Module) -> nn.Module:
    """Weights and statistics that are not those of the start."""
    torch.manual_seed(4)
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5)
    return module


class Last(nn.Module):
    """A module that has the channels last."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class LikeLayerNorm(nn.LayerNorm):
    """A class of somebody's that only is made in another way."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-3, bias=False)


NORMS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "batch": (lambda: nn.BatchNorm2d(8), "batch_norm"),
    "bare batch": (lambda: nn.BatchNorm2d(8, affine=False), "batch_norm"),
    "batch alone": (lambda: nn.BatchNorm2d(8, track_running_stats=False), "batch_norm"),
    "average": (lambda: nn.BatchNorm2d(8, momentum=None), "batch_norm"),
    "synchronous": (lambda: nn.SyncBatchNorm(8), "batch_norm"),
    "frozen": (lambda: torchvision.ops.FrozenBatchNorm2d(8), "frozen_batch_norm"),
    "instance": (lambda: nn.InstanceNorm2d(8), "instance_norm"),
    "affine instance": (lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True), "instance_norm"),
    "group": (lambda: nn.GroupNorm(2, 8), "group_norm"),
    "bare group": (lambda: nn.GroupNorm(4, 8, affine=False), "group_norm"),
    "timm group": (lambda: timm.layers.GroupNorm1(8), "group_norm"),
    "layer": (lambda: Last(nn.LayerNorm(8)), "layer_norm"),
    "bare layer": (lambda: Last(nn.LayerNorm(8, elementwise_affine=False)), "layer_norm"),
    "layer without bias": (lambda: Last(nn.LayerNorm(8, bias=False)), "layer_norm"),
    "layer of a user's": (lambda: Last(LikeLayerNorm(8)), "layer_norm"),
    "torchvision 2d": (lambda: torchvision.models.convnext.LayerNorm2d(8), "layer_norm2d"),
    "timm 2d": (lambda: timm.layers.LayerNorm2d(8), "layer_norm2d"),
    "rms": (lambda: Last(nn.RMSNorm(8)), "rms_norm"),
    "rms with eps": (lambda: Last(nn.RMSNorm(8, 1e-3, elementwise_affine=False)), "rms_norm"),
    "timm rms": (lambda: Last(timm.layers.RmsNorm(8)), "rms_norm"),
    "response": (lambda: Last(timm.layers.grn.GlobalResponseNorm(8)), "response_norm"),
    "response first": (lambda: timm.layers.grn.GlobalResponseNorm(8, channels_last=False), "response_norm"),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms(name: str) -> None:
    make, op = NORMS[name]
    model = check(stirred(make()))
    assert [node.op for node in model.graph.nodes.values() if node.op == op] == [op]


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LayerNorm((8, 5, 5)),
        lambda: Last(nn.LayerNorm((5, 8), bias=False)),
        lambda: nn.LocalResponseNorm(3, 0.5),
        lambda: nn.LocalResponseNorm(2, k=2.0),
    ],
)
def test_norms_of_fixed_size(make: Callable[[], nn.Module]) -> None:
    check(stirred(make()), free=False)


class Functions(nn.Module):
    """Norms as functions, with parameters and buffers of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.bias = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.randn(8))
        self.register_buffer("mean", torch.randn(8))
        self.register_buffer("variance", torch.rand(8) + 0.5)
        self.gain = nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(x, self.mean, self.variance, self.scale, self.bias, self.training, 0.2)
        x = F.batch_norm(x, None, None, training=True) + F.group_norm(x, 1, eps=1e-3)
        x = x + F.instance_norm(x, weight=self.gain, bias=None if self.gain is None else self.bias)
        y = F.rms_norm(F.layer_norm(x.permute(0, 2, 3, 1), (8,), self.gain), (8,), eps=1e-4)
        return y.permute(0, 3, 1, 2)


@pytest.mark.slow
@pytest.mark.zoo
def test_norms_of_transformers_are_typed() -> None:
    """They are written out: squares, their mean, a root, in float32."""
    pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    for kind in (LlamaRMSNorm, T5LayerNorm):
        check(stirred(Last(kind(8))), double=False)


def test_norms_as_functions() -> None:
    model = check(Functions())
    assert {"batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"} <= {
        node.op for node in model.graph.nodes.values()
    }


@pytest.mark.parametrize(
    ("act", "op"), [(nn.ReLU, "relu"), ("silu", "silu"), ("leaky_relu", "leaky_relu"), ("gelu", "gelu"), (None, "")]
)
def test_a_norm_with_its_activation_is_two_nodes(act: type[nn.Module] | str | None, op: str) -> None:
    model = check(stirred(timm.layers.BatchNormAct2d(8, act_layer=act or nn.Identity)))
    graph = model.graph
    norm = graph.find("inner")
    assert graph.nodes[norm].op == "batch_norm"
    (user,) = graph.users(norm)
    assert (graph.nodes[user].label, graph.nodes[user].op) == (("inner_act", op) if op else ("last", "conv2d"))
    assert set(graph.infer.slots[norm]) == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.parametrize(
    ("make", "ops"),
    [
        (lambda: timm.layers.norm_act.FrozenBatchNormAct2d(8), ["frozen_batch_norm", "relu"]),
        (lambda: timm.layers.GroupNormAct(8, num_groups=2), ["group_norm", "identity", "relu"]),
        (lambda: timm.layers.LayerNormAct2d(8), ["permute", "layer_norm", "permute", "identity", "relu"]),
    ],
)
def test_other_norms_with_their_activations(make: Callable[[], nn.Module], ops: list[str]) -> None:
    model = check(stirred(make()))
    assert [node.op for node in model.graph.nodes.values()][2:-1] == ops


def test_a_norm_with_dropout_and_activation_is_three_nodes() -> None:
    model = check(stirred(timm.layers.BatchNormAct2d(8, drop_layer=lambda: nn.Dropout2d(0.3))))
    labels = [node.label for node in model.graph.nodes.values()]
    assert labels == ["x", "first", "inner", "inner_drop", "inner_act", "last"]


def test_statistics_that_never_move_are_not_refreshed() -> None:
    net = nn.Sequential(Around(torchvision.ops.FrozenBatchNorm2d(8)), nn.BatchNorm2d(4, track_running_stats=False))
    model = from_module(net, images(2))
    with pytest.raises(Decline):
        RefreshNorms().attempt(model.graph, "network")
    both = from_module(nn.Sequential(copy.deepcopy(net), nn.BatchNorm2d(4)), images(2))
    assert RefreshNorms().attempt(both.graph, "network").refresh is not None
