"""How much more the input of norms varies in training than in evaluation, measured (Li et al., CVPR 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nasir.analysis.statistics import keeps_statistics
from nasir.backends.torch.host import widened
from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.lower.stepwise import Watcher, run_stepwise
from nasir.backends.torch.observe.logits import as_input
from nasir.backends.torch.train.loop import evaluating


def variance_shifts(model: LoweredModule, inputs: Sequence[Tensor]) -> dict[str, float]:
    """By label of every norm with running statistics: variance with dropping / variance without it of what comes in.

    `inputs`: those of the graph, [N, ...] each. Each variance is that of a channel over samples and places, the mean
    over the channels. Two forward passes, in both of which norms use their running statistics; the network is left as
    it was: modes, buffers, the state of random generators. Raises UsageError where a block was replaced by hand.
    """
    graph = model.graph
    norms = [n for n in graph.order if graph.nodes[n].facts.family == "norm" and keeps_statistics(graph, n)]
    drops = [model.leaf(n) for n in graph.order if graph.nodes[n].facts.drops is not None and not model.is_held(n)]
    given = [as_input(model, x) for x in inputs]
    devices = [x.device for x in given[:1] if x.device.type != "cpu"]
    kind = devices[0].type if devices else "cuda"
    with torch.no_grad(), evaluating(model), torch.random.fork_rng(devices, device_type=kind):
        still = _variances(model, norms, given)
        for module in drops:
            if module is not None:
                module.train()
        dropping = _variances(model, norms, given)
    return {graph.nodes[n].label: (dropping[n] / still[n]).item() for n in norms}


def _variances(model: LoweredModule, norms: Sequence[int], given: Sequence[Tensor]) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}

    def watcher(norm: int) -> Watcher:
        kind = model.graph.infer.types[model.graph.nodes[norm].inputs[0]]

        def look(operands: tuple[Tensor, ...], value: Tensor) -> Tensor:
            x = widened(operands[0])
            others = [axis for axis in range(x.dim()) if axis != kind.channel_dim]
            found[norm] = x.var(others, correction=0).mean()
            return value

        return look

    run_stepwise(model, given, {norm: watcher(norm) for norm in norms})
    return found
