"""`TransferPlan`: for every weight array of the new graph, exactly one source. `Keep` is implicit.

Arrays without an entry are kept: same node, slot and shape, and in a backend the very same tensor object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from nasir.errors import PlanError
from nasir.ir import source as sources
from nasir.ir.source import AxisTake, Blob, Key, Source, Stack, Sum, Twin
from nasir.ir.space import Index
from nasir.ir.structure import Structure
from nasir.ir.types import Fill
from nasir.transfer.fill import RULES

Ranges: TypeAlias = dict[int, tuple[int, int]]  # lowest and highest entry of an index, by its id


@dataclass(frozen=True, slots=True)
class TransferPlan:
    """Sources of all arrays that are not simply kept."""

    sources: Mapping[Key, Source]

    def __repr__(self) -> str:
        """One line: how many arrays come from what kind of source; all others are kept."""
        kinds = Counter(type(source).__name__ for source in self.sources.values())
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        return f"<TransferPlan: {counts or 'everything is kept'}>"

    def verify(self, old: Structure, new: Structure) -> None:
        """Check coverage, keys, indices and shapes without tensors; raises PlanError at the first fault."""
        before, after = old.infer.slots, new.infer.slots
        known: Ranges = {}
        for key, source in self.sources.items():
            slot = after.get(key.node, {}).get(key.slot)
            if slot is None:
                raise PlanError(f"{weight_name(new, key)}: the new network has no such weight; drop this source")
            want = slot.shape
            shape = _shape(source, old, weight_name(new, key), want, known)
            if shape != want:
                raise PlanError(f"{weight_name(new, key)}: its source has shape {shape}, the weight has {want}")
        touched = {key.node for key in self.sources}
        for node_id, slots in after.items():
            if node_id not in touched and _unchanged(old, new, node_id):
                continue
            was = before.get(node_id)
            for name, slot in slots.items():
                if (node_id, name) in self.sources:
                    continue
                kept = was.get(name) if was is not None else None
                if kept is None:
                    raise PlanError(
                        f"{weight_name(new, Key(node_id, name))}: new weight without a source; fill or take it"
                    )
                if kept.shape != slot.shape or old.nodes[node_id].op != new.nodes[node_id].op:
                    raise PlanError(
                        f"{weight_name(new, Key(node_id, name))}: kept, but its shape changes from {kept.shape} "
                        f"to {slot.shape}; take it by an index"
                    )

    def digests(self) -> tuple[str, ...]:
        """Digests of the literal arrays that the sources read."""
        return tuple(dict.fromkeys(d for source in self.sources.values() for d in sources.digests_of(source)))

    def to_json(self) -> list[Any]:
        """[[node, slot, source], ...]"""
        return [[*key, sources.to_json(source)] for key, source in self.sources.items()]

    @staticmethod
    def from_json(data: list[Any]) -> TransferPlan:
        """Inverse of `to_json`."""
        return TransferPlan({Key(node, slot): sources.from_json(source) for node, slot, source in data})


def _unchanged(old: Structure, new: Structure, node_id: int) -> bool:
    """Whether a node is the same and reads the same shapes: its weights then have the same shapes."""
    node = new.nodes[node_id]
    if old.nodes.get(node_id) is not node:
        return False
    before, after = old.infer.types, new.infer.types
    return all(port in before and before[port].shape == after[port].shape for port in node.inputs)


def weight_name(graph: Structure, key: Key) -> str:
    """How messages call a weight: by the label of its node where there is one."""
    node = graph.nodes.get(key.node)
    return f"{node.label}.{key.slot}" if node else f"node {key.node}.{key.slot}"


def _shape(source: Source, old: Structure, name: str, want: tuple[int, ...], known: Ranges) -> tuple[int, ...]:
    if isinstance(source, Fill):
        if source.rule not in RULES:
            raise PlanError(f"{name}: unknown initializer {source.rule!r}; known: {', '.join(RULES)}")
        return want
    if isinstance(source, Blob):
        return source.shape
    if isinstance(source, Stack):
        return _stack_shape(source, old, name, want, known)
    if isinstance(source, Sum):
        return _sum_shape(source, old, name, want, known)
    slot = old.infer.slots.get(source.key.node, {}).get(source.key.slot)
    if slot is None:
        raise PlanError(f"{name}: its source {tuple(source.key)} is not a weight of the old network")
    if not 0.0 <= source.noise < np.inf:
        raise PlanError(f"{name}: noise must be a finite number of at least 0, not {source.noise}")
    sizes = slot.shape
    if len(source.axes) != len(sizes):
        raise PlanError(f"{name}: its source has {len(sizes)} axes, the plan indexes {len(source.axes)}")
    shape = tuple([_axis_size(axis, size, name, known) for axis, size in zip(source.axes, sizes, strict=True)])
    if source.shift is not None and (source.shift.shape != shape or not shape):
        raise PlanError(f"{name}: a shift of shape {source.shift.shape} for a source of shape {shape}")
    return shape


def _range(index: Index, known: Ranges) -> tuple[int, int]:
    """(Lowest, highest) entry; (0, -1) of an empty index. The arrays along one space share one index."""
    bounds = known.get(id(index))
    if bounds is None:
        bounds = known[id(index)] = (int(index.min()), int(index.max())) if len(index) else (0, -1)
    return bounds


def _axis_size(axis: AxisTake | None, size: int, name: str, known: Ranges) -> int:
    if axis is None:
        return size
    index = axis.index
    if index.dtype.kind not in "iu":
        raise PlanError(f"{name}: an index holds whole numbers, not {index.dtype}")
    low, high = _range(index, known) if index.ndim == 1 else (-2, 0)
    if low < -1 or high >= size:
        raise PlanError(f"{name}: index out of range -1..{size - 1}")
    for gain in (axis.gain, axis.averaged):
        if gain is not None and gain.shape != index.shape:
            raise PlanError(f"{name}: {len(gain)} gains for {len(index)} positions")
        if gain is not None and not bool(np.isfinite(gain).all()):
            raise PlanError(f"{name}: gains must be finite numbers")
    if axis.fill is None and low < 0:
        raise PlanError(f"{name}: the index has holes but names no initializer for them")
    if axis.twin is not None:
        _check_twin(axis.twin, index, name)
    if axis.fill is not None and axis.fill.rule not in RULES:
        raise PlanError(f"{name}: unknown initializer {axis.fill.rule!r}; known: {', '.join(RULES)}")
    return len(index)


def _check_twin(twin: Twin, index: Index, name: str) -> None:
    of, sign = twin
    if of.shape != index.shape or sign.shape != index.shape or not bool(np.isfinite(sign).all()):
        raise PlanError(f"{name}: a twin needs a partner and a finite factor for each of {len(index)} positions")
    holes = index < 0
    if bool((of[holes] < 0).any() or (of[holes] >= len(index)).any()) or not bool(holes[of[holes]].all()):
        raise PlanError(f"{name}: the twin of a fresh position must be a fresh position")


def _sum_shape(source: Sum, old: Structure, name: str, want: tuple[int, ...], known: Ranges) -> tuple[int, ...]:
    if not source.parts or any(isinstance(p, Fill) for p in source.parts) or not np.isfinite(source.gain):
        raise PlanError(f"{name}: a sum needs parts, none of them filled, and a finite gain")
    shapes = [_shape(part, old, name, want, known) for part in source.parts]
    if len(set(shapes)) != 1:
        raise PlanError(f"{name}: parts of shapes {shapes} have no sum")
    return shapes[0]


def _stack_shape(source: Stack, old: Structure, name: str, want: tuple[int, ...], known: Ranges) -> tuple[int, ...]:
    if not 0 <= source.axis < len(want) or not source.parts:
        raise PlanError(f"{name}: cannot join {len(source.parts)} parts along axis {source.axis} of {want}")
    if any(isinstance(part, Fill) for part in source.parts):
        raise PlanError(f"{name}: a part of a Stack needs a shape of its own; take it with holes instead of filling")
    shapes = [_shape(part, old, name, want, known) for part in source.parts]
    rests = {shape[: source.axis] + shape[source.axis + 1 :] for shape in shapes}
    if len(rests) != 1:
        raise PlanError(f"{name}: parts of shapes {shapes} do not join along axis {source.axis}")
    first = list(shapes[0])
    first[source.axis] = sum(shape[source.axis] for shape in shapes)
    return tuple(first)
