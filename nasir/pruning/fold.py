"""What removing units does to the function: nothing where they are silent; constants move into what reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

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
    node is to get a bias. `averaged`: the shift in the network of averaged weights, if there is one.
    """

    node: int
    shift: NDArray[np.float64]
    home: Key | None
    averaged: NDArray[np.float64] | None = None


def effects(graph: Graph, kept: Mapping[Atom, Index], seen: Evidence, folding: bool) -> tuple[bool, list[Fold]]:
    """(whether removing all but `kept` leaves the function as it is once the folds are done, the folds).

    Without `folding` constants other than zero are dropped; with it, Decline where one cannot be folded exactly. Where
    there is a moving average of the weights, the network that it makes has to stay as it is too, by shifts of its own.
    """
    exact, folds = _effects(graph, kept, seen, seen, folding)
    if seen.averaged is None:
        return exact, folds
    silenced = _Silenced(seen, seen.averaged)
    try:
        alike, others = _effects(graph, kept, Evidence({"weights": silenced}), seen.averaged, folding)
    except Decline as refusal:
        raise Decline(f"in the network of averaged weights, {refusal}") from None
    return exact and alike and not silenced.altered, _both(folds, others)


def _both(folds: list[Fold], averaged: list[Fold]) -> list[Fold]:
    """The folds of a network with those of its averaged weights; a shift that one of them lacks is 0 there."""
    own, other = ({fold.node: fold for fold in each} for each in (folds, averaged))
    both = []
    for node, fold in {**own, **other}.items():
        nothing = np.zeros_like(fold.shift)
        shift, average = (each[node].shift if node in each else nothing for each in (own, other))
        both.append(Fold(node, shift, fold.home, average))
    return both


class _Silenced(Mapping[str, NDArray[Any]]):
    """Averaged weights, zero where the weights are: what training has silenced for good fades in the average only.

    `altered`: whether one that was read was not zero there.
    """

    def __init__(self, seen: Evidence, averaged: Evidence) -> None:
        self._own, self._averaged = (each.measured["weights"] for each in (seen, averaged))
        self.altered = False

    def __getitem__(self, name: str) -> NDArray[Any]:
        silent, values = self._own[name] == 0.0, self._averaged[name]
        if not bool(values[silent].any()):
            return values
        self.altered = True
        return np.where(silent, 0.0, values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._averaged)

    def __len__(self) -> int:
        return len(self._averaged)


def _effects(
    graph: Graph, kept: Mapping[Atom, Index], told: Evidence, seen: Evidence, folding: bool
) -> tuple[bool, list[Fold]]:
    """`effects` on one network: the weights of `told` tell what is constant, those of `seen` read it."""
    removed: dict[Atom, Index] = {}
    for atom, index in kept.items():
        marked = np.full(atom.size, -1, dtype=np.int64)
        marked[index] = index
        removed[atom] = marked
    known = constants(graph, told)
    exact = not any(atom.mixed for atom in removed)
    if all(values is None for values in known.values()):
        return False, []
    folds = []
    types = graph.infer.types
    for node_id in graph.order:
        node = graph.nodes[node_id]
        if node.facts.separates or not _reads(graph, node, removed):
            continue
        weights = graph.weights(node_id)
        name = kernel_of({name: slot for name, (_, slot) in weights.items()})
        if node.facts.family != "weighted" or name is None:
            exact = False
            continue
        key, kernel = weights[name]
        if all(axis.role != "read" or isinstance(axis.space, int) for axis in kernel.axes):
            continue  # depthwise: nothing is summed over channels
        value = types[node.inputs[0]]
        gone = positions(value.channels, removed)
        if gone is None:
            continue  # what goes are places beside the channels, each computed for itself
        constant = _at(known[node.inputs[0]], value, gone < 0)
        exact = exact and not bool(np.isnan(constant).any()) and (folding or not constant.any())
        if folding and bool((constant[~np.isnan(constant)] != 0.0).any()):
            shift = _shift(node, kernel, seen.weight(graph.nodes[key.node].label, key.slot), constant, gone < 0)
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


def _shift(node: Node, slot: Slot, kernel: NDArray[Any], constant: Values, where: NDArray[np.bool_]) -> Values:
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
    weights = by_role(kernel.astype(np.float64), slot)
    if weights.shape[1] != len(where) or slot.groups != 1:
        raise Decline(f"'{node.label}' reads constant channels by a grouped convolution; use `constants: drop`")
    folded: Values = weights.reshape(*weights.shape[:2], -1).sum(axis=2)[:, where] @ values
    return folded


def _home(graph: Graph, node_id: int) -> Key | None:
    weights, users = graph.weights(node_id), graph.users(node_id)
    bias = bias_of({name: slot for name, (_, slot) in weights.items()})
    node = graph.nodes[node_id]
    if bias is not None:
        return _own(graph, weights[bias][0], node_id)
    if len(users) == 1 and Port(node_id) not in graph.outputs:
        behind = graph.weights(users[0])
        if graph.nodes[users[0]].facts.family == "norm" and MEAN in behind:
            return _own(graph, behind[MEAN][0], node_id)
    if "bias" not in node.attrs:
        raise Decline(f"'{node.label}' reads constant channels and can have no bias; use `constants: drop`")
    return None


def _own(graph: Graph, home: Key, reader: int) -> Key:
    """`home`, where no other node uses it; Decline otherwise, since the shift is that of one reader only."""
    if home in graph.shared:
        other = graph.nodes[graph.shared[home][0].node].label
        raise Decline(
            f"'{graph.nodes[reader].label}' reads constant channels, and '{graph.nodes[home.node].label}.{home.slot}', "
            f"which would take them, is shared with '{other}'; use `constants: drop`"
        )
    return home


def apply(draft: Draft, folds: list[Fold], kept: Mapping[Atom, Index]) -> None:
    """Add each shift to the bias of its node, else to the statistics of the norm behind it, else to a new bias."""
    graph = draft.base
    assert graph is not None
    for fold in folds:
        index = positions(graph.infer.types[Port(fold.node)].channels, kept)
        if fold.home is None:
            draft.set_attrs(fold.node, bias=True)
            draft.source(fold.node, "bias", _blob(draft, fold, index))
        else:  # the array along the units that stay, shifted: its optimizer state follows
            axis = None if index is None else AxisTake(index)
            draft.source(*fold.home, Take(fold.home, (axis,), shift=_blob(draft, fold, index)))


def _blob(draft: Draft, fold: Fold, index: Index | None) -> Blob:
    """What is added for the units that stay, to weights and to their averages."""
    sign = -1.0 if fold.home is not None and fold.home.slot == MEAN else 1.0
    shift, averaged = (
        None if values is None else sign * (values if index is None else values[index])
        for values in (fold.shift, fold.averaged)
    )
    assert shift is not None
    return Blob(draft.blob(shift), shift.shape, None if averaged is None else draft.blob(averaged))
