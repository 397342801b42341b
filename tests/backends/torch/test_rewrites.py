"""Chains of random rewrites: the torch model holds what numpy transfers and computes what the interpreter computes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from nasir.backends.torch import Model
from nasir.ir import Graph
from nasir.passes.insert_block import InsertBlock
from nasir.passes.remove_block import RemoveBlock
from nasir.rewriting.rewrite import Rewrite
from nasir.testing import evaluate, random_batch, random_graph, random_weights, transferred
from nasir.testing.backend_contract import Resize
from nasir.transfer import Key

Weights = dict[Key, np.ndarray[Any, Any]]


def resize(graph: Graph, rng: random.Random) -> Rewrite | None:
    """Prune, replicate and add units of a random space."""
    spaces = [space for space in graph.infer.spaces if space.resizable]
    space = rng.choice(spaces)
    index = tuple(rng.choice([-1, *range(space.size), *range(space.size)]) for _ in range(rng.randint(1, 6)))
    return Resize(index).apply(graph, space)


def insert(graph: Graph, rng: random.Random) -> Rewrite | None:
    change = InsertBlock(init=rng.choice(["zero", "gaussian", "copy", "default", "near_zero"]), block="copy")
    return change.apply(graph, rng.choice(list(change.sites(graph))))


def remove(graph: Graph, rng: random.Random) -> Rewrite | None:
    sites = list(RemoveBlock().sites(graph))
    return RemoveBlock().apply(graph, rng.choice(sites)) if sites else None


def place(model: Model, weights: Weights) -> None:
    with torch.no_grad():
        state = model.state_dict()
        for name, key in model.keys().items():
            state[name].copy_(torch.from_numpy(np.asarray(weights[key])))


@pytest.mark.parametrize("seed", range(20))
def test_a_chain_of_rewrites_agrees_with_numpy(seed: int) -> None:
    rng = random.Random(seed)
    graph = random_graph(seed, steps=6)
    weights: Weights = random_weights(graph, seed)
    model = Model.from_graph(graph, seed, dtype=torch.float64).eval()
    place(model, weights)
    done = 0
    for _ in range(6):
        rewrite = rng.choice([resize, resize, insert, remove])(model.graph, rng)
        if rewrite is None:
            continue
        done += 1
        made = transferred(rewrite.plan, rewrite.graph, weights, seed=seed, ordinal=done)
        weights = {key: a.astype(np.float64) if a.dtype.kind == "f" else a for key, a in made.items()}
        model.apply(rewrite)
        state = model.state_dict()
        assert model.ordinal == done and set(state) == set(model.keys())
        for name, key in model.keys().items():
            wanted = np.asarray(weights[key])
            assert state[name].shape == wanted.shape, (rewrite.site, name)
            error = np.abs(state[name].numpy() - wanted).max() if wanted.size else 0.0
            assert error <= 1e-12 * max(1.0, np.abs(wanted).max()), (rewrite.site, name)
        place(model, weights)
        batch = random_batch(model.graph, seed + done)
        with torch.no_grad():
            actual = model(*[torch.from_numpy(x) for x in batch]).numpy()
        wanted = evaluate(model.graph, weights, batch)
        assert np.abs(actual - wanted).max() <= 1e-10 * max(1.0, np.abs(wanted).max()), rewrite.site
    assert done


@pytest.mark.parametrize("seed", range(8))
def test_a_rewritten_network_is_the_one_lowered_anew(seed: int) -> None:
    """Sharing blocks and calls with the network before gives the code a fresh lowering would."""
    rng = random.Random(100 + seed)
    model = Model.from_graph(random_graph(seed, steps=6), seed, dtype=torch.float64)
    for _ in range(4):
        rewrite = rng.choice([resize, insert, remove])(model.graph, rng)
        if rewrite is not None:
            model.apply(rewrite)
    again = Model.from_graph(model.graph, seed, dtype=torch.float64)
    assert again.code == model.code
    assert {path: unit[1] for path, unit in again._units.items()} == {path: u[1] for path, u in model._units.items()}
    again.load_state_dict(model.state_dict())
    batch = [torch.from_numpy(x) for x in random_batch(model.graph, seed)]
    for training in (True, False):
        torch.manual_seed(seed)
        first = model.train(training)(*batch)
        torch.manual_seed(seed)
        assert torch.equal(again.train(training)(*batch), first)
