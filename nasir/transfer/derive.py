"""The plan that a committed draft implies, from its spaces and from the sources it states for single weights."""

from __future__ import annotations

import numpy as np

from nasir.errors import PlanError
from nasir.ir.graph import Draft, Graph
from nasir.ir.source import AxisTake, Gain, Key, Source, Take, Twin
from nasir.ir.space import Atom, Axis, Index, atoms_of, positions, positions_after, resolve, size_after
from nasir.ir.structure import NOTHING
from nasir.ir.types import Fill, Slot
from nasir.transfer.plan import TransferPlan, weight_name

ZEROS = Fill("zeros")


def derive(draft: Draft, new: Graph) -> TransferPlan:
    """The plan of a committed draft: kept, resized, copied and fresh arrays; raises PlanError where it implies none."""
    origins, old = draft.origins, draft.base
    told = origins.named()
    for key in told:
        if key in new.ties:
            continue  # what its owner is told holds
        if key.node in new.nodes and key.slot not in new.infer.slots[key.node]:
            known = ", ".join(new.infer.slots[key.node]) or "none"
            raise PlanError(f"{weight_name(new, key)}: there is no such weight to set, only {known}")
    sources: dict[Key, Source] = {}
    before = old.infer.slots if old else {}
    resizing = _Resizing(draft)
    formerly = old.ties if old else {}
    told_nodes = {key.node for key in told}
    for node_id, slots in new.infer.slots.items():
        was = before.get(node_id)
        if was is not None and not draft.resized and node_id not in told_nodes and was.keys() == slots.keys():
            continue  # nothing was resized: all of it is kept
        for name, slot in slots.items():
            key = Key(node_id, name)
            said = origins.of(key, len(slot.axes)) if node_id in told_nodes else None
            if said is not None:
                sources[key] = said
            elif key in formerly:  # it was another node's array, and has become this one's
                owner = formerly[key]
                taken = resizing.taken(owner, before[owner.node][owner.slot], slot) if draft.resized else None
                sources[key] = taken or Take(owner, (None,) * len(slot.axes))
            elif was is None or name not in was:
                sources[key] = slot.init
            elif draft.resized:
                taken = resizing.taken(key, was[name], slot)
                if taken is not None:
                    sources[key] = taken
    plan = TransferPlan(sources)
    plan.verify(old or NOTHING, new)
    return plan


class _Resizing:
    """How weights follow the spaces that a draft resizes."""

    def __init__(self, draft: Draft) -> None:
        self.resized, self.index = draft.resized, draft.selected
        self.noisy = any(resize.noise for resize in self.resized.values())
        # by ids of space, initializer and groups, and whether it is read: arrays along one space share one index
        self.known: dict[tuple[int, bool, int, int], AxisTake | None] = {}

    def taken(self, key: Key, old: Slot, new: Slot) -> Take | None:
        """The part taken of a weight that existed before; None where none of its axes is resized."""
        axes: list[AxisTake | None] = []
        for space, role in old.axes:
            if isinstance(space, int):
                axes.append(None)
                continue
            end = resolve(space)
            same = (id(end if isinstance(end, Atom) else space), role == "read", id(new.init), id(old.groups))
            if same not in self.known:
                self.known[same] = self._along(space, role == "read", new.init, old.groups)
            axes.append(self.known[same])
        if all(axis is None for axis in axes):
            return None
        if new.kind != "param" or len(new.axes) < 2 or not self.noisy:
            return Take(key, tuple(axes))
        return Take(key, tuple(axes), self._noise(old))

    def _noise(self, slot: Slot) -> float:
        """The largest noise of the spaces that a weight has."""
        atoms = [atom for space, _ in slot.axes for atom in atoms_of(space)]
        return max((self.resized[atom].noise for atom in atoms if atom in self.resized), default=0.0)

    def _along(self, space: Axis, read: bool, init: Fill, groups: Axis) -> AxisTake | None:
        index = positions(space, self.index)
        if index is None:
            return None
        apart = set(atoms_of(groups))
        summed = {atom: self.index[atom] for atom in atoms_of(space) if atom in self.index and atom not in apart}
        if not read or not summed:  # nothing new is summed over
            return AxisTake(index, None, init, self._twin(space))
        # readers of replicas share the weight, readers of fresh units start at zero: the function is kept
        inside = positions(space, summed) if apart else index
        assert inside is not None
        shares = _shares(inside)
        if shares is not None and apart:
            replicas = {atom: self.index[atom] for atom in apart if atom in self.index}
            place = positions_after(space, summed, replicas)
            shares = np.where(place >= 0, shares[place], 1.0)
        twin = self._twin(space, apart)
        return AxisTake(index, shares, ZEROS if twin is None else init, twin)

    def _twin(self, space: Axis, apart: set[Atom] | None = None) -> Twin | None:
        """How paired fresh units are tied along an axis.

        Where it is read (`apart`: what is not summed over) they are opposite, and other fresh units get the factor 0.
        """
        atoms = dict.fromkeys(atoms_of(space))
        paired = [atom for atom in atoms if atom in self.resized and self.resized[atom].paired]
        if not paired:
            return None
        size = size_after(space, self.index)
        everyone = np.arange(size)
        of, sign, tied = everyone, np.ones(size), np.zeros(size, dtype=bool)
        for atom in paired:
            index = self.index[atom]
            fresh = np.flatnonzero(index < 0)
            first, marks = np.arange(len(index)), np.arange(len(index))
            both = len(fresh) // 2 * 2  # an odd one at the end has no partner
            first[fresh[1:both:2]] = fresh[0:both:2]
            marks[fresh[:both]] = -1
            partner = positions_after(space, self.index, {atom: first})
            if apart is not None and atom not in apart:
                sign = np.where(partner == everyone, sign, -sign)
            of = partner[of]
            tied |= positions_after(space, self.index, {atom: marks}) < 0
        return Twin(of, np.ones(size) if apart is None else np.where(tied, sign, 0.0))


def _shares(index: Index) -> Gain | None:
    """1 / number of replicas of each position; None when nothing is replicated."""
    real = index[index >= 0]
    counts = np.bincount(real, minlength=1)
    if len(real) == 0 or counts.max() <= 1:
        return None
    # a hole reads unit 0's count, which may be none
    return np.where(index >= 0, 1.0 / np.maximum(counts[np.maximum(index, 0)], 1), 1.0)
