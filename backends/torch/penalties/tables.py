"""Which weight arrays give a value to which units of which spaces, as index tables for sums in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nasir.blocks.alive import written_below
from nasir.ir import Atom, Graph
from nasir.ir.space import Axis, Cat, atoms_of, resolve, size_of
from nasir.training.penalties import PenaltyPlan
from nasir.training.shipped_penalties import ResourcePenalty
from nasir.transfer import Key

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Member:
    """A weight array that gives values to units: those along its axis number `axis`, which has `size` positions."""

    key: Key
    axis: int
    space: Axis
    entries: int  # weights at each position

    @property
    def size(self) -> int:
        return size_of(self.space)


def members_of(graph: Graph, of_norms: bool) -> list[Member]:
    """The arrays that count: the scales of norms, or else what writes a space but biases."""
    members = []
    for node_id in graph.order:
        for name, slot in graph.infer.slots[node_id].items():
            if slot.kind != "param" or "bias" in slot.tags or ("norm" in slot.tags) is not of_norms:
                continue
            for number, (space, role) in enumerate(slot.axes):
                if role == ("along" if of_norms else "write") and not isinstance(space, int):
                    members.append(Member(Key(node_id, name), number, space, slot.size // size_of(space)))
    return members


def regularized(graph: Graph, plan: ResourcePenalty | PenaltyPlan) -> tuple[list[Atom], list[Member]]:
    """The spaces that have values, and the arrays that give them.

    Left out: spaces that cannot be resized (input, logits), that no array gives a value, or that one writes whose
    label is excluded.
    """
    members = members_of(graph, plan.of_norms)
    barred = written_below(graph, plan.exclude)
    spread = {atom for member in members for atom in atoms_of(member.space)}
    atoms = [atom for atom in graph.infer.spaces if atom in spread and atom.resizable and atom not in barred]
    kept = set(atoms)
    return atoms, [member for member in members if not kept.isdisjoint(atoms_of(member.space))]


def occurrences(axis: Axis, positions: Index) -> list[tuple[Atom, Index]]:
    """For each atom along an axis, each time it occurs: [size, n], the `positions` that belong to each unit."""
    whole = resolve(axis)
    if isinstance(whole, int):
        return []
    if isinstance(whole, Atom):
        return [(whole, positions.reshape(whole.size, -1))]
    pairs: list[tuple[Atom, Index]] = []
    if isinstance(whole, Cat):
        end = 0
        for part in whole.parts:
            end += part.size
            pairs += occurrences(part, positions[end - part.size : end])
        return pairs
    grid = positions.reshape([*[size_of(part) for part in whole.parts], -1])
    for number, factor in enumerate(whole.parts):
        pairs += occurrences(factor, np.moveaxis(grid, number, 0).reshape(size_of(factor), -1))
    return pairs


class Sum:
    """Sums of groups of entries of a vector, in a fixed order: deterministic on every device."""

    def __init__(self, groups: Sequence[Index], device: torch.device) -> None:
        index = np.concatenate(groups) if groups else np.empty(0, dtype=np.int64)
        lengths = np.array([len(group) for group in groups], dtype=np.int64)
        self.index = torch.from_numpy(index).to(device)
        self.lengths = None if (lengths == 1).all() else torch.from_numpy(lengths).to(device)

    def __call__(self, values: Tensor) -> Tensor:
        picked = values[self.index]
        return picked if self.lengths is None else segments(picked, "sum", self.lengths)


def segments(values: Tensor, how: str, lengths: Tensor) -> Tensor:
    """ "sum" or "max" of consecutive runs of rows, one after another: no atomics, so every call gives the same bits."""
    return torch.segment_reduce(values, how, lengths=lengths, axis=0, unsafe=True)


class Products:
    """Sums of products c * a[i] * a[j] ..., gathered into `size` targets."""

    def __init__(self, rows: Sequence[tuple[int, tuple[int, ...], float]], size: int, device: torch.device) -> None:
        ones = max([len(factors) for _, factors, _ in rows], default=0)
        padded = np.full((len(rows), ones), -1, dtype=np.int64)  # -1: the last entry of the counts, a one
        by_target: list[list[int]] = [[] for _ in range(size)]
        for number, (target, factors, _) in enumerate(rows):
            padded[number, : len(factors)] = factors
            by_target[target].append(number)
        self.factors = torch.from_numpy(padded).to(device)
        values = np.array([value for _, _, value in rows], dtype=np.float64)
        self.values = torch.from_numpy(values).to(device)
        self.gather = Sum([np.array(numbers, dtype=np.int64) for numbers in by_target], device)

    def __call__(self, counts: Tensor, weights: Tensor | None = None) -> Tensor:
        """[size] float64; `counts` ends with a one, `weights` multiply the products."""
        each = self.values * counts[self.factors % len(counts)].prod(1)
        return self.gather(each if weights is None else each * weights)
