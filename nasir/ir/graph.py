"""`Graph`, an immutable network, and `Draft`, the only way to make one: each gives the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from numpy.typing import NDArray

from nasir.errors import GraphError, UsageError
from nasir.ir.editing import Editing
from nasir.ir.names import left_names
from nasir.ir.origins import Origins
from nasir.ir.regions import covers
from nasir.ir.source import Key, Source
from nasir.ir.structure import Structure
from nasir.ir.text import from_json, from_text, to_json, to_text
from nasir.ir.ties import left
from nasir.ir.types import JSON, Fill

Claim = Literal["exact", "approximate", "no"]


@dataclass(frozen=True, eq=False, repr=False)
class Graph(Structure):
    """An immutable typed network. `minted` is the next free node id of the lineage; ids are never reused.

    Three identities: `==` compares ids, labels and everything; a node id follows weights through rewrites;
    `digest` is equal for equal architectures whatever their ids and labels. `frozen`: label prefixes (sorted) below
    which nothing learns; part of the value, not of the digest.
    """

    def __str__(self) -> str:
        """The text form, one line a node; `nasir.ir.parse` reads it back."""
        return self.to_text().removesuffix("\n")

    def draft(self) -> Draft:
        """An editable copy; `commit` gives the next graph."""
        return Draft(self)

    def to_json(self) -> dict[str, Any]:
        """The graph as JSON data; `Graph.from_json` gives an equal graph."""
        return to_json(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Graph:
        """The graph of `to_json`; raises TextFormatError, and GraphError for data that is not a graph."""
        return from_json(data, Graph)

    def to_text(self) -> str:
        """One line a node, for reading and diffing; `nasir.ir.parse` gives an equal graph."""
        return to_text(self)


def parse(text: str) -> Graph:
    """The graph of `Graph.to_text`; raises TextFormatError, which names the line, and GraphError."""
    return from_text(text, Graph)


class Draft(Editing[Graph]):
    """An edit of `base` (or of nothing), and the one surface through which passes edit.

    What `Editing` changes is recorded; nothing is checked until `commit`, which infers and verifies the whole graph.
    `origins` says of single weights where they come from; `nasir.transfer.derive` makes a plan of it all. `preserves`:
    what the edit claims of the function; `noted`: JSON data for the journal, whatever becomes of the draft.
    """

    def __init__(self, base: Graph | None = None) -> None:
        super().__init__(base)
        self.origins = Origins()
        self.preserves: Claim = "no"
        self.noted: dict[str, JSON] = {}

    def retract(self, since: int) -> None:
        """Take back every node minted from id `since` on, with what was said of its weights, and the regions that are
        empty without."""
        super().retract(since)
        self.origins.retract(since)

    def fill(self, node_id: int, slot: str, rule: str, **args: JSON) -> None:
        """Initialize a weight of a node by a named rule instead of the op's default.

        Raises GraphError where there is no such node; `derive` refuses a weight that the node has not.
        """
        self.origins.fills[self._weight(node_id, slot)] = Fill(rule, args)

    def copy(self, node_id: int, source: int) -> None:
        """Start all weights of a new node as copies of those of an existing node of the same op.

        Raises GraphError where there is no such node, or the graph before has no node `source`.
        """
        if self.base is None or source not in self.base.nodes:
            raise GraphError(
                f"no node {source} to copy weights from in the graph before; give the id of one of its nodes"
            )
        for slot, (key, _) in self.base.weights(source).items():
            self.origins.copies[self._weight(node_id, slot)] = key

    def source(self, node_id: int, slot: str, source: Source) -> None:
        """Say where a weight of a node, old or new, comes from: a Take, Stack, Sum, Fill or Blob of `nasir.transfer`.

        It goes before whatever the spaces, `fill` or `copy` would give, and is checked after `commit`. Raises
        GraphError for anything else, and where there is no such node.
        """
        self.origins.say(self._weight(node_id, slot), source)

    def _weight(self, node_id: int, slot: str) -> Key:
        if node_id not in self.nodes:
            raise GraphError(
                f"no node {node_id} to say of where its weight {slot!r} comes from; it was removed, or never was one "
                "of this draft"
            )
        return Key(node_id, slot)

    def blob(self, array: NDArray[Any]) -> str:
        """Keep a literal array for a `Blob` source; returns its digest. Floats stay float32 or float64."""
        return self.origins.keep(array)

    def note(self, key: str, value: JSON) -> None:
        """Have `value` (JSON data) journaled with the rewrite, or with the refusal; passes find it in their history."""
        self.noted[key] = value

    def claim(self, preserves: Claim) -> None:
        """State what the edit does to the function; the engine measures it and refuses a false "exact".

        Raises UsageError for another word.
        """
        if preserves not in get_args(Claim):
            raise UsageError(f"a rewrite cannot claim {preserves!r}; claim one of {', '.join(get_args(Claim))}")
        self.preserves = preserves

    def commit(self) -> Graph:
        """The new graph, inferred and verified; raises GraphError or TypeRuleError and changes nothing."""
        self._resize()
        if not self.outputs:
            raise GraphError("the network has no output: call draft.output(port)")
        labels = [node.label for node in self.nodes.values()] if self.frozen else []
        frozen = tuple(sorted(p for p in self.frozen if any(covers(p, label) for label in labels)))
        ties = left(self.ties, self.nodes)
        names = left_names(self.names, self.ties, self.nodes)
        graph = Graph(dict(self.nodes), tuple(self.outputs), dict(self.regions), self.minted, frozen, ties, names)
        for key in [key for key in names if key.slot not in graph.infer.slots.get(key.node, (key.slot,))]:
            del names[key]  # the node has no such weight any more
        graph.verify()
        return graph
