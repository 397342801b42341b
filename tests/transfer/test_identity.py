"""Numbers of weights through rewrites: what is kept keeps its number, what is new gets one, no two share one."""

from __future__ import annotations

import numpy as np

import nasir
from nasir.ir import Graph
from nasir.passes.insert_block import InsertBlock
from nasir.passes.remove_block import RemoveBlock
from nasir.passes.split_branches import SplitBranches
from nasir.passes.widen import Widen
from nasir.testing import random_weights, transferred
from nasir.transfer import Coordinates

SPEC = """
nasir: 1
input: {image: [3, 8, 8]}
network:
  - conv_bn_relu: {out: 4, kernel: 3}
  - stage: {name: s1, block: basic, out: 4, depth: 2}
  - stage: {name: s2, block: basic, out: 8, depth: 1, stride: 2}
  - classifier: {classes: 3}
data: {dataset: synthetic}
phases: [{name: train, epochs: 1, optimizer: {sgd: {lr: 0.1}}}]
"""


def network() -> Graph:
    return nasir.build(nasir.loads_spec(SPEC))


def all_numbers(coordinates: Coordinates) -> list[int]:
    return np.concatenate([numbers.ravel() for numbers in coordinates.of.values()]).tolist()


def test_a_new_block_gets_new_numbers_and_all_others_stay() -> None:
    graph = network()
    first = Coordinates.first(graph)
    assert all_numbers(first) == list(range(first.count)) and first.count == graph.cost().params
    rewrite = InsertBlock(init="gaussian").apply(graph, "s1")
    assert rewrite is not None
    second = first.after(rewrite.plan, rewrite.graph)
    assert second.count == rewrite.graph.cost().params
    assert all(np.array_equal(second.of[key], numbers) for key, numbers in first.of.items())
    assert sorted(all_numbers(second)) == list(range(second.count))


def test_numbers_of_removed_weights_are_not_given_out_again() -> None:
    graph = network()
    first = Coordinates.first(graph)
    away = RemoveBlock().apply(graph, "s1.1")
    assert away is not None
    fewer = first.after(away.plan, away.graph)
    assert fewer.count == first.count and set(all_numbers(fewer)) < set(all_numbers(first))
    again = InsertBlock().apply(away.graph, "s1")
    assert again is not None
    more = fewer.after(again.plan, again.graph)
    assert set(all_numbers(more)) & set(all_numbers(first)) == set(all_numbers(fewer))


def test_moved_entries_are_followed_by_value() -> None:
    """Whichever pass: an entry that keeps its number keeps its value, up to the share that a reader of copies has."""
    graph = network()
    space = next(space for space in graph.infer.spaces if space.resizable and space.size == 8)
    first, weights = Coordinates.first(graph), random_weights(graph, 5)
    for rewrite, shares in (
        (Widen(factor=1.5, symmetry="none").attempt(graph, space), {1.0, 0.5}),
        (SplitBranches(branches=2, reset_norms=False).attempt(graph, "s2"), {1.0}),
    ):
        second = first.after(rewrite.plan, rewrite.graph)
        numbers = np.array(all_numbers(second))
        assert len(set(numbers.tolist())) == len(numbers) == rewrite.graph.cost().params
        after = transferred(rewrite.plan, rewrite.graph, weights)
        old = np.concatenate([weights[key].ravel() for key in first.of])
        new = np.concatenate([after[key].ravel() for key in second.of])
        kept = numbers < first.count
        ratios = set(np.round(new[kept] / old[numbers[kept]], 9).tolist())
        assert ratios == shares, ratios
