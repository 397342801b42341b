"""`grow-kernel`: zeros all around change nothing, whatever the stride, dilation or grouping."""

from __future__ import annotations

import pytest
import torch
from grown import images, lived, logits
from networks import small_resnet

from nasir.backends.torch import Model
from nasir.errors import Decline, UnknownName
from nasir.ir import Draft, Graph
from nasir.passes.grow_kernel import GrowKernel
from nasir.rewriting.rewrite import WHOLE
from nasir.testing import PassContract, evaluate, random_batch, random_weights, transferred


class TestGrowKernel(PassContract):
    make = staticmethod(lambda: GrowKernel(to=5))
    bound = 1e-12


def kernels(op: str = "conv2d", shape: tuple[int, ...] = (4, 9, 8), **attrs: object) -> Graph:
    draft = Draft()
    x = draft.add("input", (), "x", shape=shape, channel_axis=0)
    x = draft.add(op, x, "conv", **{"out": 4, "kernel": 3, "padding": 1, "bias": True, **attrs})
    draft.output(draft.add("linear", draft.add("flatten", x, "flat"), "fc", out=3))
    return draft.commit()


CASES = [
    {},
    {"stride": 2},
    {"dilation": 2, "padding": 2},
    {"groups": 2, "out": 6},
    {"groups": 4},
    {"padding": 0},
    {"kernel": [3, 5], "padding": [1, 2]},
    {"kernel": 1, "padding": 0, "stride": [1, 2]},
    {"kernel": [1, 3], "padding": [0, 1], "end_padding": [0, 1]},
    {"padding_mode": "circular"},
    {"op": "conv1d", "shape": (4, 11), "stride": 2},
    {"op": "conv3d", "shape": (4, 3, 6, 5), "kernel": [1, 3, 3], "padding": [0, 1, 1]},
    {"op": "conv_transpose2d", "stride": 2, "output_padding": 1},
    {"op": "conv_transpose2d", "stride": [1, 2], "dilation": 2, "groups": 2, "out": 6},
]


@pytest.mark.parametrize("attrs", CASES, ids=str)
@pytest.mark.parametrize("to", [5, 7])
def test_every_output_is_the_same_number(attrs: dict, to: int) -> None:
    graph = kernels(**attrs)
    rewrite = GrowKernel(to=to).attempt(graph, "conv")
    node = rewrite.graph.nodes[graph.labels["conv"]]
    assert node.attrs["kernel"] == to and rewrite.preserves == "exact"
    weights, batch = random_weights(graph, 0), random_batch(graph, 1)
    after = transferred(rewrite.plan, rewrite.graph, weights)
    old, new = evaluate(graph, weights, batch), evaluate(rewrite.graph, after, batch)
    assert old.shape == new.shape and abs(new - old).max() <= 1e-14 * abs(old).max()


def test_whole_numbers_come_out_bit_for_bit() -> None:
    """3 -> 5 is exact, 0.0: with sums that do not round, the order in which a kernel adds plays no part."""
    model = Model.from_graph(kernels(), dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter * 20).round())
    x = (torch.randn(3, 4, 9, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5).round()
    before = logits(model, x)
    model.apply(GrowKernel(), "conv")
    assert torch.equal(logits(model, x), before) and model.get_parameter("conv.weight").shape == (4, 4, 5, 5)


def test_moments_stay_in_the_middle_and_the_rim_learns() -> None:
    model = lived(small_resnet(), dtype=torch.float64)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model(images(4, 8, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    old = optimizer.state[model.get_parameter("s1.0.conv1.weight")]["exp_avg"].clone()
    model.apply(GrowKernel(), "s1.0", optimizers=[optimizer])
    weight = model.get_parameter("s1.0.conv1.weight")
    moment = optimizer.state[weight]["exp_avg"]
    assert torch.equal(moment[..., 1:4, 1:4], old) and not moment[..., 0, :].any()
    model.zero_grad()
    model(images(4, 8, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    assert bool((weight[..., 0, :] != 0).all())


def test_regions_and_the_network_spare_small_kernels_and_a_label_does_not() -> None:
    graph = small_resnet((1, 1))
    pointwise = "s2.0.downsample.0"
    assert {"s1", "s2", "s1.0", "s2.0", WHOLE, pointwise} <= set(GrowKernel().sites(graph))
    grown = GrowKernel().attempt(graph, WHOLE).graph
    sizes = {node.label: node.attrs["kernel"] for node in grown.nodes.values() if node.op == "conv2d"}
    assert sizes.pop(pointwise) == 1 and set(sizes.values()) == {5}
    assert GrowKernel(to=3).attempt(graph, pointwise).graph.nodes[graph.labels[pointwise]].attrs["kernel"] == 3
    grown = GrowKernel(to=3, least=1).attempt(graph, "s2").graph
    assert grown.nodes[graph.labels[pointwise]].attrs["padding"] == 1


def test_what_cannot_be_is_refused_before_anything_changes() -> None:
    graph = small_resnet()
    with pytest.raises(Decline, match=r"'s1\.0\.conv1': a 3x3 kernel does not lie in the middle of 6x6"):
        GrowKernel(to=6).attempt(graph, "s1")
    with pytest.raises(Decline, match="'fc' has no convolution with a kernel of at least 1 and below 5"):
        GrowKernel().attempt(graph, "fc")
    with pytest.raises(UnknownName, match="grow-kernel has no site 's9' in the network as it is now; did you"):
        GrowKernel().attempt(graph, "s9")
    with pytest.raises(ValueError, match="must be at least 2"):
        GrowKernel(to=1)
