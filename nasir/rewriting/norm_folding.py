"""Norms that evaluation replaces by what they are then: a scale and a shift per channel, by running statistics.

With the weight w, the bias c, the mean m and the variance v of a norm, y = gain * x + shift with
gain = w / sqrt(v + eps) and shift = c - m * gain. A layer before it takes both exactly: gain * (K x + b) + shift is a
layer of the kernel gain * K and the bias gain * (b - m) + c. Optimizer state goes the way of the plan: gradients of a
kernel that is multiplied by `gain` are divided by it, and the new bias has the gradient of c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nasir.analysis.statistics import MEAN, VARIANCE
from nasir.errors import Decline
from nasir.ir import Draft, Graph, Node, Port
from nasir.ir.source import AxisTake, Blob, Key, Source, Take
from nasir.ir.space import size_of
from nasir.ir.types import bias_of, kernel_of
from nasir.ops.weighted import AFFINE
from nasir.rewriting.evidence import Evidence

WEIGHT, BIAS = (name for name, *_ in AFFINE)
Values: TypeAlias = NDArray[np.float64]


def is_fixed_map(graph: Graph, node_id: int) -> bool:
    """Whether a norm is a fixed scale and shift per channel in evaluation: it has running statistics."""
    node, weights = graph.nodes[node_id], graph.weights(node_id)
    return node.facts.family == "norm" and {MEAN, VARIANCE} <= weights.keys() and "eps" in node.attrs


def normalizes(node: Node) -> bool:
    """Whether a node is a norm that measures what it is given, in training at least."""
    return node.facts.family == "norm" and (node.facts.channels != "alone" or "momentum" in node.attrs)


def layer_before(graph: Graph, norm: int) -> int | str:
    """The layer whose kernel and bias can take what a norm does, or why there is none."""
    (port,) = graph.nodes[norm].inputs
    before = graph.nodes[port.node]
    if before.facts.family != "weighted":
        return f"it reads '{before.label}', which multiplies by no kernel"
    if graph.users(port.node) != (norm,) or port in graph.outputs:
        return f"'{before.label}' before it is read by others, too"
    if port.node in graph.sharing or norm in graph.sharing:
        return f"it, or '{before.label}' before it, shares weights with other nodes"
    slots, value = graph.infer.slots[port.node], graph.infer.types[port]
    name = kernel_of(slots)
    if name is None or size_of(slots[name].axes[slots[name].axis("write")].space) != size_of(value.channels):
        return f"the kernel of '{before.label}' does not hold its output channels one by one"
    if bias_of(slots) is None and "bias" not in before.attrs:
        return f"'{before.label}' before it can have no bias"
    return port.node


@dataclass(frozen=True, slots=True)
class _Map:
    """What a norm does in evaluation: gain * x + (its bias, if any) - gain * mean."""

    inverse: Values  # 1 / sqrt(variance + eps)
    gain: Values
    mean: Values


def _map(graph: Graph, norm: int, seen: Evidence) -> _Map:
    weights = graph.weights(norm)

    def held(name: str) -> Values:
        key, _ = weights[name]
        return np.asarray(seen.weight(graph.nodes[key.node].label, key.slot), dtype=np.float64)

    node, variance = graph.nodes[norm], held(VARIANCE)
    if not bool((variance + node.attrs["eps"] > 0.0).all()):
        raise Decline(f"'{node.label}' divides by 0: a running variance of it is 0, and so is its eps")
    inverse = 1.0 / np.sqrt(variance + node.attrs["eps"])
    return _Map(inverse, inverse * held(WEIGHT) if WEIGHT in weights else inverse, held(MEAN))


def fold_into(draft: Draft, graph: Graph, norm: int, layer: int, seen: Evidence) -> None:
    """Remove a norm and let the layer before it (`layer_before`) do its work."""
    slots = graph.infer.slots[layer]
    kernel, bias = kernel_of(slots), bias_of(slots)
    assert kernel is not None

    def shift(weights: Evidence) -> Values:
        """gain * (b - mean)."""
        own = _map(graph, norm, weights)
        before = 0.0 if bias is None else weights.weight(graph.nodes[layer].label, bias)
        moved: Values = own.gain * (before - own.mean)
        return moved

    written = slots[kernel].axis("write")
    rows = _scaled(seen, lambda weights: _map(graph, norm, weights).gain)
    axes = [rows if number == written else None for number in range(len(slots[kernel].axes))]
    draft.source(layer, kernel, Take(Key(layer, kernel), tuple(axes)))
    if bias is None:
        draft.set_attrs(layer, bias=True)
    draft.source(layer, bias or BIAS, _shifted(draft, graph, norm, seen, shift))
    draft.rewire(Port(norm), graph.nodes[norm].inputs[0])
    draft.remove(norm)


def replace_by_affine(draft: Draft, graph: Graph, norm: int, seen: Evidence) -> None:
    """A scale and a shift per channel in the place of a norm, under its label."""
    node, weights = graph.nodes[norm], graph.weights(norm)
    made = draft.add("affine", node.inputs, node.label)

    def shift(weights: Evidence) -> Values:
        own = _map(graph, norm, weights)
        moved: Values = -own.gain * own.mean
        return moved

    source: Source
    if WEIGHT in weights:
        source = Take(weights[WEIGHT][0], (_scaled(seen, lambda weights: _map(graph, norm, weights).inverse),))
    else:
        source = _blob(draft, seen, lambda weights: _map(graph, norm, weights).gain)
    draft.source(made.node, WEIGHT, source)
    draft.source(made.node, BIAS, _shifted(draft, graph, norm, seen, shift))
    draft.rewire(Port(norm), made)
    draft.remove(norm)


Of: TypeAlias = Callable[[Evidence], Values]
"""Numbers by weights: those of the network, or the moving averages of them."""


def _scaled(seen: Evidence, gain: Of) -> AxisTake:
    values = gain(seen)
    averaged = None if seen.averaged is None else gain(seen.averaged)
    return AxisTake(np.arange(len(values)), values, averaged=averaged)


def _shifted(draft: Draft, graph: Graph, norm: int, seen: Evidence, shift: Of) -> Source:
    """The bias of a norm, if it has one, plus a shift."""
    weights, moved = graph.weights(norm), _blob(draft, seen, shift)
    return Take(weights[BIAS][0], (None,), shift=moved) if BIAS in weights else moved


def _blob(draft: Draft, seen: Evidence, of: Of) -> Blob:
    values = of(seen)
    return Blob(draft.blob(values), values.shape, None if seen.averaged is None else draft.blob(of(seen.averaged)))
