"""Weights of generated networks, and transfers of them, in float64 numpy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nasir.ir import Graph, Port
from nasir.ir.space import Atom, atoms_of, positions
from nasir.ir.types import FLOAT
from nasir.testing.interpreter import Array
from nasir.transfer import Key, NumpyArrays, TransferPlan, execute


def random_weights(graph: Graph, seed: int) -> dict[Key, Array]:
    """Generic float64 weights: nothing is zero, one or equal, variances are positive, readers keep the scale."""
    rng = np.random.default_rng(seed)
    made: dict[Key, Array] = {}
    for node_id in graph.order:
        for name, slot in graph.infer.slots[node_id].items():
            if slot.dtype == "int64":
                made[Key(node_id, name)] = np.array(3, dtype=np.int64)
            elif name == "running_var" or "norm" in slot.tags:
                made[Key(node_id, name)] = rng.uniform(0.5, 1.5, slot.shape)
            else:
                fan_in = max(1, int(np.prod(slot.shape[1:])))
                made[Key(node_id, name)] = rng.normal(0.0, fan_in**-0.5, slot.shape)
    return made


def random_batch(graph: Graph, seed: int, n: int = 3) -> list[Array]:
    """`n` standard normal samples for each input; of one that takes other numbers, zeros and ones."""
    rng = np.random.default_rng(seed)
    values = [graph.infer.types[Port(node_id)] for node_id in graph.inputs]
    return [
        rng.normal(size=(n, *value.shape)) if value.dtype == FLOAT else rng.integers(0, 2, (n, *value.shape))
        for value in values
    ]


def transferred(
    plan: TransferPlan,
    new: Graph,
    old: dict[Key, Array],
    *,
    seed: int = 0,
    ordinal: int = 1,
    blobs: Mapping[str, Array] | None = None,
) -> dict[Key, Array]:
    """All weights of `new` by a plan: made ones from the executor, kept ones the very arrays of `old`."""
    made = execute(plan, new, lambda key: old[key], NumpyArrays(), seed=seed, ordinal=ordinal, blobs=blobs)
    weights: dict[Key, Array] = {}
    for node_id in new.order:
        for name in new.infer.slots[node_id]:
            key = Key(node_id, name)
            weights[key] = old[key] if key not in made else _exact(made[key])
    return weights


def _exact(array: Array) -> Array:
    """Fills are drawn in float32; what is computed from them later must not round like that."""
    return array.astype(np.float64) if array.dtype == np.float32 else array


def silence(graph: Graph, weights: dict[Key, Array], units: dict[Atom, Array]) -> None:
    """Zero the `units` (positions) of spaces in everything that writes or normalizes them: they put out 0."""
    takes = {}
    for space, dead in units.items():
        index = np.arange(space.size)
        index[dead] = -1
        takes[space] = index
    for node_id, slots in graph.infer.slots.items():
        for name, slot in slots.items():
            for number, (axis, _) in enumerate(slot.axes):
                written = {atom: takes[atom] for atom in atoms_of(slot.written(number)) if atom in takes}
                index_or_none = positions(axis, written)
                # variances stay: they divide
                if index_or_none is not None and name != "running_var":
                    array = weights[Key(node_id, name)] = weights[Key(node_id, name)].copy()
                    np.moveaxis(array, number, 0)[index_or_none < 0] = 0.0
