"""`Editing`: changing the structure of a graph. Only what an edit itself needs is checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

import numpy as np

from nasir.errors import GraphError, TooManyNodes
from nasir.ir.infer import Typing, infer_nodes, mirrored, untyped
from nasir.ir.node import Node, Region, RegionKind
from nasir.ir.op import op_named
from nasir.ir.regions import closest, covers, paths_above, prefixes
from nasir.ir.source import Key
from nasir.ir.space import Atom, Index, atoms_of, size_after
from nasir.ir.structure import MOST_NODES, NOTHING, Structure
from nasir.ir.types import JSON, Port, Slot, ValueType

S = TypeVar("S", bound=Structure)


@dataclass(frozen=True, slots=True)
class Resize:
    """New units of a space by old ones (-1: a fresh one); see `Editing.select` for `noise` and `paired`."""

    index: Index
    noise: float = 0.0
    paired: bool = False


class Editing(Generic[S]):
    """An editable copy of `base` (or of nothing). Ports of `base` stay valid; new nodes get fresh ids."""

    def __init__(self, base: S | None = None) -> None:
        start = base or NOTHING
        self.base = base
        self.nodes: dict[int, Node] = dict(start.nodes)
        self.regions: dict[str, Region] = dict(start.regions)
        self.outputs: list[Port] = list(start.outputs)
        self.minted = start.minted
        self.frozen: set[str] = set(start.frozen)
        self.ties: dict[Key, Key] = dict(start.ties)
        self.names: dict[Key, tuple[str, ...]] = dict(start.names)
        self.resized: dict[Atom, Resize] = {}
        self._typing: Typing | None = None  # of the values asked for by `shape`

    def add(self, op: str, inputs: Iterable[Port] | Port, label: str, /, **attrs: JSON) -> Port:
        """A new node; returns its first output. Raises TypeRuleError for wrong attributes, GraphError if too many."""
        if len(self.nodes) >= MOST_NODES:
            raise TooManyNodes(f"more than the {MOST_NODES} nodes that a network may have; make it less deep")
        ports = (inputs,) if isinstance(inputs, Port) else tuple(inputs)
        node_id = self.minted
        self.nodes[node_id] = Node(op, ports, op_named(op).normalize(attrs, label), label)
        self.minted += 1
        return Port(node_id)

    def remove(self, node_ids: int | Iterable[int]) -> None:
        """Delete nodes; those that read them must be rewired."""
        for node_id in (node_ids,) if isinstance(node_ids, int) else tuple(node_ids):
            del self.nodes[node_id]
        self._typing = None

    def retract(self, since: int) -> None:
        """Undo every node minted from id `since` on, and the regions that are empty without them."""
        for node_id in range(since, self.minted):
            self.nodes.pop(node_id, None)
        self.drop_empty_regions()
        self._typing = None

    def drop_empty_regions(self) -> None:
        """Delete the regions that no longer hold a node, and the parts of regions that are none any more."""
        labels = [node.label for node in self.nodes.values()]
        held = paths_above(labels)
        for path in [path for path, region in self.regions.items() if not region.parts and path not in held]:
            del self.regions[path]
        made_up = [region for region in self.regions.values() if region.parts]
        held.update(labels if made_up else ())
        for path in sorted([r.path for r in made_up], key=lambda path: self.regions[path].kind != "block"):
            region = self.regions.get(path)  # a stage goes with the last of its blocks
            if region is not None:
                self._keep_parts(region, [part for part in region.parts if part in held or part in self.regions])

    def _keep_parts(self, region: Region, parts: Sequence[str]) -> None:
        """Leave a region only these of its parts; one without goes, and is no part of others."""
        if len(parts) == len(region.parts):
            return
        if parts:
            self.regions[region.path] = replace(region, parts=tuple(parts))
        else:
            self._forget(region.path)

    def _forget(self, path: str) -> None:
        """Delete a region, but not its nodes; it is no part of others any more."""
        del self.regions[path]
        for other in [region for region in self.regions.values() if path in region.parts]:
            self._keep_parts(other, [part for part in other.parts if part != path])

    def rewire(self, old: Port, new: Port, only: Iterable[int] | None = None) -> None:
        """Let every reader of `old` (or `only` those nodes) read `new` instead; outputs too unless `only`."""
        self._typing = None
        chosen = self.nodes.keys() if only is None else set(only)
        for node_id in chosen:
            node = self.nodes[node_id]
            if old in node.inputs and node_id != new.node:
                inputs = tuple([new if port == old else port for port in node.inputs])
                self.nodes[node_id] = Node(node.op, inputs, node.attrs, node.label)
        if only is None:
            self.outputs = [new if port == old else port for port in self.outputs]

    def rewire_node(self, node_id: int, inputs: Iterable[Port]) -> None:
        """Replace all inputs of one node; raises GraphError when there is no such node."""
        if node_id not in self.nodes:
            raise GraphError(f"no node {node_id} to rewire; it was removed, or never was one of this draft")
        node = self.nodes[node_id]
        self.nodes[node_id] = Node(node.op, tuple(inputs), node.attrs, node.label)
        self._typing = None

    def relabel(self, node_id: int, label: str) -> None:
        """Give a node another label, and so its weights other names."""
        self.nodes[node_id] = replace(self.nodes[node_id], label=label)

    def set_attrs(self, node_id: int, **attrs: JSON) -> None:
        """Change attributes of a node; weights whose shape changes by it need an explicit source."""
        node = self.nodes[node_id]
        merged = op_named(node.op).normalize({**node.attrs, **attrs}, node.label)
        self.nodes[node_id] = Node(node.op, node.inputs, merged, node.label)
        self._typing = None

    def region(
        self, path: str, kind: RegionKind, template: Mapping[str, JSON] | None = None, parts: Iterable[str] = ()
    ) -> None:
        """Declare the nodes labelled below `path` a stage, block or branch, or those of `parts` (see `Region`)."""
        if path in self.regions:
            raise GraphError(f"region '{path}' exists already; choose another path")
        self.regions[path] = Region(path, kind, template, tuple(parts))

    def join(self, stage: str, path: str) -> None:
        """Let a region (or label) that is new belong to a stage: it becomes a part of one that is made of parts.

        Where all of such a stage is frozen, what joins it is frozen too. Below the path of any other stage nothing
        needs to be done.
        """
        region = self.regions.get(stage)
        if region is None or not region.parts:
            return
        if all(any(covers(other, prefix) for other in self.frozen) for prefix in prefixes(self.regions, stage)):
            self.freeze(path)
        self.regions[stage] = replace(region, parts=(*region.parts, path))

    def remove_region(self, path: str) -> None:
        """Delete a region and all its nodes."""
        if self.base is None or path not in self.regions:
            raise GraphError(f"no region '{path}' to remove; {closest(path, self.regions)}")
        gone = [node_id for node_id in self.base.members(path) if node_id in self.nodes]
        self.remove(gone)
        self._remove_unread({port.node for node_id in gone for port in self.base.nodes[node_id].inputs})
        parts = self.regions[path].parts
        for other in [p for p in self.regions if p == path or p in parts or p.startswith(path + ".")]:
            if other in self.regions:
                self._forget(other)

    def _remove_unread(self, candidates: Iterable[int]) -> None:
        """Delete those nodes that depend on no input and that nothing reads any more, and what only they read."""
        assert self.base is not None
        left = [node_id for node_id in candidates if node_id in self.base.independent and node_id in self.nodes]
        while left:
            read = {port.node for node in self.nodes.values() for port in node.inputs}
            read.update(port.node for port in self.outputs)
            unread = [node_id for node_id in left if node_id not in read]
            self.remove(unread)
            left = [p.node for node_id in unread for p in self.base.nodes[node_id].inputs if p.node in self.nodes]

    def freeze(self, prefix: str) -> None:
        """Freeze everything labelled `prefix` or below it, or in the region of that path.

        Raises GraphError where nothing is.
        """
        for inner in prefixes(self.regions, prefix):
            self._freeze(inner)

    def _freeze(self, prefix: str) -> None:
        self._check_label(prefix)
        self.frozen = {other for other in self.frozen if not covers(prefix, other)}
        if not any(covers(other, prefix) for other in self.frozen):
            self.frozen.add(prefix)

    def unfreeze(self, prefix: str) -> None:
        """Let what is labelled `prefix` or below it, or in the region of that path, learn again.

        Where it was frozen as a part of something larger, the rest of that stays frozen part by part. Raises GraphError
        where nothing is labelled so.
        """
        for inner in prefixes(self.regions, prefix):
            self._unfreeze(inner)

    def _unfreeze(self, prefix: str) -> None:
        self._check_label(prefix)
        above = [other for other in self.frozen if covers(other, prefix) and other != prefix]
        self.frozen = {other for other in self.frozen if not covers(prefix, other)} - set(above)
        for whole in above:
            self.frozen |= self._beside(whole, prefix)

    def _beside(self, whole: str, prefix: str) -> set[str]:
        """The widest label prefixes below `whole` that cover all of it but `prefix`."""
        beside = set()
        for label in (node.label for node in self.nodes.values()):
            if covers(whole, label) and not covers(prefix, label):
                parts, stem = label.split("."), prefix.split(".")
                same = next((i for i, (a, b) in enumerate(zip(parts, stem, strict=False)) if a != b), len(stem))
                beside.add(".".join(parts[: same + 1]))
        return beside

    def _check_label(self, prefix: str) -> None:
        labels = [node.label for node in self.nodes.values()]
        if not any(covers(prefix, label) for label in labels):
            raise GraphError(f"nothing is labelled '{prefix}' or below it; {closest(prefix, [*self.regions, *labels])}")

    def tie(self, key: Key, owner: Key) -> None:
        """Let a node use a weight of another node as its own; what `key` held itself is given up.

        Both are (node id, slot). Where `owner` borrows its weight from a third node, that one is the owner. What does
        not fit together is a TypeRuleError of `commit`; raises GraphError where there is no such node, or for a weight
        that is tied to itself.
        """
        for node_id in (key.node, owner.node):
            if node_id not in self.nodes:
                raise GraphError(f"no node {node_id} to tie; it was removed, or never was one of this draft")
        owner = self.ties.get(owner, owner)
        if key == owner:
            raise GraphError(
                f"weight {key.slot!r} of '{self.nodes[key.node].label}' is tied to itself; name another one"
            )
        self.ties = {other: owner if known == key else known for other, known in self.ties.items()}
        self.ties[key] = owner

    def untie(self, key: Key) -> None:
        """Give a node that borrows a weight one of its own, which starts as a copy; GraphError where it has one."""
        if key not in self.ties:
            raise GraphError(f"weight {key.slot!r} of node {key.node} is borrowed from no other node")
        del self.ties[key]

    def name(self, key: Key, *names: str) -> None:
        """Say what an array, (node id, slot) of its owner, is called in the state_dict instead of `label.slot`.

        These are then all names that it has, also where several nodes share it. Whether there is such a weight, and
        each name is the only one of its kind, is checked by `commit`; raises GraphError where there is no such node.
        """
        if key.node not in self.nodes:
            raise GraphError(f"no node {key.node} to name a weight of; it was removed, or never was one of this draft")
        self.names[key] = names

    def output(self, port: Port) -> None:
        """Make a port an output of the network."""
        self.outputs.append(port)

    def shape(self, port: Port) -> tuple[int, ...]:
        """Shape of a value under construction, without the batch axis; raises TypeRuleError where an op refuses."""
        return self.value(port).shape

    def value(self, port: Port) -> ValueType:
        """Type of a value under construction, whose spaces are no spaces of the base; raises as `shape`."""
        if self._typing is None:
            self._typing = Typing()
            same: set[int] = set()  # nodes of the base that are what they were, down to the inputs
            base = self.base or NOTHING
            for node_id in base.order:
                node = base.nodes[node_id]
                if self.nodes.get(node_id) is node and all(port.node in same for port in node.inputs):
                    same.add(node_id)
            for known, value in base.infer.types.items():
                if known.node in same:
                    # sizes only: unifying the base's own spaces with new ones would change the base
                    self._typing.types[known] = value.over(value.shape)
        if port not in self._typing.types:
            infer_nodes(self.nodes, self._typing, untyped(self.nodes, self._typing, port))
        return self._typing.types[port]

    def slots(self, node_id: int) -> Mapping[str, Slot]:
        """Weights of a node under construction, by name; raises TypeRuleError where an op refuses."""
        if self.base is not None and self.base.nodes.get(node_id) is self.nodes[node_id]:
            return self.base.infer.slots[node_id]
        self.shape(Port(node_id))
        assert self._typing is not None
        return self._typing.slots[node_id]

    def free_label(self, prefix: str) -> str:
        """The first `prefix.N` (N after the largest in use) that no node or region lies under.

        For a stage whose blocks have other names, that which goes on after theirs: `features.19` after `features.18`.
        """
        region = self.regions.get(prefix)
        if region is not None and region.parts:
            return self._after(region.parts[-1])
        blocks = [other.path for other in self.regions.values() if other.kind == "block" and other.parent == prefix]
        numbered = any(path.rpartition(".")[2].isdigit() for path in blocks)
        return self._numbered(f"{prefix}.") if numbered or not blocks else self._after(blocks[-1])

    def _after(self, part: str) -> str:
        """The name `part`, but with the first free number in the place of that at its end."""
        stem = part.rstrip("0123456789")
        return self._numbered(stem) if stem != part else self._numbered(f"{part}_", 2)

    def _numbered(self, stem: str, least: int = 0) -> str:
        used = [least - 1]
        for name in (*self.regions, *(node.label for node in self.nodes.values())):
            if name.startswith(stem):
                head = name[len(stem) :].partition(".")[0]
                used.append(int(head) if head.isdigit() else -1)
        return f"{stem}{max(used) + 1}"

    def select(self, space: Atom, index: Sequence[int] | Index, noise: float = 0.0, paired: bool = False) -> None:
        """Resize a space: new unit i is old unit index[i]; repeats replicate, -1 is a fresh unit.

        Readers of a replicated unit get shares that sum to its weight, so the function is kept; `noise` (relative
        to the weights' spread) then separates the replicas, which plain SGD never does. Readers of a fresh unit
        start at zero. With `paired` the fresh units come in consecutive pairs, whose two are written by equal and read
        by opposite random weights (V, V and Z, -Z): the function is kept and both get gradients. An odd last one is
        read by zeros.
        Raises GraphError for a pinned space or an index out of range.
        """
        given = np.asarray(index)
        if given.size and given.dtype.kind not in "iu":
            raise GraphError(
                f"space '{space.name}': index must hold whole numbers, not {given.dtype}; "
                "turn a mask into an index by numpy.flatnonzero"
            )
        picked = given.astype(np.int64)
        if not space.resizable:
            raise GraphError(f"space '{space.name}' cannot be resized: {space.pin}")
        if self.base is None or space not in self.base.infer.spaces:
            raise GraphError(f"space '{space.name}' is not one of this graph's; take it from graph.infer.spaces")
        if picked.ndim != 1 or not len(picked) or picked.min() < -1 or picked.max() >= space.size:
            raise GraphError(f"space '{space.name}': index must hold 1 or more numbers from -1 to {space.size - 1}")
        if len(picked) == space.size and bool((picked == np.arange(space.size)).all()):
            self.resized.pop(space, None)
            return
        fresh = np.flatnonzero(picked < 0)
        if paired and bool((fresh[1::2] != fresh[0::2][: len(fresh) // 2] + 1).any()):
            raise GraphError(f"space '{space.name}': fresh units (-1) must stand two by two side by side to be paired")
        self.resized[space] = Resize(picked, noise, paired)

    @property
    def selected(self) -> dict[Atom, Index]:
        """The index of each resized space: what `nasir.ir.space.positions` takes."""
        return {space: resize.index for space, resize in self.resized.items()}

    def _resize(self) -> None:
        """Write the new sizes of the selected spaces into the attributes that repeat them."""
        if not self.resized:
            return
        assert self.base is not None
        take = self.selected
        size = partial(size_after, take=take)
        for node_id, entries in self.base.infer.mirrors.items():
            if node_id not in self.nodes:
                continue
            node = self.nodes[node_id]
            touched = {m: axis for m, axis in entries.items() if any(atom in take for atom in atoms_of(axis))}
            attrs = mirrored(node.attrs, touched, size)
            if attrs != node.attrs:
                self.nodes[node_id] = Node(node.op, node.inputs, attrs, node.label)
