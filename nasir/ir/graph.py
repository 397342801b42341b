"""The graph: an immutable value of nodes, regions and outputs. Made and changed only through `Draft`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from nasir.errors import GraphError, NasirError
from nasir.ir import canon, regions
from nasir.ir.infer import Typing, infer, nonnegative
from nasir.ir.op import OpDef, loaded, op_named
from nasir.ir.types import JSON, Border, Port

if TYPE_CHECKING:
    from nasir.ir.cost import Cost
    from nasir.ir.draft import Draft

RegionKind: TypeAlias = Literal["stage", "block", "branch"]


@dataclass(frozen=True, slots=True)
class Node:
    """An op applied to ports. `label` is a dotted path, "s2.b3.conv1": state_dict names, regions, selectors."""

    op: str
    inputs: tuple[Port, ...]
    attrs: Mapping[str, JSON]
    label: str

    @property
    def facts(self) -> OpDef:
        """What is known of its op; raises UnknownName."""
        return loaded.get(self.op) or op_named(self.op)


@dataclass(frozen=True, slots=True)
class Region:
    """All nodes whose label begins with `path`; `template` says how to build another one like it."""

    path: str
    kind: RegionKind
    template: Mapping[str, JSON] | None = None

    @property
    def parent(self) -> str:
        """Path of the enclosing region, "" at the top."""
        return self.path.rpartition(".")[0]


@dataclass(frozen=True, eq=False)
class Graph:
    """An immutable typed network. `minted` is the next free node id of the lineage; ids are never reused.

    Three identities: `==` compares ids, labels and everything; a node id follows weights through rewrites;
    `digest` is equal for equal architectures whatever their ids and labels. `frozen`: label prefixes (sorted) below
    which nothing learns; part of the value, not of the digest.
    """

    nodes: Mapping[int, Node]
    outputs: tuple[Port, ...]
    regions: Mapping[str, Region]
    minted: int
    frozen: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Graph):
            return NotImplemented
        return (self.minted, self.outputs, self.frozen, self.regions, self.nodes) == (
            other.minted,
            other.outputs,
            other.frozen,
            other.regions,
            other.nodes,
        )

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        """One line: how large it is, and which architecture."""
        try:
            return f"<Graph: {len(self.nodes)} nodes, {self.cost().params:,} parameters, digest {self.digest[:12]}>"
        except NasirError as error:  # one that is not verified yet
            return f"<Graph: {len(self.nodes)} nodes, malformed: {type(error).__name__}>"

    def __str__(self) -> str:
        """The text form, one line a node; `nasir.ir.parse` reads it back."""
        return self.to_text().removesuffix("\n")

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        """Ids of the input nodes, in order of id: the arguments of the network."""
        return tuple(sorted([node_id for node_id, node in self.nodes.items() if node.facts.family == "input"]))

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Topological order, a function of the structure alone; raises GraphError on cycles and unused nodes."""
        return canon.postorder(self)

    @cached_property
    def infer(self) -> Typing:
        """Types, slots and spaces; raises TypeRuleError."""
        return infer(self)

    @cached_property
    def digest(self) -> str:
        """Structural hash: ops, attributes and edges; not ids, labels, regions or weights."""
        return canon.digest(self)

    @cached_property
    def nonnegative(self) -> Mapping[int, bool]:
        """Node ids whose outputs are surely >= 0 (see `nasir.ir.infer.nonnegative`)."""
        return nonnegative(self)

    @cached_property
    def labels(self) -> Mapping[str, int]:
        """Node id of each label."""
        return {node.label: node_id for node_id, node in self.nodes.items()}

    @cached_property
    def _users(self) -> Mapping[int, tuple[int, ...]]:
        found: dict[int, dict[int, None]] = {node_id: {} for node_id in self.nodes}
        for node_id in self.order:
            for port in self.nodes[node_id].inputs:
                found[port.node].setdefault(node_id)
        return {node_id: tuple(users) for node_id, users in found.items()}

    @cached_property
    def owners(self) -> Mapping[int, tuple[str, ...]]:
        """Paths of the regions each node lies in, innermost first."""
        return regions.owners(self)

    @cached_property
    def borders(self) -> Mapping[str, Border]:
        """For every region the outside ports it reads and its own ports that are read outside."""
        return regions.borders(self)

    @cached_property
    def _members(self) -> Mapping[str, tuple[int, ...]]:
        return regions.members(self)

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
        """(entry, exit) of a single-entry, single-exit region: the port it reads, the node that others read."""
        return regions.boundary(self, path)

    @cached_property
    def stages(self) -> tuple[Region, ...]:
        """Regions of kind stage, in topological order."""
        return regions.ordered(self, "stage")

    @cached_property
    def blocks(self) -> tuple[Region, ...]:
        """Regions of kind block, in topological order."""
        return regions.ordered(self, "block")

    def blocks_of(self, stage: str) -> tuple[Region, ...]:
        """The blocks of a stage, in the order data flows through them."""
        return tuple([block for block in self.blocks if block.parent == stage])

    def depths(self) -> dict[str, int]:
        """Number of blocks of each stage."""
        counts = {stage.path: 0 for stage in self.stages}
        for block in self.blocks:
            if block.parent in counts:
                counts[block.parent] += 1
        return counts

    @cached_property
    def costs(self) -> Mapping[int, Cost]:
        """Cost of each node for one sample, by id in topological order."""
        from nasir.ir.cost import count

        return count(self)

    @cached_property
    def total_cost(self) -> Cost:
        """Cost of the whole network for one sample: what `cost()` gives."""
        from nasir.ir.cost import total

        return total(self.costs.values())

    def cost(self, path: str | None = None) -> Cost:
        """Parameters, MACs, activation and weight bytes of the network, a region or a node label, for one sample."""
        from nasir.ir.cost import cost_of

        return cost_of(self, path)

    def draft(self) -> Draft:
        """An editable copy; `commit` gives the next graph."""
        from nasir.ir.draft import Draft

        return Draft(self)

    def to_json(self) -> dict[str, Any]:
        """The graph as JSON data; `Graph.from_json` gives an equal graph."""
        from nasir.ir.text import to_json

        return to_json(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Graph:
        """The graph of `to_json`; raises TextFormatError."""
        from nasir.ir.text import from_json

        return from_json(data)

    def to_text(self) -> str:
        """One line a node, for reading and diffing; `nasir.ir.text.parse` gives an equal graph."""
        from nasir.ir.text import to_text

        return to_text(self)

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
