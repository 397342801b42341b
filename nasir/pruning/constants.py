"""Which parts of every value are constant in evaluation mode, whatever the input: constant propagation.

A channel is constant when it holds the same number for every sample: behind a norm whose scale is zero,
behind weights that are all zero, and behind whatever maps constants to constants. Units that put out constant zero
can be removed exactly, others that are constant can be folded into what reads them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasir.ir.graph import Graph
from nasir.ir.op import OpDef
from nasir.ir.types import Port, Slot, bias_of, gain_of, kernel_of
from nasir.ops.constants import Known, NodeView, Values, concatenated, even, filled, lifted, zeros_only
from nasir.rewriting.evidence import Evidence


def constants(graph: Graph, seen: Evidence) -> dict[Port, Known]:
    """What is constant of every value, by the weights in `seen`."""
    known: dict[Port, Known] = {}
    for node_id in graph.order:
        node = graph.nodes[node_id]
        facts = node.facts
        result = propagated(facts, NodeView(graph, node_id, seen.weight), [known[port] for port in node.inputs])
        if not facts.several:
            known[Port(node_id)] = result  # type: ignore[assignment]
            continue
        number = 0
        while Port(node_id, number) in graph.infer.types:  # of several outputs without a rule all vary
            known[Port(node_id, number)] = result[number] if isinstance(result, tuple) else None
            number += 1
    return known


def propagated(facts: OpDef, node: NodeView, known: list[Known]) -> Known | tuple[Known, ...]:
    """What is constant of the outputs of one node, given what is of its inputs; a tuple for several outputs."""
    if facts.constant is not None:
        return facts.constant(node, *known)  # type: ignore[no-any-return]
    if facts.family == "norm":
        return _norm(node)
    if facts.family == "weighted":
        return _product(facts, node, known[0])
    if not known or (known[0] is None and (len(known) == 1 or all(part is None for part in known))):
        return None
    if facts.pointwise is not None:
        return _each(facts, node, known)
    if facts.unifies or facts.family == "concat":
        return _merged(facts, node, known)
    return None


def _merged(facts: OpDef, node: NodeView, known: list[Known]) -> Known:
    """Sums, means and products of several inputs, and inputs one after another."""
    parts = _filled(node, known)
    if facts.adds:
        total: Values = sum(parts[1:], start=parts[0])
        return total / len(parts) if facts.family == "mean" else total
    if facts.family == "product":
        product, zero = parts[0], parts[0] == 0.0
        for part in parts[1:]:
            product, zero = product * part, zero | (part == 0.0)
        return np.where(zero, 0.0, product)
    return concatenated(known, node.inputs, node.out.channel_axis)


def _filled(node: NodeView, known: list[Known]) -> list[Values]:
    """What is known of each input, NaN where that is nothing."""
    parts = [filled(part, value) for part, value in zip(known, node.inputs, strict=True)]
    # the first axis of a weight may be in the place of the batch
    return [part[0] if part.ndim > len(node.out.axes) else part for part in parts]


def _norm(node: NodeView) -> Known:
    """A norm puts out its shift where its scale is zero."""
    gain, bias = gain_of(node.slots), bias_of(node.slots)
    if gain is None:
        return None
    silent = node.weight(gain) == 0.0
    if silent.ndim != 1 or not silent.any():
        return None
    shift = np.zeros(len(silent)) if bias is None else node.weight(bias)
    return lifted(np.where(silent, shift, np.nan), node.out)


def _product(facts: OpDef, node: NodeView, known: Known) -> Known:
    """A convolution or linear layer: units whose weights are all zero put out their bias."""
    slots = node.slots
    name = kernel_of(slots)
    if name is None:
        return None
    slot = slots[name]
    rows = by_role(node.weight(name), slot)
    first: Any = (slice(None), *[0] * (rows.ndim - 1))
    silent = rows[first] == 0.0
    depthwise = known is not None and rows.shape[1] == 1 and 1 < node.attrs.get("groups", 1) == _channels(node)
    if not silent.any() and not depthwise:
        return None
    if len(rows) != node.out.shape[node.out.channel_axis]:
        return None  # a kernel whose outputs are not the channels
    rows = rows.reshape(len(rows), -1)
    if silent.any():
        silent[silent] = ~rows[silent].any(axis=1)
    bias = bias_of(slots)
    shift = np.asarray(np.zeros(len(rows)) if bias is None else node.weight(bias), dtype=np.float64)
    values = np.full(len(rows), np.nan)
    if depthwise and known is not None:
        alike = even(known, node.inputs[0])
        each = (alike if is_even(facts, node.attrs, slot) else zeros_only(alike)).reshape(-1)
        values = np.repeat(each, len(rows) // _channels(node)) * rows.sum(axis=1, dtype=np.float64) + shift
    return lifted(np.where(silent, shift, values), node.out)


def _channels(node: NodeView) -> int:
    """Channels of the (first) input."""
    value = node.inputs[0]
    return value.shape[value.channel_axis]


def by_role(weights: NDArray[Any], slot: Slot) -> NDArray[Any]:
    """A kernel as [written, read, ...]."""
    if slot.axes[0].role == "write" and slot.axes[1].role == "read":
        return weights
    return np.moveaxis(weights, (slot.axis("write"), slot.axis("read")), (0, 1))


def is_even(facts: OpDef, attrs: Any, slot: Slot) -> bool:
    """Whether channels that hold one number all over give such channels; without a window they do."""
    return facts.even(attrs) if facts.even is not None else not slot.is_convolution


def _each(facts: OpDef, node: NodeView, known: list[Known]) -> Known:
    """A pointwise function of what is constant; what it gives no finite number for is not."""
    assert facts.pointwise is not None
    parts = np.broadcast_arrays(*_filled(node, known))
    where = ~np.isnan(parts).any(axis=0)
    result = np.full(where.shape, np.nan)
    values = facts.pointwise(*[part[where] for part in parts], **node.attrs)
    result[where] = np.where(np.isfinite(values), values, np.nan)
    return result
