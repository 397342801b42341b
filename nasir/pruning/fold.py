"""What removing units does to the function: nothing where they are silent; constants move into what reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nasir.errors import Decline
from nasir.evidence import Evidence
from nasir.ir.draft import Draft
from nasir.ir.graph import Graph, Node
from nasir.ir.op import pair
from nasir.ir.space import Atom, Index, atoms_of, positions
from nasir.ir.types import Port, ValueType
from nasir.pruning.constants import CHANNELWISE, Known, Values, constants
from nasir.transfer.source import AxisTake, Blob, Key, Take

Removed = Mapping[Atom, Index]  # every unit of a space, -1 for those that go


@dataclass(frozen=True, slots=True)
class Fold:
    """`shift` is what the constants that `node` no longer reads added to each of its outputs."""

    node: int
    shift: NDArray[np.float64]


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
        if node.op in CHANNELWISE or not _reads(graph, node, removed):
            continue
        if node.op not in ("conv2d", "linear"):
            exact = exact and node.op == "self_attention" and not _narrowed(graph, node_id, removed)
            continue
        if all(axis.role != "read" or isinstance(axis.space, int) for axis in slots[node_id]["weight"].axes):
            continue  # depthwise: nothing is summed over channels
        value = types[node.inputs[0]]
        gone = positions(value.channels, removed)
        assert gone is not None
        constant = _at(known[node.inputs[0]], value, gone < 0)
        exact = exact and not bool(np.isnan(constant).any()) and (folding or not constant.any())
        if folding and bool((constant[~np.isnan(constant)] != 0.0).any()):
            folds.append(Fold(node_id, _shift(node, constant, gone < 0, seen)))
    return exact, folds


def _reads(graph: Graph, node: Node, removed: Removed) -> bool:
    types = graph.infer.types
    return any(atom in removed for port in node.inputs for axis in types[port].axes for atom in atoms_of(axis))


def _narrowed(graph: Graph, node_id: int, removed: Removed) -> bool:
    """Whether channels of queries and keys go that a head which stays reads: the products then change."""
    dims = graph.infer.mirrors[node_id]["head_dim", None]
    return any(atom in removed for atom in atoms_of(dims))


def _at(known: Known, value: ValueType, where: NDArray[np.bool_]) -> Values:
    """What the channels `where` hold, channels first: [channels, ...], NaN where it varies."""
    if known is None:
        return np.full(int(where.sum()), np.nan)
    return np.moveaxis(known, value.channel_axis, 0)[where]


def _shift(node: Node, constant: Values, where: NDArray[np.bool_], seen: Evidence) -> Values:
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
    if node.op == "conv2d" and values.any():
        if max(pair(node.attrs["padding"])) > 0:
            first = int(np.flatnonzero(values)[0])
            unit = int(np.flatnonzero(where)[first])
            raise Decline(
                f"channel {unit} that '{node.label}' reads is constantly {values[first]:.3g}, "
                "which its zero padding cuts off at the borders: it cannot be folded exactly; use `constants: drop`"
            )
        if node.attrs["groups"] > 1:
            raise Decline(f"'{node.label}' reads constant channels by a grouped convolution; use `constants: drop`")
    weights = seen.weight(node.label, "weight").astype(np.float64)
    folded: Values = weights.reshape(*weights.shape[:2], -1).sum(axis=2)[:, where] @ values
    return folded


def apply(draft: Draft, folds: list[Fold], kept: Mapping[Atom, Index]) -> None:
    """Add each shift to the bias of its node, else to the statistics of the norm behind it, else to a new bias."""
    graph = draft.base
    assert graph is not None
    for fold in folds:
        node = graph.nodes[fold.node]
        index = positions(graph.infer.types[Port(fold.node)].channels, kept)
        users = graph.users(fold.node)
        norm = graph.nodes[users[0]] if len(users) == 1 else None
        if node.attrs["bias"]:
            _add(draft, Key(fold.node, "bias"), fold.shift, index)
        elif norm is not None and norm.op == "batch_norm" and Port(fold.node) not in graph.outputs:
            _add(draft, Key(users[0], "running_mean"), -fold.shift, index)
        else:
            draft.set_attrs(fold.node, bias=True)
            values = fold.shift if index is None else fold.shift[index]
            draft.source(fold.node, "bias", Blob(draft.blob(values), values.shape))


def _add(draft: Draft, key: Key, shift: NDArray[np.float64], index: Index | None) -> None:
    """Take an array along the units that stay, shifted: its optimizer state and its average follow."""
    values = shift if index is None else shift[index]
    axis = None if index is None else AxisTake(index)
    draft.source(*key, Take(key, (axis,), shift=Blob(draft.blob(values), values.shape)))
