"""A case that the laws of ops are tested on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nasir.ir import JSON, Draft, Graph
from nasir.ir.infer import Typing, infer_nodes


@dataclass(frozen=True)
class OpCase:
    """An op with attributes and the shapes of its inputs, without the batch axis."""

    op: str
    shapes: tuple[tuple[int, ...], ...]
    attrs: Mapping[str, JSON] = field(default_factory=dict)
    channel_axis: int | None = None  # of its inputs; None: the usual one

    def graph(self) -> Graph:
        """Inputs, the op as node "op", and every output of it as an output of the network."""
        draft = Draft()
        channels = {} if self.channel_axis is None else {"channel_axis": self.channel_axis}
        inputs = [draft.add("input", (), f"input{n}", shape=shape, **channels) for n, shape in enumerate(self.shapes)]
        node = draft.add(self.op, inputs, "op", **self.attrs)
        typing = Typing()
        infer_nodes(draft.nodes, typing, draft.nodes)
        for port in typing.types:
            if port.node == node.node:
                draft.output(port)
        return draft.commit()
