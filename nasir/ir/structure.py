"""`Structure`: nodes, regions and outputs, and everything that follows from them alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nasir.errors import GraphError, NasirError, TooManyNodes
from nasir.ir import canon, regions
from nasir.ir.cost import Cost, count, total
from nasir.ir.infer import Typing, infer, nonnegative
from nasir.ir.modes import not_in_both
from nasir.ir.names import Names, named, verify_names
from nasir.ir.node import Node, Region, RegionKind
from nasir.ir.source import Key
from nasir.ir.ties import Ties, sets_of
from nasir.ir.types import Border, Mode, Port, Slot

MOST_NODES = 30_000
"""Nodes of a network: some 4,000 residual blocks. What asks for more, such as a slip in a depth, is refused."""


@dataclass(frozen=True, eq=False)
class Structure:
    """The fields of a graph: `minted` is the next free node id of the lineage, `frozen` are the label prefixes (sorted)
    below which nothing learns, `ties` the owners of weights that several nodes share (see `nasir.ir.ties`), `names`
    what weights are called in a state_dict if not by labels and slots (see `nasir.ir.names`). Nothing is checked before
    it is asked for, or `verify` is called.
    """

    nodes: Mapping[int, Node]
    outputs: tuple[Port, ...]
    regions: Mapping[str, Region]
    minted: int
    frozen: tuple[str, ...] = ()
    ties: Ties = field(default_factory=dict)
    names: Names = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Structure):
            return NotImplemented
        return (self.minted, self.outputs, self.frozen, self.ties, self.names, self.regions, self.nodes) == (
            other.minted,
            other.outputs,
            other.frozen,
            other.ties,
            other.names,
            other.regions,
            other.nodes,
        )

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        """One line: how large it is, and which architecture."""
        name = type(self).__name__
        try:
            return f"<{name}: {len(self.nodes)} nodes, {self.cost().params:,} parameters, digest {self.digest[:12]}>"
        except NasirError as error:  # one that is not verified yet
            return f"<{name}: {len(self.nodes)} nodes, malformed: {type(error).__name__}>"

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        """Ids of the input nodes, in order of id: the arguments of the network."""
        return tuple(sorted([node_id for node_id, node in self.nodes.items() if node.facts.family == "input"]))

    @cached_property
    def answers(self) -> tuple[Port, ...]:
        """The outputs that the network returns: all but the next values of buffers."""
        return tuple([port for port in self.outputs if not self._is_assigned(port)])

    def _is_assigned(self, port: Port) -> bool:
        node = self.nodes[port.node]
        while node.facts.family == "mode" and len(node.inputs) == 1:
            node = self.nodes[node.inputs[0].node]
        return node.facts.family == "assign"

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Topological order, a function of the structure alone; raises GraphError on cycles and unused nodes."""
        return canon.postorder(self.nodes, self.outputs)

    @cached_property
    def infer(self) -> Typing:
        """Types, slots and spaces; raises TypeRuleError."""
        return infer(self.nodes, self.order, self.outputs, self.ties)

    @cached_property
    def digest(self) -> str:
        """Structural hash: ops, attributes, edges and ties; not ids, labels, names, regions or weights."""
        return canon.digest(self.nodes, self.order, self.outputs, self.ties)

    @cached_property
    def nonnegative(self) -> Mapping[int, bool]:
        """Node ids whose outputs are surely >= 0 (see `nasir.ir.infer.nonnegative`)."""
        return nonnegative(self.nodes, self.order)

    @cached_property
    def modes(self) -> Mapping[int, frozenset[Mode]]:
        """The modes of the nodes that do not run in both (see `nasir.ir.modes`)."""
        return not_in_both(self.nodes, self.outputs)

    @cached_property
    def idle(self) -> frozenset[int]:
        """The nodes that do not run in evaluation."""
        return frozenset(node_id for node_id, modes in self.modes.items() if "eval" not in modes)

    @cached_property
    def shared(self) -> Mapping[Key, tuple[Key, ...]]:
        """The other weights that are one array with a weight, for each that is not its node's alone."""
        return {key: tuple([k for k in members if k != key]) for members in sets_of(self.ties) for key in members}

    @cached_property
    def sharing(self) -> frozenset[int]:
        """Ids of the nodes that share a weight with another one, owners among them."""
        return frozenset([key.node for key in self.shared])

    def weights(self, node_id: int) -> Mapping[str, tuple[Key, Slot]]:
        """All weights that a node uses, by name, its own and those it borrows: where the array is, and what the node's
        op says of it."""
        own = {name: (Key(node_id, name), slot) for name, slot in self.infer.slots[node_id].items()}
        return {**own, **self.infer.borrowed.get(node_id, {})}

    @cached_property
    def weight_names(self) -> Mapping[str, Key]:
        """Where the array is, for each name of a state_dict: (node id, slot) of its owner."""
        return dict(named(self.nodes, self.infer, self.names))

    @cached_property
    def labels(self) -> Mapping[str, int]:
        """Node id of each label."""
        return {node.label: node_id for node_id, node in self.nodes.items()}

    @cached_property
    def _users(self) -> Mapping[int, tuple[int, ...]]:
        users_of: dict[int, dict[int, None]] = {node_id: {} for node_id in self.nodes}
        for node_id in self.order:
            for port in self.nodes[node_id].inputs:
                users_of[port.node].setdefault(node_id)
        return {node_id: tuple(users) for node_id, users in users_of.items()}

    @cached_property
    def owners(self) -> Mapping[int, tuple[str, ...]]:
        """Paths of the regions each node lies in, innermost first."""
        return regions.owners(self.nodes, self.regions)

    @cached_property
    def borders(self) -> Mapping[str, Border]:
        """For every region the outside ports it reads and its own ports that are read outside."""
        return regions.borders(self.nodes, self.order, self.outputs, self.regions, self.owners)

    @cached_property
    def _members(self) -> Mapping[str, tuple[int, ...]]:
        return regions.members(self.order, self.regions, self.owners)

    def find(self, label: str) -> int:
        """Node id of a label; raises GraphError with the closest labels."""
        if label not in self.labels:
            raise GraphError(f"no node is labelled {label!r}; {regions.closest(label, self.labels)}")
        return self.labels[label]

    def is_frozen(self, node_id: int) -> bool:
        """Whether a node lies below a frozen label prefix: its parameters and statistics then stay as they are."""
        label = self.nodes[node_id].label
        return any(regions.covers(prefix, label) for prefix in self.frozen)

    def users(self, node_id: int) -> tuple[int, ...]:
        """Ids of the nodes that read any output of a node, in topological order."""
        return self._users[node_id]

    def members(self, path: str) -> tuple[int, ...]:
        """Ids of the nodes of a region, in topological order; raises GraphError for an unknown path."""
        if path not in self.regions:
            raise GraphError(f"no region {path!r}; {regions.closest(path, self.regions)}")
        return self._members[path]

    def boundary(self, path: str) -> tuple[Port, int]:
        """(entry, exit) of a region: the one outside port that it reads, the one node that others read.

        Raises GraphError for an unknown path, and where there are none or several.
        """
        self.members(path)  # an unknown path is refused here
        return regions.boundary(self.nodes, path, self.borders[path])

    @cached_property
    def independent(self) -> frozenset[int]:
        """Ids of the nodes that depend on no input of the network (see `nasir.ir.regions.independent`)."""
        return regions.independent(self.nodes, self.order)

    @cached_property
    def _holders(self) -> Mapping[str, tuple[str, ...]]:
        return regions.holders(self.regions)

    def stage_of(self, block: str) -> str:
        """Path of the stage that a block is in; of one outside of all stages what its path lies below."""
        stages = [path for path in self._holders.get(block, ()) if self.regions[path].kind == "stage"]
        return stages[0] if stages else self.regions[block].parent

    def around(self, path: str) -> tuple[str, ...]:
        """Paths of the regions that a region lies in, innermost first; raises GraphError for an unknown path."""
        owners = self.owners[self.members(path)[0]]
        return owners[owners.index(path) + 1 :]

    def below(self, node_id: int, places: Iterable[str]) -> bool:
        """Whether a node lies in one of `places`: labels, prefixes of labels, or paths of regions."""
        label, owners = self.nodes[node_id].label, self.owners[node_id]
        return any(regions.covers(place, label) or place in owners for place in places)

    def prefixes(self, path: str) -> tuple[str, ...]:
        """The label prefixes that cover a region and nothing else."""
        return regions.prefixes(self.regions, path)

    def holds(self, place: str) -> bool:
        """Whether any node lies in a place: a label, a prefix of labels, or the path of a region."""
        return any(self.below(node_id, (place,)) for node_id in self.nodes)

    @cached_property
    def stages(self) -> tuple[Region, ...]:
        """Regions of kind stage, in topological order."""
        return self._ordered("stage")

    @cached_property
    def blocks(self) -> tuple[Region, ...]:
        """Regions of kind block, in topological order."""
        return self._ordered("block")

    def _ordered(self, kind: RegionKind) -> tuple[Region, ...]:
        """Regions of a kind, by the place of their exit in topological order."""
        position = {node_id: index for index, node_id in enumerate(self.order)}
        chosen = [region for region in self.regions.values() if region.kind == kind and self.members(region.path)]
        return tuple(sorted(chosen, key=lambda region: position[self.members(region.path)[-1]]))

    def blocks_of(self, stage: str) -> tuple[Region, ...]:
        """The blocks of a stage, in the order data flows through them."""
        return tuple([block for block in self.blocks if self.stage_of(block.path) == stage])

    def depths(self) -> dict[str, int]:
        """Number of blocks of each stage."""
        counts = {stage.path: 0 for stage in self.stages}
        for block in self.blocks:
            stage = self.stage_of(block.path)
            if stage in counts:
                counts[stage] += 1
        return counts

    @cached_property
    def costs(self) -> Mapping[int, Cost]:
        """Cost of each node for one sample in evaluation, by id in topological order."""
        return count(self.nodes, self.infer, self.idle)

    @cached_property
    def total_cost(self) -> Cost:
        """Cost of the whole network for one sample: what `cost()` gives."""
        return total(self.costs.values())

    def cost(self, path: str | None = None) -> Cost:
        """Parameters, MACs, activation and weight bytes of the network, a region or a node label, for one sample.

        Raises GraphError where `path` is neither a region nor a label.
        """
        if path is None:
            return self.total_cost
        if path in self.regions:
            return total(self.costs[node_id] for node_id in self.members(path))
        return self.costs[self.find(path)]

    def verify(self) -> None:
        """Labels are unique, every op takes its inputs, every stage and block is whole; GraphError otherwise."""
        if len(self.nodes) > MOST_NODES:
            raise TooManyNodes(f"{len(self.nodes)} nodes are more than the {MOST_NODES} that a network may have")
        if len(self.labels) != len(self.nodes):
            times = Counter(node.label for node in self.nodes.values())
            twice = next(label for label, count in times.items() if count > 1)
            raise GraphError(f"two nodes are labelled '{twice}': labels name weights, so each must be unique")
        for key, owner in self.ties.items():
            if owner in self.ties or owner == key:
                raise GraphError(
                    f"weight {tuple(key)} is tied to {tuple(owner)}, which owns nothing; tie it to the owner"
                )
        verify_names(self.nodes, self.infer, self.names)
        self.verify_regions()

    def verify_regions(self) -> None:
        """Every stage and block holds nodes and has one entry and one exit; GraphError otherwise."""
        for region in self.regions.values():
            fault = regions.parts_fault(region, self.regions)
            if fault is not None:
                raise GraphError(f"{fault}; a stage is made of blocks, a block of nodes")
        for path, region in self.regions.items():
            if region.kind == "branch":
                continue
            if not self.members(path):
                raise GraphError(f"region '{path}' holds no nodes: remove it or label nodes '{path}....'")
            self.boundary(path)

    def to_networkx(self) -> Any:
        """A networkx.MultiDiGraph: nodes by id with op, label, attrs; edges with output and input numbers."""
        import networkx

        graph = networkx.MultiDiGraph()
        for node_id in self.order:
            node = self.nodes[node_id]
            graph.add_node(node_id, op=node.op, label=node.label, attrs=dict(node.attrs))
            for position, port in enumerate(node.inputs):
                graph.add_edge(port.node, node_id, output=port.output, input=position)
        return graph


NOTHING = Structure({}, (), {}, 0)
"""What a newly built network starts from."""
