"""What a network costs as a function of its widths, and MorphNet's penalty on them (Gordon et al. 2018, section 3).

A network's cost is a sum of products of the sizes of its spaces. Here those products are written out, so that the
sizes may be counts of units that are still alive, and each product is differentiated by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from nasir.ir.cost import BYTES
from nasir.ir.graph import Graph
from nasir.ir.op import op_named
from nasir.ir.space import Atom, Axis, Cat, Prod, resolve, size_of
from nasir.ir.types import Port, Slot, kernel_of

Resource = Literal["flops", "params", "activations", "memory"]
Factors: TypeAlias = tuple[Atom, ...]
Count: TypeAlias = dict[Factors, float]
"""A sum of products: coefficient by the spaces whose alive counts are multiplied."""
Slope: TypeAlias = dict[tuple[Atom, Factors], float]
"""A sum of R[space] * product of alive counts, where R is the sum of a space's regularization values."""
Fixed: TypeAlias = Callable[[Atom], bool]


@dataclass(frozen=True, slots=True)
class Term:
    """One resource of one node: its cost and MorphNet's penalty on it."""

    cost: Count
    penalty: Slope


def count(axis: Axis, fixed: Fixed) -> Count:
    """How many positions of an axis are alive; spaces that are `fixed` count whole."""
    whole = resolve(axis)
    if isinstance(whole, int):
        return {(): float(whole)}
    if isinstance(whole, Atom):
        return {(): float(whole.size)} if fixed(whole) else {(whole,): 1.0}
    parts = [count(part, fixed) for part in whole.parts]
    return added(*parts) if isinstance(whole, Cat) else multiplied(*parts)


def slope(axis: Axis, fixed: Fixed) -> Slope:
    """The sum of the regularization values along an axis; in a product each factor in turn, the others counted."""
    whole = resolve(axis)
    if isinstance(whole, int) or (isinstance(whole, Atom) and fixed(whole)):
        return {}
    if isinstance(whole, Atom):
        return {(whole, ()): 1.0}
    if isinstance(whole, Cat):
        return joined(*[slope(part, fixed) for part in whole.parts])
    counts = [count(part, fixed) for part in whole.parts]
    return joined(
        *[
            scaled(slope(part, fixed), multiplied(*counts[:number], *counts[number + 1 :]))
            for number, part in enumerate(whole.parts)
        ]
    )


def added(*counts: Count) -> Count:
    """The sum."""
    total: Count = {}
    for term in counts:
        for factors, value in term.items():
            total[factors] = total.get(factors, 0.0) + value
    return total


def multiplied(*counts: Count) -> Count:
    """The product; 1 of none."""
    total: Count = {(): 1.0}
    for factor in counts:
        product: Count = {}
        for left, a in total.items():
            for right, b in factor.items():
                key = _ordered(left + right)
                product[key] = product.get(key, 0.0) + a * b
        total = product
    return total


def joined(*slopes: Slope) -> Slope:
    """The sum."""
    total: Slope = {}
    for term in slopes:
        for key, value in term.items():
            total[key] = total.get(key, 0.0) + value
    return total


def scaled(term: Slope, by: Count) -> Slope:
    """The product of a slope and a count."""
    total: Slope = {}
    for (target, left), a in term.items():
        for right, b in by.items():
            key = (target, _ordered(left + right))
            total[key] = total.get(key, 0.0) + a * b
    return total


def _ordered(factors: Factors) -> Factors:
    return tuple(sorted(factors, key=id)) if len(factors) > 1 else factors


def _times(value: float) -> Count:
    return {(): float(value)}


def alive_params(graph: Graph, fixed: Fixed) -> Count:
    """All trainable numbers of the network."""
    slots = [slot for slots in graph.infer.slots.values() for slot in slots.values() if slot.kind == "param"]
    return added(*[multiplied(*[count(space, fixed) for space, _ in slot.axes]) for slot in slots])


def alive_macs(graph: Graph, fixed: Fixed) -> Count:
    """Multiply-accumulates of the network, of all ops that count them."""
    return added(*[multiplied(_times(0.5), term.cost) for term in resource_terms(graph, "flops", fixed).values()])


def resource_terms(graph: Graph, resource: Resource, fixed: Fixed, batch: int = 1) -> Mapping[int, Term]:
    """Cost and penalty by node id, of the nodes that count multiply-accumulates: convolution, linear, attention.

    flops        2 * height * width * kernel size for each pair of an input and an output channel
    params       kernel size for each pair
    activations  1 for each output channel
    memory       bytes of the input and the output of `batch` samples, and of the weights (float32)

    latency is the larger of flops and memory in a device's time, which depends on the widths: it has no term here.
    """
    make = {"flops": _flops, "params": _params, "activations": _activations, "memory": _memory}[resource]
    idle = frozenset() if resource == "params" else graph.idle  # all but weights is of evaluation
    nodes = [node_id for node_id in graph.order if op_named(graph.nodes[node_id].op).macs is not None]
    return {node_id: make(graph, node_id, fixed, batch) for node_id in nodes if node_id not in idle}


def _flops(graph: Graph, node_id: int, fixed: Fixed, batch: int) -> Term:
    node, types = graph.nodes[node_id], graph.infer.types
    slot = _kernel({name: slot for name, (_, slot) in graph.weights(node_id).items()})
    macs = graph.costs[node_id].macs
    if slot is None:  # attention: q k^T and the product with v take equally much for each channel in and out
        axes = (types[node.inputs[0]].channels, types[Port(node_id)].channels)
        each = _times(2.0 * batch * macs / sum(map(size_of, axes)))
        return Term(
            multiplied(each, added(*[count(axis, fixed) for axis in axes])),
            scaled(joined(*[slope(axis, fixed) for axis in axes]), each),
        )
    return _bilinear(graph, node_id, slot, fixed, 2.0 * batch * macs / slot.size)


def _params(graph: Graph, node_id: int, fixed: Fixed, batch: int) -> Term:
    slot = _kernel(graph.infer.slots[node_id])
    return Term({}, {}) if slot is None else _bilinear(graph, node_id, slot, fixed, 1.0)


def _activations(graph: Graph, node_id: int, fixed: Fixed, batch: int) -> Term:
    channels = graph.infer.types[Port(node_id)].channels
    return Term(count(channels, fixed), slope(channels, fixed))


def _memory(graph: Graph, node_id: int, fixed: Fixed, batch: int) -> Term:
    weights = _params(graph, node_id, fixed, batch)
    costs, slopes = [multiplied(_times(BYTES), weights.cost)], [scaled(weights.penalty, _times(BYTES))]
    for port in (*graph.nodes[node_id].inputs, Port(node_id)):
        value = graph.infer.types[port]
        each = _times(batch * value.bytes / size_of(value.channels))
        costs.append(multiplied(each, count(value.channels, fixed)))
        slopes.append(scaled(slope(value.channels, fixed), each))
    return Term(added(*costs), joined(*slopes))


def _bilinear(graph: Graph, node_id: int, slot: Slot, fixed: Fixed, each: float) -> Term:
    """each * a_in * a_out, and each * (a_in * R_out + a_out * R_in), a_in and a_out those of one group."""
    written, others = slot.sides
    read = multiplied(*[count(axis, fixed) for axis in others])
    inputs = graph.infer.types[graph.nodes[node_id].inputs[0]].channels
    fixed_part = multiplied(_times(each), *[count(axis, fixed) for axis in others if isinstance(axis, int)])
    return Term(
        multiplied(_times(each), count(written, fixed), read),
        joined(
            scaled(slope(written, fixed), multiplied(_times(each), read)),
            scaled(slope(inputs, fixed), multiplied(fixed_part, _of_one_group(graph, node_id, written, fixed))),
        ),
    )


def _kernel(slots: Mapping[str, Slot]) -> Slot | None:
    name = kernel_of(slots)
    return None if name is None else slots[name]


def _of_one_group(graph: Graph, node_id: int, written: Axis, fixed: Fixed) -> Count:
    """Output channels that one input channel is read by: all, or those of its group."""
    node, types = graph.nodes[node_id], graph.infer.types
    groups = node.attrs.get("groups", 1)
    if groups == 1:
        return count(written, fixed)
    if groups == types[node.inputs[0]].shape[0] == types[Port(node_id)].shape[0]:
        return _times(1)
    if not isinstance(written, Prod):  # the rule of convolutions makes it one: groups, then the outputs of one
        return multiplied(_times(1 / groups), count(written, fixed))
    return multiplied(*[count(part, fixed) for part in written.parts[1:]])
