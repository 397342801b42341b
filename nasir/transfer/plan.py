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
from nasir.ir.draft import Draft
from nasir.ir.graph import Graph
from nasir.ir.space import Atom, Axis, Index, atoms_of, positions, positions_after, resolve, size_after
from nasir.ir.types import Fill, Slot
from nasir.transfer import source as sources
from nasir.transfer.fill import RULES
from nasir.transfer.source import AxisTake, Blob, Gain, Key, Source, Stack, Sum, Take, Twin

ZEROS = Fill("zeros")
Ranges: TypeAlias = dict[int, tuple[int, int]]  # lowest and highest entry of an index, by its id
Taken: TypeAlias = dict[
    tuple[int, bool, int], AxisTake | None
]  # by ids of space and initializer, and whether it is read


@dataclass(frozen=True, slots=True)
class TransferPlan:
    """Sources of all arrays that are not simply kept."""

    sources: Mapping[Key, Source]

    def __repr__(self) -> str:
        """One line: how many arrays come from what kind of source; all others are kept."""
        kinds = Counter(type(source).__name__ for source in self.sources.values())
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        return f"<TransferPlan: {found or 'everything is kept'}>"

    def verify(self, old: Graph, new: Graph) -> None:
        """Check coverage, keys, indices and shapes without tensors; raises PlanError at the first fault."""
        before, after = old.infer.slots, new.infer.slots
        known: Ranges = {}
        for key, source in self.sources.items():
            slot = after.get(key.node, {}).get(key.slot)
            if slot is None:
                raise PlanError(f"{_name(new, key)}: the new network has no such weight; drop this source")
            want = slot.shape
            shape = _shape(source, old, _name(new, key), want, known)
            if shape != want:
                raise PlanError(f"{_name(new, key)}: its source has shape {shape}, the weight has {want}")
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


def _shape(source: Source, old: Graph, name: str, want: tuple[int, ...], known: Ranges) -> tuple[int, ...]:
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
    found = known.get(id(index))
    if found is None:
        found = known[id(index)] = (int(index.min()), int(index.max())) if len(index) else (0, -1)
    return found


def _axis_size(axis: AxisTake | None, size: int, name: str, known: Ranges) -> int:
    if axis is None:
        return size
    index = axis.index
    if index.dtype.kind not in "iu":
        raise PlanError(f"{name}: an index holds whole numbers, not {index.dtype}")
    low, high = _range(index, known) if index.ndim == 1 else (-2, 0)
    if low < -1 or high >= size:
        raise PlanError(f"{name}: index out of range -1..{size - 1}")
    if axis.gain is not None and axis.gain.shape != index.shape:
        raise PlanError(f"{name}: {len(axis.gain)} gains for {len(index)} positions")
    if axis.gain is not None and not bool(np.isfinite(axis.gain).all()):
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


def _sum_shape(source: Sum, old: Graph, name: str, want: tuple[int, ...], known: Ranges) -> tuple[int, ...]:
    if not source.parts or any(isinstance(p, Fill) for p in source.parts) or not np.isfinite(source.gain):
        raise PlanError(f"{name}: a sum needs parts, none of them filled, and a finite gain")
    shapes = [_shape(part, old, name, want, known) for part in source.parts]
    if len(set(shapes)) != 1:
        raise PlanError(f"{name}: parts of shapes {shapes} have no sum")
    return shapes[0]


def _stack_shape(source: Stack, old: Graph, name: str, want: tuple[int, ...], known: Ranges) -> tuple[int, ...]:
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


def derive(draft: Draft, new: Graph) -> TransferPlan:
    """The plan of a committed draft: kept, resized, copied and fresh arrays; raises PlanError where none follows."""
    for node_id, name in (*draft.fills, *draft.copies, *draft.sources):
        if node_id in new.nodes and name not in new.infer.slots[node_id]:
            known = ", ".join(new.infer.slots[node_id]) or "none"
            raise PlanError(f"{_name(new, Key(node_id, name))}: there is no such weight to set, only {known}")
    found: dict[Key, Source] = {}
    old = draft.base
    before = old.infer.slots if old else {}
    takes: Taken = {}
    explicit_nodes = {node_id for node_id, _ in (*draft.fills, *draft.copies, *draft.sources)}
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
                taken = _taken(draft, key, was[name], slot, takes)
                if taken is not None:
                    found[key] = taken
    plan = TransferPlan(found)
    plan.verify(old if old is not None else _EMPTY, new)
    return plan


_EMPTY = Graph({}, (), {}, 0)


def _explicit(draft: Draft, key: Key, slot: Slot) -> Source | None:
    if key in draft.sources:
        given: Source = draft.sources[key]
        return given
    if key in draft.fills:
        return draft.fills[key]
    if key in draft.copies:
        return Take(Key(*draft.copies[key]), (None,) * len(slot.axes))
    return None


def _taken(draft: Draft, key: Key, old: Slot, new: Slot, known: Taken) -> Take | None:
    axes: list[AxisTake | None] = []
    for space, role in old.axes:
        if isinstance(space, int):
            axes.append(None)
            continue
        end = resolve(space)
        same = (id(end if isinstance(end, Atom) else space), role == "read", id(new.init))
        if same not in known:
            known[same] = _along(draft, space, role == "read", new.init)
        axes.append(known[same])
    if all(axis is None for axis in axes):
        return None
    if new.kind != "param" or len(new.axes) < 2 or not any(draft.noise.values()):
        return Take(key, tuple(axes))
    return Take(key, tuple(axes), max((draft.noise.get(atom, 0.0) for atom in _atoms(draft, old)), default=0.0))


def _along(draft: Draft, space: Axis, read: bool, init: Fill) -> AxisTake | None:
    index = positions(space, draft.selected)
    if index is None:
        return None
    if not read:
        return AxisTake(index, None, init, _twin(space, draft, opposite=False))
    # readers of replicas share the weight, readers of fresh units start at zero: the function is kept
    twin = _twin(space, draft, opposite=True)
    return AxisTake(index, _shares(index), ZEROS if twin is None else init, twin)


def _twin(space: Axis, draft: Draft, opposite: bool) -> Twin | None:
    """How paired fresh units are tied along an axis; other fresh units get the factor 0 where it is read."""
    paired = [atom for atom in dict.fromkeys(atoms_of(space)) if atom in draft.paired and atom in draft.selected]
    if not paired:
        return None
    size = size_after(space, draft.selected)
    everyone = np.arange(size)
    of, sign, tied = everyone, np.ones(size), np.zeros(size, dtype=bool)
    for atom in paired:
        index = draft.selected[atom]
        fresh = np.flatnonzero(index < 0)
        first, marks = np.arange(len(index)), np.arange(len(index))
        both = len(fresh) // 2 * 2  # an odd last one stays alone
        first[fresh[1:both:2]] = fresh[0:both:2]
        marks[fresh[:both]] = -1
        partner = positions_after(space, draft.selected, {atom: first})
        sign = np.where(partner == everyone, sign, -sign)
        of = partner[of]
        tied |= positions_after(space, draft.selected, {atom: marks}) < 0
    return Twin(of, np.where(tied, sign, 0.0) if opposite else np.ones(size))


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
