"""Costs of networks with other widths, counted without building them, are those of the networks built."""

from __future__ import annotations

import numpy as np
import pytest

from nasir.analysis.sizing import Sizing
from nasir.ir import Atom, Graph
from nasir.testing import random_graph


def resized(graph: Graph, sizes: dict[Atom, int]) -> tuple[int, int]:
    draft = graph.draft()
    for atom, size in sizes.items():
        draft.select(atom, [unit if unit < atom.size else -1 for unit in range(size)])
    cost = draft.commit().cost()
    return cost.params, cost.macs


def drawn(graph: Graph, rng: np.random.Generator) -> dict[Atom, int]:
    return {space: int(rng.integers(1, 2 * space.size + 1)) for space in graph.infer.spaces if space.resizable}


@pytest.mark.parametrize("seed", range(12))
def test_sizes_cost_what_the_network_of_these_sizes_costs(seed: int) -> None:
    graph, rng = random_graph(seed, steps=8), np.random.default_rng(seed)
    sizing = Sizing(graph)
    assert tuple(sizing.cost({})) == (graph.cost().params, graph.cost().macs)
    first, second = drawn(graph, rng), drawn(graph, rng)
    assert tuple(sizing.cost(first)) == resized(graph, first)
    assert sizing.sizes == {} and tuple(sizing.cost({})) == (graph.cost().params, graph.cost().macs)
    sizing.move(first)
    assert tuple(sizing.cost({})) == resized(graph, first)
    for space, size in second.items():
        assert tuple(sizing.with_size(space, size)) == resized(graph, {**first, space: size})
    sizing.move(second)
    assert tuple(sizing.cost({})) == resized(graph, second)
    sizing.move({space: space.size for space in second})
    assert tuple(sizing.cost({})) == (graph.cost().params, graph.cost().macs)
