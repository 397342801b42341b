"""timm's convolutions with standardized kernels: typed, and the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from around import check
from torch import nn

from nasir.backends.torch import Model, from_module

timm = pytest.importorskip("timm")
KINDS = ("StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame")
WAYS: list[dict[str, Any]] = [{}, {"stride": 2}, {"groups": 2, "bias": True}, {"kernel_size": 2, "dilation": 2}]


def standardized(kind: str, **options: Any) -> nn.Module:
    torch.manual_seed(3)
    layer: nn.Module = getattr(timm.layers, kind)(8, 8, **{"kernel_size": 3, **options})
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return layer


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_they_are_one_node(kind: str, way: dict[str, Any]) -> None:
    model = check(standardized(kind, **way))
    [node] = [node for node in model.graph.nodes.values() if node.op == "ws_conv2d"]
    assert node.attrs["gain"] is kind.startswith("Scaled")
    assert not any(node.facts.foreign for node in model.graph.nodes.values())


def test_a_normalizer_free_network_is_typed() -> None:
    module = (
        timm.create_model("nfnet_f0", num_classes=5, width_factor=0.25) if False else timm.create_model("nf_regnet_b0")
    )
    x = torch.randn(2, 3, 64, 64)
    model: Model = from_module(module, x)
    assert sum(node.op == "ws_conv2d" for node in model.graph.nodes.values()) > 20
    module.eval()
    model.eval()
    with torch.no_grad():
        assert torch.allclose(model(x), module(x), rtol=1e-4, atol=1e-5)
