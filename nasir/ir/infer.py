"""Type inference: one pass over the nodes in topological order, an op's rule at each."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import NoReturn

from nasir.errors import TypeRuleError
from nasir.ir.node import Node
from nasir.ir.op import OpDef, loaded, op_named
from nasir.ir.space import Atom, Axis, Space, atoms_of, mix, pin, size_of
from nasir.ir.ties import NO_TIES, Borrowed, Ties, share
from nasir.ir.types import FLOAT, JSON, DType, Fill, Kind, Port, Role, Slot, SlotAxis, ValueType, usual_channel_axis
from nasir.ir.unify import SpaceMismatch, unify

MOST_UNITS = 2**24
"""Units of a space: no width is larger."""
MOST_ENTRIES = 2**36
"""Entries of a weight, or of a value for one sample: 256 GiB of float32."""

_new = tuple.__new__  # what a NamedTuple's constructor calls; called directly because thousands are made
Mirror = tuple[str, int | None]  # an attribute, or one entry of a list attribute


class Typing:
    """What inference found: value types, weight slots, attribute mirrors and the resizable spaces."""

    __slots__ = ("atoms", "borrowed", "mirrors", "slots", "spaces", "types")

    def __init__(self) -> None:
        self.types: dict[Port, ValueType] = {}
        self.slots: dict[int, dict[str, Slot]] = {}  # of every node, the arrays that it owns
        # arrays of other nodes that a node uses as its own: (the owner, what the node's op says of the array)
        self.borrowed: dict[int, dict[str, Borrowed]] = {}
        # attributes that repeat the size of a space: resizing rewrites them
        self.mirrors: dict[int, dict[Mirror, Axis]] = {}
        self.atoms: list[Atom] = []
        self.spaces: tuple[Atom, ...] = ()  # the atoms left after unification, in order of first writer


def mirrored(attrs: Mapping[str, JSON], mirrors: Mapping[Mirror, Axis], size: Callable[[Axis], int]) -> dict[str, JSON]:
    """The attributes of a node with the sizes they repeat (`Typing.mirrors`) as `size` gives them."""
    new = dict(attrs)
    for (name, entry), axis in mirrors.items():
        new[name] = size(axis) if entry is None else (*new[name][:entry], size(axis), *new[name][entry + 1 :])
    return new


class At:
    """What a rule sees of its place: fresh spaces, unification, slots, and errors that name the node."""

    __slots__ = ("label", "largest", "node", "node_id", "nodes", "slots", "typing")

    def __init__(self, nodes: Mapping[int, Node], typing: Typing) -> None:
        self.nodes = nodes
        self.typing = typing
        self.node_id = -1
        self.node: Node
        self.label = ""
        self.slots: dict[str, Slot] = {}
        self.largest = 0  # entries of the largest weight of several axes

    def fresh(self, size: int, mirror: str | None = None, entry: int | None = None) -> Atom:
        """A new set of `size` units; `mirror` names the attribute (and its `entry`) that repeats the size."""
        if not 1 <= size <= MOST_UNITS:
            self.fail(
                f"{mirror or 'a size'} must be {'at least 1' if size < 1 else f'at most {MOST_UNITS}'}, not {size}"
            )
        atom = Atom(size, self.node_id)
        self.typing.atoms.append(atom)
        if mirror is not None:
            self.mirror(mirror, atom, entry)
        return atom

    def fixed(self, axis: Axis) -> Space:
        """An axis as a space: of an axis of fixed size, units that cannot be resized."""
        if not isinstance(axis, int):
            return axis
        atom = self.fresh(axis)
        atom.pin = f"{self.node.op} '{self.label}' is given it with a fixed size"
        return atom

    def mirror(self, attr: str, space: Axis, entry: int | None = None) -> None:
        """Say that an attribute repeats the size of `space`."""
        self.typing.mirrors.setdefault(self.node_id, {})[attr, entry] = space

    def same(self, left: Axis, right: Axis, what: str, inputs: tuple[int, int] = (0, 1)) -> None:
        """Unify two axes; the error names axis, sizes and the inputs they came from."""
        try:
            unify(left, right, f"{self.node.op} '{self.label}'")
        except SpaceMismatch:
            a, b = inputs
            self.fail(
                f"inputs differ on {what}: {size_of(left)} (from {self.source(a, left)}) and "
                f"{size_of(right)} (from {self.source(b, right)})"
            )

    def source(self, index: int, axis: Axis) -> str:
        """Where a size came from: the input node, and the node that first wrote the space."""
        label = self.nodes[self.node.inputs[index].node].label
        writers = {self.nodes[atom.source].label for atom in atoms_of(axis)} - {label}
        return f"'{label}'" + (f", written by '{min(writers)}'" if writers else "")

    def slot(
        self,
        name: str,
        axes: tuple[tuple[Axis, Role], ...],
        init: Fill,
        kind: str = "param",
        tags: frozenset[str] = frozenset(),
        dtype: DType = "float32",
        stored: bool = True,
        groups: Axis = 1,
    ) -> None:
        """Declare a weight array of this node; see `Slot`."""
        along = tuple([axis if axis.__class__ is SlotAxis else _new(SlotAxis, axis) for axis in axes])
        slot: Slot = _new(Slot, (along, init, kind, tags, dtype, stored, groups))
        self.slots[name] = slot
        if len(along) > 1 and (size := slot.size) > self.largest:  # a single axis has at most MOST_UNITS entries
            self.largest = size

    def slots_along(self, space: Axis, slots: Iterable[tuple[str, Fill, Kind, frozenset[str]]]) -> None:
        """Declare several float arrays with one entry per unit of `space`: (name, init, kind, tags) each."""
        axes = (_new(SlotAxis, (space, "along")),)
        for name, init, kind, tags in slots:
            self.slots[name] = _new(Slot, (axes, init, kind, tags, FLOAT, True, 1))

    def mix(self, axis: Axis) -> None:
        """Say that what comes out of one unit depends on all units of the axis: resizing it is never exact."""
        mix(axis, self.label)

    def image(self, x: ValueType) -> tuple[Axis, int, int]:
        """(C, H, W) of an input, or a TypeRuleError."""
        if not x.is_image:
            source = self.source(0, x.channels)
            self.fail(f"needs an image (channels, height, width), got {self.shape(x)} from {source}")
        if x.axes[1].__class__ is not int or x.axes[2].__class__ is not int:
            self.places(x, (1, 2), "the places of an image")
        return x.axes[0], x.shape[1], x.shape[2]

    def tokens(self, x: ValueType) -> tuple[int, Axis]:
        """(T, C) of an input, or a TypeRuleError."""
        if not x.is_sequence:
            self.fail(f"needs tokens (tokens, channels), got {self.shape(x)} from {self.source(0, x.channels)}")
        self.places(x, (0,), "a sequence")
        return x.shape[0], x.axes[1]

    def places(self, x: ValueType, numbers: Iterable[int], what: str) -> None:
        """Pin what were channels once and have become places, as `what` says, by a reshape or another order of axes."""
        for number in numbers:
            pin(x.axes[number], f"{self.node.op} '{self.label}' takes it for {what}")

    @staticmethod
    def shape(x: ValueType) -> str:
        """Shape of a value for messages, and which axis holds its channels where that is not the usual one."""
        unusual = x.channel_axis != usual_channel_axis(len(x.axes))
        return f"shape {x.shape}" + (f" with channels on axis {x.channel_axis + 1}" if unusual else "")

    def fail(self, message: str) -> NoReturn:
        raise TypeRuleError(f"{self.node.op} '{self.label}': {message}")


@contextmanager
def collector_paused() -> Iterator[None]:
    """No cyclic garbage collection inside: bulk construction makes no garbage, yet triggers it again and again.

    Without this, more than half of the time on a graph of 10,000 nodes goes to collections that find nothing.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def infer(nodes: Mapping[int, Node], order: Iterable[int], outputs: Iterable[Port], ties: Ties = NO_TIES) -> Typing:
    """Types, slots and spaces of a whole graph; raises TypeRuleError at the first op that refuses.

    `order`: all of `nodes`, each behind those that it reads.
    """
    typing = Typing()
    with collector_paused():
        infer_nodes(nodes, typing, order)
        typing.borrowed = share(nodes, typing.slots, ties)
        _finish(nodes, outputs, typing)
    return typing


def infer_nodes(nodes: Mapping[int, Node], typing: Typing, order: Iterable[int]) -> None:
    """Apply the rules of the nodes in `order`, whose inputs are typed or come earlier in it."""
    at = At(nodes, typing)
    types, known = typing.types, loaded
    for node_id in order:
        node = nodes[node_id]
        definition = known.get(node.op) or op_named(node.op)
        at.node_id, at.node, at.label = node_id, node, node.label
        at.slots = typing.slots[node_id] = {}
        at.largest = 0
        ports = node.inputs
        try:  # most nodes have one input
            inputs = [types[ports[0]]] if len(ports) == 1 else [types[port] for port in ports]
        except KeyError as missing:
            at.fail(f"input {missing} is no output of that node; use an existing one")
        low, high = definition.arity
        if len(inputs) != low and (len(inputs) < low or (high is not None and len(inputs) > high)):
            at.fail(f"takes {low if high == low else f'{low} or more'} inputs, got {len(inputs)}")
        rows = 1
        for value in inputs:
            if not value.plain:
                rows = _unusual_rows(at, definition, inputs)
                break
        result = definition.rule(at, *inputs, **node.attrs)
        if rows != 1:
            for value in (result,) if isinstance(result, ValueType) else result:
                if value.batch != rows:
                    told = f"{rows} rows for each sample" if rows else "no batch axis"
                    at.fail(f"its input has {told}, its output has not; make the output's type by `x.over(axes)`")
        if isinstance(result, ValueType):
            types[_new(Port, (node_id, 0))] = result
            largest = 0 if inputs and result is inputs[0] else prod(result.shape)
        else:
            largest = 0
            for output, value in enumerate(result):
                types[_new(Port, (node_id, output))] = value
                largest = max(largest, prod(value.shape))
        if largest > MOST_ENTRIES or at.largest > MOST_ENTRIES:
            most = max(largest, at.largest)
            at.fail(f"a weight or a value of {most} entries; at most {MOST_ENTRIES} fit")
        if definition.mixes:
            at.mix(inputs[0].channels)


def _unusual_rows(at: At, definition: OpDef, inputs: Sequence[ValueType]) -> int:
    """Rows for each sample that an op puts out; TypeRuleError where it does not take what one of its inputs is."""
    rows = {value.batch for value in inputs} - {0}
    anything = "rows" in definition.takes
    if len(rows) > 1 and not anything:
        least, *_, most = sorted(rows)
        at.fail(f"its inputs have {least} and {most} rows for each sample; bring the same number to it")
    for index, value in enumerate(inputs):
        if value.dtype != FLOAT and "integers" not in definition.takes:
            at.fail(f"needs floating-point numbers, got {value.dtype} from {at.source(index, value.channels)}")
        if not value.batch and "unbatched" not in definition.takes:
            at.fail(
                f"needs a value of each sample; what '{at.nodes[at.node.inputs[index].node].label}' gives is the same "
                "for all of them"
            )
    return 1 if anything else max(rows, default=0)


def untyped(nodes: Mapping[int, Node], typing: Typing, port: Port) -> list[int]:
    """The nodes that `port` depends on and that have no type yet, inputs first."""
    order: dict[int, None] = {}
    stack = [port.node]
    while stack:
        node_id = stack[-1]
        missing = [p.node for p in nodes[node_id].inputs if p not in typing.types and p.node not in order]
        if missing:
            stack.extend(missing)
        else:
            stack.pop()
            order[node_id] = None
    return list(order)


def _finish(nodes: Mapping[int, Node], outputs: Iterable[Port], typing: Typing) -> None:
    for port in outputs:
        if port not in typing.types:
            raise TypeRuleError(f"output {port}: '{nodes[port.node].label}' has no such output")
        for axis in typing.types[port].axes:
            pin(axis, "it is the output of the network")
    seen: dict[Atom, None] = {}
    for atom in typing.atoms:
        if atom.link is None:
            seen.setdefault(atom)
            continue
        for part in atoms_of(atom):
            seen.setdefault(part)
    names: dict[str, int] = {}
    for atom in seen:
        label = nodes[atom.source].label
        names[label] = names.get(label, 0) + 1
        # a writer of several spaces (split, grouped conv) numbers them
        atom.name = label if names[label] == 1 else f"{label}#{names[label]}"
    typing.spaces = tuple(seen)


def nonnegative(nodes: Mapping[int, Node], order: Iterable[int]) -> Mapping[int, bool]:
    """Analysis of signs: for each node, whether all its outputs are surely >= 0.

    Inserting an identity block that ends in a ReLU is exact only where what comes in is never negative.
    """
    sure: dict[int, bool] = {}
    for node_id in order:
        node = nodes[node_id]
        sign = op_named(node.op).nonnegative
        sure[node_id] = sign == "always" or (
            sign == "keeps" and bool(node.inputs) and all(sure[port.node] for port in node.inputs)
        )
    return sure
