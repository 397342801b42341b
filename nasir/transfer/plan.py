"""`TransferPlan`: for every weight array of the new graph, exactly one source. `Keep` is implicit.

Arrays without an entry are kept: same node, slot and shape, and in a backend the very same tensor object.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nasir.errors import PlanError
from nasir.ir.draft import Draft
from nasir.ir.graph import Graph
from nasir.ir.space import Atom, atoms_of, positions
from nasir.ir.types import Fill, Slot
from nasir.transfer import source as sources
from nasir.transfer.fill import RULES
from nasir.transfer.source import AxisTake, Blob, Gain, Key, Source, Stack, Take

ZEROS = Fill("zeros")


@dataclass(frozen=True, slots=True)
class TransferPlan:
    """Sources of all arrays that are not simply kept."""

    sources: Mapping[Key, Source]

    def verify(self, old: Graph, new: Graph) -> None:
        """Check coverage, keys, indices and shapes without tensors; raises PlanError at the first fault."""
        before, after = old.infer.slots, new.infer.slots
        for key, source in self.sources.items():
            slot = after.get(key.node, {}).get(key.slot)
            if slot is None:
                raise PlanError(f"{_name(new, key)}: the new network has no such weight; drop this source")
            shape = _shape(source, old, _name(new, key), slot.shape)
            if shape != slot.shape:
                raise PlanError(f"{_name(new, key)}: its source has shape {shape}, the weight has {slot.shape}")
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
                    raise PlanError(f"{_name(new, Key(node_id, name))}: new weight without a source; fill or take it")
                if kept.shape != slot.shape or old.nodes[node_id].op != new.nodes[node_id].op:
                    raise PlanError(
                        f"{_name(new, Key(node_id, name))}: kept, but its shape changes from {kept.shape} "
                        f"to {slot.shape}; take it by an index"
                    )

    def to_json(self) -> list[Any]:
        """[[node, slot, source], ...]"""
        return [[*key, sources.to_json(source)] for key, source in self.sources.items()]

    @staticmethod
    def from_json(data: list[Any]) -> TransferPlan:
        """Inverse of `to_json`."""
        return TransferPlan({Key(node, slot): sources.from_json(source) for node, slot, source in data})


def _unchanged(old: Graph, new: Graph, node_id: int) -> bool:
    """Whether a node is the very same and reads the same shapes: its weights then have the same shapes."""
    node = new.nodes[node_id]
    if old.nodes.get(node_id) is not node:
        return False
    before, after = old.infer.types, new.infer.types
    return all(port in before and before[port].shape == after[port].shape for port in node.inputs)


def _name(graph: Graph, key: Key) -> str:
    node = graph.nodes.get(key.node)
    return f"{node.label}.{key.slot}" if node else f"node {key.node}.{key.slot}"


def _shape(source: Source, old: Graph, name: str, want: tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(source, Fill):
        if source.rule not in RULES:
            raise PlanError(f"{name}: unknown initializer {source.rule!r}; known: {', '.join(RULES)}")
        return want
    if isinstance(source, Blob):
        return source.shape
    if isinstance(source, Stack):
        return _stack_shape(source, old, name, want)
    slot = old.infer.slots.get(source.key.node, {}).get(source.key.slot)
    if slot is None:
        raise PlanError(f"{name}: its source {tuple(source.key)} is not a weight of the old network")
    if not 0.0 <= source.noise < np.inf:
        raise PlanError(f"{name}: noise must be a finite number of at least 0, not {source.noise}")
    if len(source.axes) != len(slot.shape):
        raise PlanError(f"{name}: its source has {len(slot.shape)} axes, the plan indexes {len(source.axes)}")
    return tuple([_axis_size(axis, size, name) for axis, size in zip(source.axes, slot.shape, strict=True)])


def _axis_size(axis: AxisTake | None, size: int, name: str) -> int:
    if axis is None:
        return size
    index = axis.index
    if index.dtype.kind not in "iu":
        raise PlanError(f"{name}: an index holds whole numbers, not {index.dtype}")
    if index.ndim != 1 or (len(index) and (index.min() < -1 or index.max() >= size)):
        raise PlanError(f"{name}: index out of range -1..{size - 1}")
    if axis.gain is not None and axis.gain.shape != index.shape:
        raise PlanError(f"{name}: {len(axis.gain)} gains for {len(index)} positions")
    if axis.gain is not None and not bool(np.isfinite(axis.gain).all()):
        raise PlanError(f"{name}: gains must be finite numbers")
    if axis.fill is None and bool((index < 0).any()):
        raise PlanError(f"{name}: the index has holes but names no initializer for them")
    if axis.fill is not None and axis.fill.rule not in RULES:
        raise PlanError(f"{name}: unknown initializer {axis.fill.rule!r}; known: {', '.join(RULES)}")
    return len(index)


def _stack_shape(source: Stack, old: Graph, name: str, want: tuple[int, ...]) -> tuple[int, ...]:
    if not 0 <= source.axis < len(want) or not source.parts:
        raise PlanError(f"{name}: cannot join {len(source.parts)} parts along axis {source.axis} of {want}")
    if any(isinstance(part, Fill) for part in source.parts):
        raise PlanError(f"{name}: a part of a Stack needs a shape of its own; take it with holes instead of filling")
    shapes = [_shape(part, old, name, want) for part in source.parts]
    rests = {shape[: source.axis] + shape[source.axis + 1 :] for shape in shapes}
    if len(rests) != 1:
        raise PlanError(f"{name}: parts of shapes {shapes} do not join along axis {source.axis}")
    first = list(shapes[0])
    first[source.axis] = sum(shape[source.axis] for shape in shapes)
    return tuple(first)


def derive(draft: Draft, new: Graph) -> TransferPlan:
    """The plan of a committed draft: kept, resized, copied and fresh arrays; raises PlanError where none follows."""
    for node_id, name in (*draft.fills, *draft.copies):
        if node_id in new.nodes and name not in new.infer.slots[node_id]:
            known = ", ".join(new.infer.slots[node_id]) or "none"
            raise PlanError(f"{_name(new, Key(node_id, name))}: there is no such weight to set, only {known}")
    found: dict[Key, Source] = {}
    old = draft.base
    before = old.infer.slots if old else {}
    explicit_nodes = {node_id for node_id, _ in (*draft.fills, *draft.copies)}
    for node_id, slots in new.infer.slots.items():
        was = before.get(node_id)
        if was is not None and not draft.selected and node_id not in explicit_nodes and was.keys() == slots.keys():
            continue  # nothing was resized: all of it is kept
        for name, slot in slots.items():
            key = Key(node_id, name)
            explicit = _explicit(draft, key, slot)
            if explicit is not None:
                found[key] = explicit
            elif was is None or name not in was:
                found[key] = slot.init
            elif draft.selected:
                taken = _taken(draft, key, was[name], slot)
                if taken is not None:
                    found[key] = taken
    plan = TransferPlan(found)
    plan.verify(old if old is not None else _EMPTY, new)
    return plan


_EMPTY = Graph({}, (), {}, 0)


def _explicit(draft: Draft, key: Key, slot: Slot) -> Source | None:
    if key in draft.fills:
        return draft.fills[key]
    if key in draft.copies:
        return Take(Key(*draft.copies[key]), (None,) * len(slot.axes))
    return None


def _taken(draft: Draft, key: Key, old: Slot, new: Slot) -> Take | None:
    axes: list[AxisTake | None] = []
    for space, role in old.axes:
        index = positions(space, draft.selected)
        if index is None:
            axes.append(None)
        elif role == "read":
            # readers of replicas share the weight, readers of fresh units start at zero: the function is kept
            axes.append(AxisTake(index, _shares(index), ZEROS))
        else:
            axes.append(AxisTake(index, None, new.init))
    if all(axis is None for axis in axes):
        return None
    noise = max((draft.noise.get(atom, 0.0) for atom in _atoms(draft, old)), default=0.0)
    return Take(key, tuple(axes), noise if new.kind == "param" and len(new.axes) > 1 else 0.0)


def _atoms(draft: Draft, slot: Slot) -> list[Atom]:
    return [atom for space, _ in slot.axes for atom in atoms_of(space) if atom in draft.selected]


def _shares(index: np.ndarray) -> Gain | None:
    """1 / number of replicas of each position; None when nothing is replicated."""
    real = index[index >= 0]
    counts = np.bincount(real, minlength=1)
    if len(real) == 0 or counts.max() <= 1:
        return None
    # a hole reads unit 0's count, which may be none
    return np.where(index >= 0, 1.0 / np.maximum(counts[np.maximum(index, 0)], 1), 1.0)
