"""What removing units does to the function: nothing where they are silent; constants move into what reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nasir.errors import Decline
from nasir.ir.graph import Draft, Graph
from nasir.ir.node import Node
from nasir.ir.source import AxisTake, Blob, Key, Take
from nasir.ir.space import Atom, Index, atoms_of, positions
from nasir.ir.types import Port, Slot, ValueType, bias_of, kernel_of
from nasir.ops.constants import Known, Values
from nasir.pruning.constants import by_role, constants, is_even
from nasir.rewriting.evidence import Evidence

MEAN = "running_mean"
Removed = Mapping[Atom, Index]  # every unit of a space, -1 for those that go


@dataclass(frozen=True, slots=True)
class Fold:
    """`shift` is what the constants that `node` no longer reads added to each of its outputs.

    `home` is the array that takes it: the node's bias, else the mean that the norm behind subtracts; None where the
    node is to get a bias.
    """

    node: int
    shift: NDArray[np.float64]
    home: Key | None


def effects(graph: Graph, kept: Mapping[Atom, Index], seen: Evidence, folding: bool) -> tuple[bool, list[Fold]]:
    """(whether removing all but `kept` leaves the function as it is once the folds are done, the folds).

    Without `folding` constants other than zero are dropped; with it, Decline where one cannot be folded exactly.
    """
    removed: dict[Atom, Index] = {}
    for atom, index in kept.items():
        marked = np.full(atom.size, -1, dtype=np.int64)
        marked[index] = index
        removed[atom] = marked
    known = constants(graph, seen)
    exact = not any(atom.mixed for atom in removed)
    if all(values is None for values in known.values()):
        return False, []
    folds = []
    types, slots = graph.infer.types, graph.infer.slots
    for node_id in graph.order:
        node = graph.nodes[node_id]
        if node.facts.separates or not _reads(graph, node, removed):
            continue
        name = kernel_of(slots[node_id])
        if node.facts.family != "weighted" or name is None:
            exact = False
            continue
        if all(axis.role != "read" or isinstance(axis.space, int) for axis in slots[node_id][name].axes):
            continue  # depthwise: nothing is summed over channels
        value = types[node.inputs[0]]
        gone = positions(value.channels, removed)
        assert gone is not None
        constant = _at(known[node.inputs[0]], value, gone < 0)
        exact = exact and not bool(np.isnan(constant).any()) and (folding or not constant.any())
        if folding and bool((constant[~np.isnan(constant)] != 0.0).any()):
            shift = _shift(node, name, slots[node_id][name], constant, gone < 0, seen)
            folds.append(Fold(node_id, shift, _home(graph, node_id)))
    return exact, folds


def _reads(graph: Graph, node: Node, removed: Removed) -> bool:
    types = graph.infer.types
    return any(atom in removed for port in node.inputs for axis in types[port].axes for atom in atoms_of(axis))


def _at(known: Known, value: ValueType, where: NDArray[np.bool_]) -> Values:
    """What the channels `where` hold, channels first: [channels, ...], NaN where it varies."""
    if known is None:
        return np.full(int(where.sum()), np.nan)
    return np.moveaxis(known, value.channel_axis, 0)[where]


def _shift(node: Node, name: str, slot: Slot, constant: Values, where: NDArray[np.bool_], seen: Evidence) -> Values:
    """What the channels `where` add to each output; varying ones count as zero. Declines where places differ."""
    flat = constant.reshape(len(constant), -1)
    even = (flat == flat[:, :1]).all(axis=1)
    uneven = ~even & ~np.isnan(flat).any(axis=1)
    if uneven.any():
        unit = int(np.flatnonzero(where)[uneven][0])
        raise Decline(
            f"channel {unit} that '{node.label}' reads is constant, but another number at each place: no bias holds "
            "that; use `constants: drop`"
        )
    values = np.where(even, flat[:, 0], 0.0)
    if slot.is_convolution and values.any():
        if not is_even(node.facts, node.attrs, slot):
            first = int(np.flatnonzero(values)[0])
            unit = int(np.flatnonzero(where)[first])
            cut = node.facts.even is not None
            reason = "its zero padding cuts off at the borders" if cut else f"{node.op} may not carry on evenly"
            raise Decline(
                f"channel {unit} that '{node.label}' reads is constantly {values[first]:.3g}, "
                f"which {reason}: it cannot be folded exactly; use `constants: drop`"
            )
    weights = by_role(seen.weight(node.label, name).astype(np.float64), slot)
    if weights.shape[1] != len(where):
        raise Decline(f"'{node.label}' reads constant channels by a grouped convolution; use `constants: drop`")
    folded: Values = weights.reshape(*weights.shape[:2], -1).sum(axis=2)[:, where] @ values
    return folded


def _home(graph: Graph, node_id: int) -> Key | None:
    slots, users = graph.infer.slots, graph.users(node_id)
    bias = bias_of(slots[node_id])
    if bias is not None:
        return Key(node_id, bias)
    if len(users) == 1 and Port(node_id) not in graph.outputs:
        if graph.nodes[users[0]].facts.family == "norm" and MEAN in slots[users[0]]:
            return Key(users[0], MEAN)
    node = graph.nodes[node_id]
    if "bias" not in node.attrs:
        raise Decline(f"'{node.label}' reads constant channels and can have no bias; use `constants: drop`")
    return None


def apply(draft: Draft, folds: list[Fold], kept: Mapping[Atom, Index]) -> None:
    """Add each shift to the bias of its node, else to the statistics of the norm behind it, else to a new bias."""
    graph = draft.base
    assert graph is not None
    for fold in folds:
        index = positions(graph.infer.types[Port(fold.node)].channels, kept)
        if fold.home is None:
            draft.set_attrs(fold.node, bias=True)
            values = fold.shift if index is None else fold.shift[index]
            draft.source(fold.node, "bias", Blob(draft.blob(values), values.shape))
        else:
            _add(draft, fold.home, -fold.shift if fold.home.slot == MEAN else fold.shift, index)


def _add(draft: Draft, key: Key, shift: NDArray[np.float64], index: Index | None) -> None:
    """Take an array along the units that stay, shifted: its optimizer state and its average follow."""
    values = shift if index is None else shift[index]
    axis = None if index is None else AxisTake(index)
    draft.source(*key, Take(key, (axis,), shift=Blob(draft.blob(values), values.shape)))
