"""Blocks put away in the journal, structure and weights, so that a later rewrite can bring them back as they were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasir.analysis.sharing import refuse_sharing
from nasir.errors import Decline
from nasir.ir import Draft, Graph, Port
from nasir.ir.regions import relative
from nasir.records import Record, RewriteRecord
from nasir.rewriting.evidence import Evidence
from nasir.transfer import Blob

ARCHIVE, RESTORED = "archive", "restored"  # what rewrites note in the journal
ENTRY = -1  # in place of a node's number: the port that the block reads


@dataclass(frozen=True, slots=True)
class Piece:
    """A block that was put away: `position` in its stage, `data` as noted in the journal (see `put_away`)."""

    path: str
    stage: str
    position: int
    data: Mapping[str, Any]


def put_away(draft: Draft, graph: Graph, paths: Iterable[str], seen: Evidence) -> None:
    """Note blocks that are about to be removed, with their weights as literal arrays; needs Need("weights").

    By path: `stage`, `position`, `template`, `nodes` [[label in the block, op, [[node, output], ...], attributes]],
    `exit` (a port of them), `shape` of what the block reads, `weights` {"label.slot": [digest, shape]}.
    """
    noted: dict[str, Any] = {}
    for path in paths:
        refuse_sharing(graph, graph.members(path), "a block that is put away keeps its own weights")
        _refuse_foreign(graph, path)
        entry, exit_ = graph.boundary(path)
        number = {node_id: index for index, node_id in enumerate(graph.members(path))}
        stage = graph.stage_of(path)
        weights = {}
        nodes = []
        for node_id in number:
            node = graph.nodes[node_id]
            label = relative(node.label, path)
            inputs = [[ENTRY, 0] if port == entry else [number[port.node], port.output] for port in node.inputs]
            nodes.append([label, node.op, inputs, dict(node.attrs)])
            for slot in graph.infer.slots[node_id]:
                array = seen.weight(node.label, slot)
                weights[f"{label}.{slot}"] = [draft.blob(array), list(array.shape)]
        noted[path] = {
            "stage": stage,
            "position": [block.path for block in graph.blocks_of(stage)].index(path),
            "template": graph.regions[path].template,
            "nodes": nodes,
            "exit": number[exit_],
            "shape": list(graph.infer.types[entry].shape),
            "weights": weights,
        }
    draft.note(ARCHIVE, noted)


def _refuse_foreign(graph: Graph, path: str) -> None:
    """Decline for a block that uses what a journal cannot hold: a module of the user, or a mask that others use too."""
    inside = set(graph.members(path))
    for node_id in inside:
        node = graph.nodes[node_id]
        if node.facts.family == "opaque" and node.attrs["live"]:
            raise Decline(f"'{node.label}' runs a module of yours ({node.attrs['runs']}), which cannot be put away")
        common = [port.node for port in node.inputs if port.node in graph.independent - inside]
        if common:
            raise Decline(
                f"'{node.label}' reads '{graph.nodes[common[0]].label}' from outside of block '{path}', which cannot "
                "be put away with it"
            )


def pieces(history: Sequence[Record]) -> list[Piece]:
    """The blocks that were put away and not brought back: by stage, in the order of putting away, then by position."""
    stored: dict[str, Piece] = {}
    for record in history:
        noted = record.noted if isinstance(record, RewriteRecord) else {}
        for path, data in noted.get(ARCHIVE, {}).items():
            stored[path] = Piece(path, data["stage"], data["position"], data)
        for path in noted.get(RESTORED, ()):
            stored.pop(path, None)
    stages = list(dict.fromkeys(piece.stage for piece in stored.values()))
    return sorted(stored.values(), key=lambda piece: (stages.index(piece.stage), piece.position))


def bring_back(draft: Draft, graph: Graph, piece: Piece, original: bool) -> None:
    """Append a block to its stage, under its old name where that is free.

    Its weights are those it was put away with, or, unless `original`, fresh ones. Raises Decline where the stage is
    gone or what flows through it has another shape now.
    """
    blocks = graph.blocks_of(piece.stage)
    if not blocks:
        raise Decline(f"stage '{piece.stage}' has no block to append to")
    before = Port(graph.boundary(blocks[-1].path)[1])
    if list(draft.shape(before)) != piece.data["shape"]:
        raise Decline(
            f"block '{piece.path}' reads {tuple(piece.data['shape'])}, stage '{piece.stage}' puts out "
            f"{draft.shape(before)} now"
        )
    free = piece.path not in draft.regions and not any(label.startswith(f"{piece.path}.") for label in graph.labels)
    path = piece.path if free else draft.free_label(piece.stage)
    old = set(draft.nodes)
    made: list[int] = []
    for label, op, inputs, attrs in piece.data["nodes"]:
        ports = [before if number == ENTRY else Port(made[number], output) for number, output in inputs]
        made.append(draft.add(op, ports, f"{path}.{label}", **attrs).node)
    draft.region(path, "block", piece.data["template"])
    draft.join(piece.stage, path)
    after = Port(made[piece.data["exit"]])
    draft.rewire(before, after, only=old)
    draft.outputs = [after if port == before else port for port in draft.outputs]
    labels = {label: number for number, (label, *_) in enumerate(piece.data["nodes"])}
    for name, (digest, shape) in piece.data["weights"].items():
        label, _, slot = name.rpartition(".")
        node_id = made[labels[label]]
        if original or draft.nodes[node_id].facts.foreign:  # of foreign weights no other start is known
            draft.source(node_id, slot, Blob(digest, tuple(shape)))
    draft.note(RESTORED, [piece.path])
