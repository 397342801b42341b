"""Oracles for the units of a space, on a network as it is: what may be permuted or silenced along given axes.

Both work on arrays by name and a function that runs the network, so that they need neither a graph nor an importer:

    run = nasir.backends.torch.importing.runner(module, (images,))
    axes = {"conv1.weight": 0, "bn1.weight": 0, "bn1.bias": 0, "bn1.running_mean": 0, ..., "conv2.weight": 1}
    assert permutation_difference(run, state, axes) < 1e-9
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nasir.errors import NasirError
from nasir.ir import Graph
from nasir.ir.space import Atom, atoms_of, positions

Array: TypeAlias = NDArray[Any]
Labels: TypeAlias = Sequence[int] | Array
Run: TypeAlias = Callable[[Mapping[str, Array]], Sequence[Array]]
"""Outputs of a network for the state that it is given, always on the same inputs."""

UnitAxes: TypeAlias = Mapping[str, int | Mapping[int, Labels | None]]
"""Where a space runs, by the key of the state: an axis whose positions are the units, or a mapping of axes.

The mapping gives the unit of each position along an axis (-1: of none), where units have several positions or there are
others beside them; None where the positions are the units.
"""


def permutation_difference(run: Run, state: Mapping[str, Array], axes: UnitAxes, seed: int = 0) -> float:
    """The largest absolute difference of the outputs when the units change places along all `axes` at once.

    0 but for rounding if these are all axes that run over the space, and no other. Raises NasirError for axes that do
    not exist, or have different numbers of units.
    """
    placed = _placed(state, axes)
    count = _unit_count(placed)
    if count < 2:
        raise NasirError("permutation: a space of one unit has no other order; give axes with two units or more")
    order = np.roll(np.random.default_rng(seed).permutation(count), 1)
    if (order == np.arange(count)).all():
        order = np.roll(order, 1)
    moved = dict(state)
    for key, axis, labels in placed:
        take = np.arange(len(labels))
        for unit in range(count):
            take[labels == unit] = np.flatnonzero(labels == order[unit])
        moved[key] = np.take(moved[key], take, axis)
    return largest_difference(run(state), run(moved))


def silenced(state: Mapping[str, Array], axes: UnitAxes, units: Sequence[int]) -> dict[str, Array]:
    """The state with `units` set to 0 along `axes`: give those that write and scale them, not those that read them.

    Arrays that are not changed are the same ones. Raises NasirError for axes and units that do not exist.
    """
    placed = _placed(state, axes)
    count = _unit_count(placed)
    wrong = [unit for unit in units if not 0 <= unit < count]
    if wrong:
        raise NasirError(f"silenced: unit {wrong[0]} of {count} does not exist; count from 0")
    quiet = dict(state)
    for key, axis, labels in placed:
        keep = ~np.isin(labels, np.asarray(units))
        shape = [1] * quiet[key].ndim
        shape[axis] = len(labels)
        quiet[key] = quiet[key] * keep.reshape(shape).astype(quiet[key].dtype)
    return quiet


def dead_unit_difference(
    run: Run, state: Mapping[str, Array], writers: UnitAxes, units: Sequence[int], pruned: Sequence[Array]
) -> float:
    """The largest absolute difference between the network with silent `units` and the outputs `pruned` of one without.

    `writers`: the axes along which the units are written, scaled and shifted. 0 but for rounding if the other network
    lacks just these units.
    """
    return largest_difference(run(silenced(state, writers, units)), pruned)


def largest_difference(ones: Sequence[Array], others: Sequence[Array]) -> float:
    """The largest absolute difference of arrays in pairs; infinite where numbers of arrays, shapes or NaNs differ."""
    if len(ones) != len(others) or any(a.shape != b.shape for a, b in zip(ones, others, strict=True)):
        return float("inf")
    apart = 0.0
    for one, other in zip(ones, others, strict=True):
        if one.size:
            with np.errstate(invalid="ignore"):  # of infinite ones
                difference = np.abs(one.astype(np.float64) - other.astype(np.float64))
            alike = (one == other) | (np.isnan(one) & np.isnan(other))
            apart = max(apart, float(np.nan_to_num(np.where(alike, 0.0, difference), nan=np.inf).max()))
    return apart


def unit_axes(graph: Graph, space: Atom, roles: Sequence[str] = ("read", "write", "along")) -> dict[str, Any]:
    """Where a space of a graph runs in the state of its network, as UnitAxes; only axes that play one of `roles`."""
    found: dict[str, Any] = {}
    for name, key in graph.weight_names.items():
        slot = graph.infer.slots[key.node][key.slot]
        axes = {
            number: _labels(axis, space)
            for number, (axis, role) in enumerate(slot.axes)
            if (role in roles and space in set(atoms_of(axis)))
            or (role == "read" and "write" in roles and space in set(atoms_of(slot.groups)))
        }
        if axes:
            found[name] = axes
    return found


def _labels(axis: Any, space: Atom) -> Array:
    """The unit of each position along an axis, -1 where there is none of the space."""
    labels: Array | None = None
    for unit in range(space.size):
        take = np.arange(space.size)
        take[unit] = -1
        index = positions(axis, {space: take})
        assert index is not None
        labels = np.full(len(index), -1) if labels is None else labels
        labels[index < 0] = unit
    assert labels is not None
    return labels


def _placed(state: Mapping[str, Array], axes: UnitAxes) -> list[tuple[str, int, Array]]:
    """(key, axis, unit of each position) of every axis; raises NasirError for those that do not exist."""
    placed = []
    for key, where in axes.items():
        if key not in state:
            raise NasirError(f"units: there is no {key!r} in the state; its keys are those of the state_dict")
        for axis, labels in ({where: None} if isinstance(where, int) else where).items():
            shape = state[key].shape
            if not 0 <= axis < len(shape):
                raise NasirError(f"units: {key!r} of shape {shape} has no axis {axis}")
            units = np.arange(shape[axis]) if labels is None else np.asarray(labels)
            if units.shape != (shape[axis],):
                raise NasirError(f"units: axis {axis} of {key!r} has length {shape[axis]}, and {units.size} labels")
            placed.append((key, axis, units))
    return placed


def _unit_count(placed: Sequence[tuple[str, int, Array]]) -> int:
    """The number of units, which all axes have alike; raises NasirError otherwise."""
    if not placed:
        raise NasirError("units: no axes are given")
    counts = {}
    for key, axis, labels in placed:
        inside = labels[labels >= 0]
        each = np.bincount(inside) if inside.size else np.zeros(1, dtype=int)
        if (each != each[0]).any() or not each[0]:
            raise NasirError(f"units: the units along axis {axis} of {key!r} have different numbers of positions")
        counts[f"axis {axis} of {key!r}"] = len(each)
    if len(set(counts.values())) > 1:
        told = ", ".join([f"{count} along {where}" for where, count in counts.items()])
        raise NasirError(f"units: the axes have different numbers of units: {told}")
    return next(iter(counts.values()))
