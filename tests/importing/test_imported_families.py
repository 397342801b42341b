"""Families of timm that are typed as a whole: the same numbers, and spaces whose units may change places."""

from __future__ import annotations

import copy

import pytest
from around import check_same
from zoo import of_timm

from nasir.backends.torch import from_module
from nasir.backends.torch.importing import runner
from nasir.testing import permutation_difference, unit_axes

WHOLE = [
    *("resnetv2_18", "convnextv2_atto", "convnext_atto", "efficientnet_b0", "regnety_002", "repvit_m1"),
    *("mobilenetv4_conv_small", "mobilenetv3_small_050", "rexnet_100", "ghostnet_050", "starnet_s1", "fasternet_t0"),
    *("lcnet_050", "mnasnet_small", "gernet_s", "darknet53", "inception_next_atto", "cspresnet50", "hgnet_tiny"),
    "convformer_s18",
]


@pytest.mark.slow
@pytest.mark.zoo
@pytest.mark.parametrize("name", WHOLE)
def test_a_family_is_typed_as_a_whole(name: str) -> None:
    entry = of_timm(name)
    net = entry.made()
    for module in net.modules():
        if hasattr(module, "drop_prob"):  # paths are dropped by chance
            module.drop_prob = 0.2
    own = copy.deepcopy(net)
    (x,), _ = entry.arguments(2)
    model = from_module(net, x)
    graph = model.graph
    assert not [node.label for node in graph.nodes.values() if node.facts.family == "opaque"]
    (x,), _ = entry.arguments(3)
    check_same(net, model, own, x)
    double = copy.deepcopy(own).double().eval()
    run = runner(double, (x.double(),))
    state = {key: value.numpy() for key, value in double.state_dict().items()}
    free = [space for space in graph.infer.spaces if not space.pin and space.size > 1]
    assert len(free) >= len(graph.infer.spaces) // 2
    for space in free[:: max(1, len(free) // 4)]:
        assert permutation_difference(run, state, unit_axes(graph, space)) < 1e-9, space.name
