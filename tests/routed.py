"""Networks with routers whose routes tests choose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from grown import images, lived, pyramid
from torch import nn

from nasir.analysis.routing import routes
from nasir.backends.torch import Model
from nasir.passes import InsertRouter

DOUBLE = torch.float64


def batch(count: int = 12) -> torch.Tensor:
    """Images of 8 x 8 in float64."""
    return images(count, 8, dtype=DOUBLE)


def static(depths: tuple[int, ...] = (3, 3), block: str = "basic") -> Model:
    """A network without routers that has lived, in evaluation."""
    return lived(pyramid(depths, 4, block=block, size=8, classes=3), dtype=DOUBLE).eval()


def routed(model: Model, *stages: str, **options: object) -> Model:
    """The network with routers in some stages (all where none is named)."""
    for stage in stages or [stage.path for stage in model.graph.stages]:
        model.apply(InsertRouter(**options), stage)
    return model.eval()


def force(model: Model, ways: Mapping[str, int]) -> None:
    """Let all samples take one way (from 0) at routes, by label of the route: `s1.1.route`."""
    for label, way in ways.items():
        graph = model.graph
        gate = graph.nodes[graph.nodes[graph.find(label)].inputs[0].node]
        scores = model.leaf(gate.inputs[0].node)
        assert isinstance(scores, nn.Linear)
        with torch.no_grad():
            scores.weight.zero_()
            scores.bias.zero_()
            scores.bias[way] = 1.0


def scatter(model: Model, x: torch.Tensor, seed: int = 0) -> None:
    """Let the samples of `x` part at each router that some of them come to, as after some training."""
    random = torch.Generator().manual_seed(seed)
    graph = model.graph
    gates = {graph.nodes[route].inputs[0].node for route in routes(graph)}
    for gate in [node_id for node_id in graph.order if node_id in gates]:
        scores = model.leaf(graph.nodes[gate].inputs[0].node)
        assert isinstance(scores, nn.Linear)
        given: list[torch.Tensor] = []
        with torch.no_grad():
            handle = scores.register_forward_pre_hook(lambda module, inputs, given=given: given.append(inputs[0]))
            model(x)
            handle.remove()
            scores.weight.copy_(torch.randn(scores.weight.shape, generator=random, dtype=scores.weight.dtype))
            scores.bias.copy_(-(given[0] @ scores.weight.T).mean(0) if given else torch.zeros_like(scores.bias))


@contextmanager
def rows_of(model: Model, *kinds: type[nn.Module]) -> Iterator[dict[str, int]]:
    """How many samples each convolution (or layer of `kinds`) has run for, by label; 0 for those not called."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, kinds or (nn.Conv2d,))}
    rows = dict.fromkeys(layers, 0)

    def count(name: str) -> object:
        def hook(module: nn.Module, given: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
            rows[name] += len(result)

        return hook

    handles = [module.register_forward_hook(count(name)) for name, module in layers.items()]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()
