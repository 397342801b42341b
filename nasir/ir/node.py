"""What a graph is made of: nodes, and the regions that they lie in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from nasir.ir.op import OpDef, loaded, op_named
from nasir.ir.types import JSON, Port

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


def facts_of(nodes: Mapping[int, Node]) -> list[OpDef]:
    """What is known of the ops that nodes apply, each op once; raises UnknownName."""
    return [op_named(name) for name in {node.op for node in nodes.values()}]


@dataclass(frozen=True, slots=True)
class Region:
    """All nodes whose label begins with `path`; `template` says how to build another one like it.

    Where labels do not say it, as in networks that others wrote, `parts` do: the paths of other regions, labels, and
    prefixes of labels; `path` is then a mere name.
    """

    path: str
    kind: RegionKind
    template: Mapping[str, JSON] | None = None
    parts: tuple[str, ...] = ()

    @property
    def parent(self) -> str:
        """What its path lies below, "" at the top; see `Structure.stage_of`."""
        return self.path.rpartition(".")[0]
