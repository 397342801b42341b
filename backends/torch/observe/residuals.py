"""What each residual branch of a live network contributes: norms, variances and gradients, measured in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import combinations
from math import comb, prod
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn import functional

from nasir.analysis.contributions import (
    Contribution,
    OrderShare,
    ResidualAnalysis,
    Spread,
    Statistics,
    stream_depths,
)
from nasir.analysis.residuals import ResidualSum, residual_depth, residual_sums
from nasir.analysis.statistics import keeps_statistics
from nasir.backends.torch.device.precision import float32_products
from nasir.backends.torch.host import widened
from nasir.backends.torch.lower.interface import first_floating
from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.lower.stepwise import Watcher, run_stepwise
from nasir.backends.torch.observe.logits import as_input
from nasir.backends.torch.train.loop import evaluating
from nasir.blocks.end_scales import end_scale
from nasir.blocks.tail import transparent
from nasir.counted import counted
from nasir.errors import UsageError
from nasir.ir import Port, ValueType

MOST_RUNS = 4096
"""Networks with some branches left out that an expansion may run: all subsets of 12."""


def analyze(
    model: LoweredModule, inputs: Any, labels: Tensor | None, statistics: Statistics, highest: int | None
) -> ResidualAnalysis:
    """See `Model.analyze_residual`; `highest`: its `orders`."""
    if statistics not in get_args(Statistics):
        known = " or ".join(map(repr, get_args(Statistics)))
        raise UsageError(f"statistics {statistics!r} of batch norms: give {known}")
    given = inputs_of(model, inputs)
    parts = () if highest is None else orders(model, given, highest, statistics)
    found = contributions(model, given, labels, statistics)
    return ResidualAnalysis(found, residual_depth(model.graph), len(given[0]), statistics, orders=parts)


def inputs_of(model: LoweredModule, inputs: Any) -> list[Tensor]:
    """The inputs of the graph, of what the model is called with: a tensor, or a tuple of arguments."""
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    if model.calling is not None:
        return model.calling.bound(arguments, {})
    count = len(model.graph.inputs)
    if len(arguments) != count or not all(isinstance(argument, Tensor) for argument in arguments):
        raise UsageError(f"this network has {counted(count, 'input')}; give a tensor [N, ...] for each, as a tuple")
    return [*arguments]


def contributions(
    model: LoweredModule, inputs: Sequence[Tensor], labels: Tensor | None = None, statistics: Statistics = "running"
) -> tuple[Contribution, ...]:
    """Every residual sum that the network has in evaluation, in its order, measured on a batch in one forward pass.

    `inputs`: those of the graph, [N, ...] each. With `labels` [N], classes, a backward pass of the cross entropy gives
    the gradients. `statistics`: by which batch norms normalize; dropout is off in any case. The network is left as it
    was: modes, buffers, gradients, the state of random generators. Raises UsageError where a block was replaced by
    hand, or where the batch is one sample, which has no statistics.
    """
    found = residual_sums(model.graph)
    meters = {item.node: _Meter(model, item, labels is not None) for item in found}
    watched: dict[int, Watcher] = {node: meter.look for node, meter in meters.items()}
    with _frozen(model) if labels is not None else torch.no_grad(), _measuring(model, inputs, statistics):
        answers = run_stepwise(model, [as_input(model, x) for x in inputs], watched)
        if labels is not None:
            loss = functional.cross_entropy(widened(first_floating(answers)), labels, reduction="sum")
            _backwards(loss, list(meters.values()))
    depths = stream_depths(model.graph, found)
    looked = zip(found, depths, strict=True)
    return tuple(meters[item.node].told(item, depth) for item, depth in looked if meters[item.node].norms)


def orders(
    model: LoweredModule, inputs: Sequence[Tensor], highest: int, statistics: Statistics = "running"
) -> tuple[OrderShare, ...]:
    """The residual expansion of the logits, order by order up to `highest` (0 or more; see `OrderShare`).

    Runs the network once for each set of at most so many branches. UsageError where these are more than MOST_RUNS, or
    where `highest` is negative.
    """
    parts, whole = expansion(model, inputs, highest, statistics)
    length = _length(whole)
    so_far = torch.zeros_like(whole)
    found = []
    for order, part in enumerate(parts):
        so_far = so_far + part
        shares = (_divided(_length(value), length).mean().item() for value in (part, so_far - whole))
        found.append(OrderShare(order, *shares))
    return tuple(found)


def expansion(
    model: LoweredModule, inputs: Sequence[Tensor], highest: int, statistics: Statistics = "running"
) -> tuple[list[Tensor], Tensor]:
    """(the parts of orders 0 to `highest`, the logits themselves), each like the logits; see `orders`."""
    if highest < 0:
        raise UsageError(f"order {highest} of the residual expansion: orders count branches; give 0 or more")
    found = residual_sums(model.graph)
    count, highest = len(found), min(highest, len(found))
    runs = sum(comb(count, size) for size in range(highest + 1))
    if runs > MOST_RUNS:
        raise UsageError(
            f"the expansion of {count} residual branches up to order {highest} runs {runs:,} networks, and "
            f"{MOST_RUNS:,} are the most; ask for a lower order"
        )
    given = [as_input(model, x) for x in inputs]
    streams = {item.node: item.stream for item in found}

    def logits(kept: Sequence[int]) -> Tensor:
        bypassed = {node: port for node, port in streams.items() if node not in kept}
        return widened(first_floating(run_stepwise(model, given, bypassed=bypassed)))

    with torch.no_grad(), _measuring(model, inputs, statistics):
        whole = logits([*streams])
        sums = []  # by size: the logits of all sets of so many branches, added up
        for size in range(highest + 1):
            total = torch.zeros_like(whole)
            for kept in combinations(streams, size):
                total += logits(kept)
            sums.append(total)
    parts = []
    for order in range(highest + 1):
        # a set of `size` lies in comb(count - size, order - size) sets of `order`, and counts in each
        weights = [(-1) ** (order - size) * comb(count - size, order - size) for size in range(order + 1)]
        parts.append(torch.stack([w * total for w, total in zip(weights, sums, strict=False)]).sum(0))
    return parts, whole


class _Meter:
    """What is measured of one residual sum while the network runs."""

    def __init__(self, model: LoweredModule, item: ResidualSum, follow: bool) -> None:
        types, node = model.graph.infer.types, model.graph.nodes[item.node]
        self.label = node.label
        self.places = [node.inputs.index(item.stream), node.inputs.index(item.branch)]
        self.types = [types[item.stream], types[item.branch], types[Port(item.node)]]
        self.scale = _scale(model, item)
        self.follow = follow
        self.norms: list[Tensor] = []  # of stream, branch and sum: [N] each
        self.variances: list[Tensor] = []
        self.value: Tensor | None = None
        self.gradient: Tensor | None = None

    def look(self, operands: tuple[Tensor, ...], value: Tensor) -> Tensor:
        looked_at = [*(operands[place] for place in self.places), value]
        for tensor, kind in zip(looked_at, self.types, strict=True):
            norms, variance = _moments(tensor.detach(), kind)
            self.norms.append(norms)
            self.variances.append(variance)
        if self.follow:  # gradients are wanted from here on
            self.value = value if value.requires_grad else value.detach().requires_grad_()
            return self.value
        return value

    def told(self, item: ResidualSum, depth: int) -> Contribution:
        stream, branch, total = self.norms
        of_stream, of_branch, of_total = torch.stack(self.variances).tolist()
        gradient = None if self.gradient is None else _per_sample(self.gradient, self.types[2]).mean().item()
        return Contribution(
            self.label,
            item.block,
            item.projected,
            depth,
            _spread(_divided(branch, stream)),
            _spread(_divided(branch, total)),
            of_stream,
            of_branch,
            of_total,
            self.scale,
            gradient,
        )


def _scale(model: LoweredModule, item: ResidualSum) -> float:
    """The number that a branch is multiplied by at its end: the constants there, and a learned one before them."""
    graph = model.graph
    end = end_scale(graph, item)
    port = graph.nodes[end.nodes[-1]].inputs[0] if end.nodes else item.branch
    while transparent(graph.nodes[port.node]):
        port = graph.nodes[port.node].inputs[0]
    keys = graph.weights(port.node).values() if graph.nodes[port.node].facts.family == "scale" else ()
    return end.factor * prod(model.tensor(key).item() for key, _ in keys)


def _backwards(loss: Tensor, meters: Sequence[_Meter]) -> None:
    """The gradient of the loss by the value of each sum; a sum that it does not depend on has none."""
    followed = [meter for meter in meters if meter.value is not None]
    values = [meter.value for meter in followed if meter.value is not None]
    if values:
        for meter, gradient in zip(followed, torch.autograd.grad(loss, values, allow_unused=True), strict=True):
            meter.gradient = gradient


def _moments(value: Tensor, kind: ValueType) -> tuple[Tensor, Tensor]:
    """(norm of each sample [N], variance of a channel over samples and places, the mean over channels), float64."""
    value = widened(value)
    norms = _per_sample(value, kind)
    places = [axis for axis in range(1, value.dim()) if axis != kind.channel_dim]
    sums = (value.sum(places) if places else value).to(torch.float64)
    means = sums.mean(0) / prod(value.shape[axis] for axis in places)
    # rounding may leave less than nothing of channels that are constant
    return norms, (norms.square().sum() / value.numel() - means.square().mean()).clamp(min=0.0)


def _per_sample(value: Tensor, kind: ValueType) -> Tensor:
    rows = value if kind.batch == 1 else value.reshape(value.shape[0] // max(kind.batch, 1), -1)
    return _length(rows)


def _length(rows: Tensor) -> Tensor:
    """The Euclidean norm of each row, all axes but the first together."""
    norms: Tensor = torch.linalg.vector_norm(widened(rows), dim=[*range(1, rows.dim())])
    return norms.to(torch.float64)


def _divided(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole; nothing of nothing is 0."""
    return torch.where(part == 0, torch.zeros_like(part), part / whole)


def _spread(values: Tensor) -> Spread:
    return Spread(values.mean().item(), values.quantile(0.5).item())


@contextmanager
def _measuring(model: LoweredModule, inputs: Sequence[Tensor], statistics: Statistics) -> Iterator[None]:
    """Evaluation in full precision, with batch norms by `statistics`, whose buffers are put back."""
    norms = [n for n in model.graph.order if statistics == "batch" and keeps_statistics(model.graph, n)]
    modules = [module for n in norms if not model.is_held(n) and (module := model.leaf(n)) is not None]
    if modules and len(inputs[0]) < 2:
        raise UsageError("a batch has statistics from 2 samples on; give more of them, or take the running statistics")
    held = [(buffer, buffer.clone()) for module in modules for buffer in module.buffers()]
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(float32_products("ieee"))
        for module in modules:
            module.train()
        try:
            yield
        finally:
            for buffer, was in held:
                buffer.copy_(was)


@contextmanager
def _frozen(model: LoweredModule) -> Iterator[None]:
    """Gradients on, but none of the parameters."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
