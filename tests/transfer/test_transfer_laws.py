"""Laws of transfers over generated networks, in float64 with the reference interpreter as the judge."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nasir.ir import Atom, Fill, Graph, Index, positions
from nasir.testing import (
    MIXING,
    STIRRING,
    evaluate,
    random_batch,
    random_graph,
    random_weights,
    silence,
    transferred,
)
from nasir.transfer import Key, TransferPlan, derive, fill, random_stream
from nasir.transfer.fill import PIECE

SEEDS = range(20)
BOUND = 1e-12  # relative to the largest output


def chosen(graph: Graph, rng: np.random.Generator) -> list[Atom]:
    spaces = [space for space in graph.infer.spaces if space.resizable and rng.random() < 0.6]
    return spaces or [space for space in graph.infer.spaces if space.resizable][:1]


def resized(graph: Graph, index: dict[Atom, Index], noise: float = 0.0) -> tuple[Graph, TransferPlan]:
    draft = graph.draft()
    for space, picked in index.items():
        draft.select(space, picked, noise)
    new = draft.commit()
    return new, derive(draft, new)


def difference(
    old: Graph, new: Graph, before: dict[Key, np.ndarray], after: dict[Key, np.ndarray], train: bool
) -> float:
    batch = random_batch(old, 5)
    expected = evaluate(old, before, batch, train)
    return float(abs(evaluate(new, after, batch, train) - expected).max() / max(1.0, abs(expected).max()))


@pytest.mark.parametrize("seed", SEEDS)
def test_selecting_everything_keeps_everything(seed: int) -> None:
    graph = random_graph(seed)
    new, plan = resized(graph, {s: np.arange(s.size) for s in graph.infer.spaces if s.resizable})
    assert new == graph and not plan.sources
    weights = random_weights(graph, seed)
    assert all(transferred(plan, new, weights)[key] is array for key, array in weights.items())


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("seed", SEEDS)
def test_replicated_units_keep_the_function(seed: int, train: bool) -> None:
    graph = random_graph(seed, without=MIXING)
    rng = np.random.default_rng(seed)
    index = {s: np.append(rng.permutation(s.size), rng.integers(0, s.size, 3)) for s in chosen(graph, rng)}
    new, plan = resized(graph, index)
    weights = random_weights(graph, seed)
    assert difference(graph, new, weights, transferred(plan, new, weights), train) < BOUND


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("seed", SEEDS)
def test_fresh_units_keep_the_function(seed: int, train: bool) -> None:
    graph = random_graph(seed, without=MIXING)
    rng = np.random.default_rng(seed)
    index = {s: np.concatenate([[-1], np.arange(s.size), [-1, -1]]) for s in chosen(graph, rng)}
    new, plan = resized(graph, index)
    weights = random_weights(graph, seed)
    assert difference(graph, new, weights, transferred(plan, new, weights), train) < BOUND


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("seed", SEEDS)
def test_silent_units_can_be_removed_exactly(seed: int, train: bool) -> None:
    graph = random_graph(seed, without=MIXING | STIRRING)
    rng = np.random.default_rng(seed)
    spaces = [space for space in chosen(graph, rng) if space.size > 1]
    keep = {s: np.sort(rng.choice(s.size, s.size - s.size // 2, replace=False)) for s in spaces}
    weights = random_weights(graph, seed)
    silence(graph, weights, {s: np.setdiff1d(np.arange(s.size), kept) for s, kept in keep.items()})
    new, plan = resized(graph, keep)
    assert difference(graph, new, weights, transferred(plan, new, weights), train) < BOUND


@pytest.mark.parametrize("how", ["fresh", "replicated"])
@pytest.mark.parametrize("seed", SEEDS)
def test_widening_then_pruning_back_restores_every_array(seed: int, how: str) -> None:
    """Fresh units leave the old weights as they are; readers of replicas keep their share."""
    graph = random_graph(seed)
    rng = np.random.default_rng(seed)
    spaces = chosen(graph, rng)
    weights = random_weights(graph, seed)
    # every unit twice when replicated: halves are exact in binary
    again = {s: np.full(2, -1) if how == "fresh" else np.arange(s.size) for s in spaces}
    wide, plan = resized(graph, {s: np.append(np.arange(s.size), again[s]) for s in spaces})
    wider = transferred(plan, wide, weights)
    names = {space.name: space for space in wide.infer.spaces}  # follow labels, which a resize leaves alone
    narrow, plan = resized(wide, {names[s.name]: np.arange(s.size) for s in spaces})
    restored = transferred(plan, narrow, wider)
    assert narrow.digest == graph.digest and narrow.nodes == graph.nodes
    assert restored.keys() == weights.keys()
    for key, array in weights.items():
        expected = array if how == "fresh" else shared(graph, key, array, set(spaces))
        assert np.array_equal(restored[key], expected), graph.nodes[key.node].label


def shared(graph: Graph, key: Key, array: np.ndarray, spaces: set[Atom]) -> np.ndarray:
    """What is left of a weight that shared itself with replicas: a half along reading axes for each doubled factor."""
    doubled = {space: np.tile(np.arange(space.size), 2) for space in spaces}
    for number, (axis, role) in enumerate(graph.infer.slots[key.node][key.slot].axes):
        index = positions(axis, doubled) if role == "read" else None
        if index is not None:
            shape = [-1 if other == number else 1 for other in range(array.ndim)]
            array = array / np.bincount(index).reshape(shape)
    return array


@pytest.mark.parametrize("seed", SEEDS)
def test_plans_read_back_equal_from_json(seed: int) -> None:
    graph = random_graph(seed)
    rng = np.random.default_rng(seed)
    index = {s: np.concatenate([[-1], np.arange(s.size), [0]]) for s in chosen(graph, rng)}
    new, plan = resized(graph, index, noise=0.1)
    again = TransferPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again.to_json() == plan.to_json()
    again.verify(graph, new)
    weights = random_weights(graph, seed)
    first, second = transferred(plan, new, weights), transferred(again, new, weights)
    assert all(np.array_equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("seed", SEEDS)
def test_transfers_leave_the_old_arrays_alone_and_share_no_memory_with_made_ones(seed: int) -> None:
    graph = random_graph(seed)
    rng = np.random.default_rng(seed)
    new, plan = resized(graph, {s: np.append(np.arange(s.size), [0, -1]) for s in chosen(graph, rng)}, noise=0.1)
    weights = random_weights(graph, seed)
    copies = {key: array.copy() for key, array in weights.items()}
    after = transferred(plan, new, weights)
    assert all(np.array_equal(weights[key], copy) for key, copy in copies.items())
    for key in plan.sources:
        assert not any(np.shares_memory(after[key], array) for array in weights.values())


def test_noise_separates_replicas_and_touches_nothing_else() -> None:
    graph = random_graph(1, without=MIXING)
    space = next(s for s in graph.infer.spaces if s.resizable and s.size > 2)
    new, plan = resized(graph, {space: np.append(np.arange(space.size), [0])}, noise=0.05)
    quiet_graph, quiet_plan = resized(graph, {space: np.append(np.arange(space.size), [0])})
    weights = random_weights(graph, 1)
    noisy, quiet = transferred(plan, new, weights), transferred(quiet_plan, quiet_graph, weights)
    writer = next(
        key
        for key in plan.sources
        if len(noisy[key].shape) > 1
        and any(a is space and r == "write" for a, r in graph.infer.slots[key.node][key.slot].axes)
    )
    change = abs(noisy[writer] - quiet[writer]).reshape(space.size + 1, -1).max(axis=1)
    assert (change[[0, -1]] > 0).all() and not change[1:-1].any()
    assert not np.array_equal(noisy[writer][0], noisy[writer][-1])


def test_filling_depends_on_seed_ordinal_node_and_slot_only() -> None:
    graph = random_graph(2)
    rng = np.random.default_rng(2)
    new, plan = resized(graph, {s: np.append(np.arange(s.size), [-1]) for s in chosen(graph, rng)})
    weights = random_weights(graph, 2)
    backwards = TransferPlan(dict(reversed(plan.sources.items())))
    first = transferred(plan, new, weights, seed=3, ordinal=4)
    assert all(
        np.array_equal(array, first[key])
        for key, array in transferred(backwards, new, weights, seed=3, ordinal=4).items()
    )
    for seed, ordinal in ((3, 5), (4, 4)):
        other = transferred(plan, new, weights, seed=seed, ordinal=ordinal)
        assert any(not np.array_equal(array, first[key]) for key, array in other.items())


def test_large_arrays_drawn_one_after_another_from_a_stream_differ() -> None:
    rng = random_stream(0, 1, 2, "weight")
    first, second = (fill(Fill("normal"), (2, PIECE), rng) for _ in range(2))
    assert not (first == second).any()
    assert (first == fill(Fill("normal"), (2, PIECE), random_stream(0, 1, 2, "weight"))).all()
