"""A case that the laws of ops are tested on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nasir.ir import JSON, Draft, Graph
from nasir.ir.infer import Typing, infer_nodes
from nasir.ir.types import FLOAT, DType


@dataclass(frozen=True)
class OpCase:
    """An op with attributes and the shapes of its inputs, without the batch axis."""

    op: str
    shapes: tuple[tuple[int, ...], ...]
    attrs: Mapping[str, JSON] = field(default_factory=dict)
    channel_axis: int | None = None  # of its inputs; None: the usual one
    dtype: DType = FLOAT  # of its inputs

    def graph(self) -> Graph:
        """Inputs, the op as node "op", and every output of it as an output of the network."""
        draft = Draft()
        more: dict[str, JSON] = {"dtype": self.dtype}
        if self.channel_axis is not None:
            more["channel_axis"] = self.channel_axis
        inputs = [draft.add("input", (), f"input{n}", shape=shape, **more) for n, shape in enumerate(self.shapes)]
        node = draft.add(self.op, inputs, "op", **self.attrs)
        typing = Typing()
        infer_nodes(draft.nodes, typing, draft.nodes)
        for port in typing.types:
            if port.node == node.node:
                draft.output(port)
        return draft.commit()


IMAGE, VECTOR, TOKENS, VOLUME = (4, 5, 6), (6,), (5, 6), (4, 2, 3, 2)
LAID_OUT = ((TOKENS, 0), (IMAGE, 2), (IMAGE, 1))
"""Shapes with an axis of channels that is not the usual one."""


def anywhere(op: str, **attrs: JSON) -> tuple[OpCase, ...]:
    """Cases of an op of one input that takes any value, wherever its channels are."""
    usual = [OpCase(op, (shape,), attrs) for shape in (IMAGE, VECTOR, TOKENS)]
    return (*usual, *[OpCase(op, (shape,), attrs, axis) for shape, axis in LAID_OUT])
