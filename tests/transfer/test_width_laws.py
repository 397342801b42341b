"""Sequences of width changes on generated networks, in float64: what they keep, and the moments of optimizers.

Matching moments means: a network that was rewritten to w' = A w has, for every weight, the gradients of the old one
mapped by the pseudo-inverse transpose of A, so the state carried over is the one the new network's own gradients, as
autograd computes them, would have made; fresh units are left out, their first moments begin at zero by choice.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasir.backends.torch import Model
from nasir.backends.torch.optimizers.transfer import transfer_optimizers
from nasir.errors import Decline
from nasir.ir import Graph, Port
from nasir.passes.insert_block import InsertBlock
from nasir.passes.remove_block import RemoveBlock
from nasir.passes.split_branches import SplitBranches
from nasir.passes.widen import Widen
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import WHOLE, Rewrite
from nasir.testing import evaluate, random_batch, random_graph, random_graphs, random_weights, silence, transferred
from nasir.testing.graphs import MIXING, STIRRING
from nasir.testing.interpreter import Array
from nasir.transfer import Key, TransferPlan, derive

FUNCTION = 1e-12  # relative to the largest logit
MOMENT = 1e-10  # relative to the largest entry of the moment
SEEDS = st.integers(0, 2**32 - 1)
CALM = MIXING | STIRRING  # a silenced unit stays silent

Law = Callable[..., None]


def law(examples: int) -> Callable[[Law], Law]:
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


@dataclass(frozen=True)
class Net:
    """A network and its float64 weights; `dead` marks silent units by name of space."""

    graph: Graph
    weights: dict[Key, Array]
    dead: dict[str, Array]

    @classmethod
    def born(cls, graph: Graph, rng: np.random.Generator) -> Net:
        """About a third of the units of about half of the spaces are silent."""
        weights = random_weights(graph, int(rng.integers(1 << 30)))
        dead = {}
        for space in graph.infer.spaces:
            dead[space.name] = np.zeros(space.size, dtype=bool)
            if space.resizable and space.size > 1 and rng.random() < 0.5:
                dead[space.name][: space.size - 1] = rng.random(space.size - 1) < 0.4
        silence(graph, weights, {s: np.flatnonzero(dead[s.name]) for s in graph.infer.spaces if dead[s.name].any()})
        return cls(graph, weights, dead)

    def after(self, new: Graph, plan: TransferPlan, index: dict[str, Array], blobs: Any = None) -> Net:
        """What a rewrite makes of it, checked on the way."""
        plan.verify(self.graph, new)
        again = TransferPlan.from_json(json.loads(json.dumps(plan.to_json())))
        again.verify(self.graph, new)
        read = Graph.from_json(json.loads(json.dumps(new.to_json())))
        assert read == new and read.digest == new.digest
        assert {p: v.shape for p, v in read.infer.types.items()} == {p: v.shape for p, v in new.infer.types.items()}
        weights = transferred(plan, new, self.weights, blobs=blobs)
        for node_id, slots in new.infer.slots.items():
            assert all(weights[Key(node_id, name)].shape == slot.shape for name, slot in slots.items())
        dead = {space.name: np.zeros(space.size, dtype=bool) for space in new.infer.spaces}
        for name, before in self.dead.items():
            picked = index.get(name)
            if name in dead:
                now = before if picked is None else np.where(picked < 0, False, before[np.maximum(picked, 0)])
                if len(now) == len(dead[name]):
                    dead[name] = now
        return Net(new, weights, dead)

    def rewritten(self, rewrite: Rewrite) -> Net:
        index = {}
        for space in self.graph.infer.spaces:
            now = next((s.size for s in rewrite.graph.infer.spaces if s.name == space.name), space.size)
            if now > space.size:
                index[space.name] = np.append(np.arange(space.size), np.full(now - space.size, -1))
        return self.after(rewrite.graph, rewrite.plan, index, rewrite.blobs)


def select(net: Net, index: dict[str, Array]) -> tuple[Graph, TransferPlan]:
    draft = net.graph.draft()
    for space in net.graph.infer.spaces:
        if space.name in index:
            draft.select(space, index[space.name])
    new = draft.commit()
    return new, derive(draft, new)


def pruned(net: Net, rng: np.random.Generator) -> dict[str, Array]:
    """Without some of the silent units; at least one unit of a space stays."""
    index = {}
    for space in net.graph.infer.spaces:
        gone = net.dead[space.name] & (rng.random(space.size) < 0.8)
        gone[-1] &= not gone.all()
        if space.resizable and gone.any():
            index[space.name] = np.flatnonzero(~gone)
    return index


def copied(net: Net, rng: np.random.Generator) -> dict[str, Array]:
    """In a random order, with up to four copies, in about half of the spaces."""
    index = {}
    for space in net.graph.infer.spaces:
        if space.resizable and rng.random() < 0.5:
            more = rng.integers(0, space.size, rng.integers(0, 5))
            index[space.name] = np.append(rng.permutation(space.size), more)
    return index


def step(net: Net, kind: str, rng: np.random.Generator) -> tuple[Net, bool]:
    """(the next network, whether it must give the same logits)."""
    if kind in ("prune", "copy"):
        index = pruned(net, rng) if kind == "prune" else copied(net, rng)
        new, plan = select(net, index)
        return net.after(new, plan, index), True
    seen = Evidence(seed=int(rng.integers(1 << 30)))
    try:
        if kind == "insert":
            stages = [stage.path for stage in net.graph.stages]
            rewrite = InsertBlock(init="zero").attempt(net.graph, stages[rng.integers(len(stages))], seen)
        elif kind == "split":
            rule = SplitBranches(branches=2, how=("rrr", "aligned", "random")[rng.integers(3)])
            sites = list(rule.sites(net.graph))
            if not sites:
                return net, True
            rewrite = rule.attempt(net.graph, sites[rng.integers(len(sites))], seen)
        else:
            site: Any = WHOLE
            if rng.random() < 0.5:
                spaces = [space for space in net.graph.infer.spaces if space.resizable]
                site = spaces[rng.integers(len(spaces))]
            rewrite = Widen(how=kind, units=int(rng.integers(1, 4))).attempt(net.graph, site, seen)
    except Decline:
        return net, True
    return net.rewritten(rewrite), rewrite.preserves == "exact"


def difference(old: Net, new: Net, batch: list[Array], train: bool) -> float:
    expected = evaluate(old.graph, old.weights, batch, train)
    actual = evaluate(new.graph, new.weights, batch, train)
    return float(abs(actual - expected).max() / max(abs(expected).max(), 1e-3))


def check_sequence(graph: Graph, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = Net.born(graph, rng)
    batch = random_batch(graph, 1, 2)
    for kind in rng.choice(["prune", "prune", "copy", "copy", "fresh", "paired", "insert", "split"], 4):
        new, kept = step(net, str(kind), rng)
        if kept:
            train = bool(rng.random() < 0.5) and not any(node.op == "ensemble" for node in new.graph.nodes.values())
            assert difference(net, new, batch, train) <= FUNCTION, kind
        net = new


@law(40)
@given(random_graphs(without=CALM), SEEDS)
def test_sequences_of_rewrites_verify_and_keep_what_they_say(graph: Graph, seed: int) -> None:
    check_sequence(graph, seed)


@pytest.mark.slow
@law(500)
@given(random_graphs(without=CALM), SEEDS)
def test_500_sequences_of_rewrites_verify_and_keep_what_they_say(graph: Graph, seed: int) -> None:
    check_sequence(graph, seed)


# -- moments

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "momentum_buffer": lambda p: torch.optim.SGD(p, lr=0.0, momentum=0.9),
    "exp_avg": lambda p: torch.optim.Adam(p, lr=0.0),
}


def torch_model(net: Net) -> Model:
    model = Model.from_graph(net.graph, dtype=torch.float64)
    state = {f"{net.graph.nodes[key.node].label}.{key.slot}": torch.tensor(a) for key, a in net.weights.items()}
    model.load_state_dict(state)
    return model


def run(model: Model, optimizer: torch.optim.Optimizer, graph: Graph) -> None:
    """Two steps at rate 0: the state fills, the weights stay. In evaluation mode, where dropout does nothing."""
    model.eval()
    for seed in range(2):
        optimizer.zero_grad()
        x = [torch.tensor(a) for a in random_batch(graph, seed, 2)]
        out = model(*x)
        (out - torch.linspace(-1.0, 1.0, out.numel()).reshape(out.shape)).square().sum().backward()
        optimizer.step()


def check_moments(graph: Graph, seed: int, kind: str) -> None:
    """Copies and cuts of silent units, one after another: all state is that of the last network's own gradients."""
    rng = np.random.default_rng(seed)
    net = Net.born(graph, rng)
    model = torch_model(net)
    optimizer = OPTIMIZERS[kind](model.parameters())
    run(model, optimizer, graph)
    for way in rng.permutation([pruned, copied, copied])[:2]:
        index = way(net, rng)
        new, plan = select(net, index)
        rewrite = Rewrite(net.graph, new, plan, {}, WHOLE, "exact")
        wider = model.rewritten(rewrite)
        transfer_optimizers((optimizer,), model, wider, plan, {})
        model.become(wider)
        net = net.after(new, plan, index)
    own = OPTIMIZERS[kind](model.parameters())
    run(model, own, graph)
    for name in ("momentum_buffer", "exp_avg", "exp_avg_sq"):
        pairs = [(optimizer.state[p][name], own.state[p][name]) for p in model.parameters() if name in own.state[p]]
        largest = max((float(wanted.abs().max()) for _, wanted in pairs), default=0.0)
        for actual, wanted in pairs:
            assert float((actual - wanted).abs().max()) <= MOMENT * max(float(wanted.abs().max()), 1e-6 * largest)
    assert {id(p) for p in optimizer.state} == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@law(12)
@given(random_graphs(steps=6, without=CALM), SEEDS)
def test_moments_are_those_of_the_new_networks_own_gradients(kind: str, graph: Graph, seed: int) -> None:
    check_moments(graph, seed, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", OPTIMIZERS)
@law(250)
@given(random_graphs(without=CALM), SEEDS)
def test_moments_of_500_networks_are_those_of_their_own_gradients(kind: str, graph: Graph, seed: int) -> None:
    check_moments(graph, seed, kind)


@pytest.mark.parametrize("how", ["fresh", "paired"])
@pytest.mark.parametrize("seed", range(5))
def test_beside_fresh_units_the_moments_of_old_ones_are_those_of_their_own_gradients(seed: int, how: str) -> None:
    graph = random_graph(seed, 6, without=CALM)
    net = Net.born(graph, np.random.default_rng(seed))
    model = torch_model(net)
    optimizer = OPTIMIZERS["exp_avg"](model.parameters())
    run(model, optimizer, graph)
    rewrite = Widen(how=how, units=2).attempt(graph, WHOLE)
    model.apply(rewrite, optimizers=[optimizer])
    own = OPTIMIZERS["exp_avg"](model.parameters())
    run(model, own, graph)
    for key, source in rewrite.plan.sources.items():
        if rewrite.graph.infer.slots[key.node][key.slot].kind == "buffer":
            continue
        parameter = model.tensor(key)
        old = np.ix_(
            *[np.arange(n) if a is None else a.index >= 0 for n, a in zip(parameter.shape, source.axes, strict=True)]
        )
        for name in ("exp_avg", "exp_avg_sq"):
            actual, wanted = optimizer.state[parameter][name].numpy(), own.state[parameter][name].numpy()
            assert abs(actual[old] - wanted[old]).max() <= MOMENT * max(abs(wanted[old]).max(), 1e-9)
            if name == "exp_avg":
                actual[old] = 0.0
                assert not actual.any()


# -- there and back


def check_return(graph: Graph, seed: int) -> None:
    """delete(insert(g)) == g, with the very same arrays."""
    weights = random_weights(graph, seed)
    blocks = graph.blocks_of("s1")
    site = "s1" if seed % 2 else blocks[seed % len(blocks)].path
    inserted = InsertBlock(init="zero").attempt(graph, site)
    between = transferred(inserted.plan, inserted.graph, weights)
    new = next(block.path for block in inserted.graph.blocks_of("s1") if block.path not in graph.regions)
    deleted = RemoveBlock().attempt(inserted.graph, new)
    back = deleted.graph
    assert (back.nodes, back.outputs, back.regions) == (graph.nodes, graph.outputs, graph.regions)
    assert back.digest == graph.digest and not deleted.plan.sources
    after = transferred(deleted.plan, back, between)
    assert after.keys() == weights.keys() and all(after[key] is weights[key] for key in weights)
    assert Port(graph.find("classifier")) in back.outputs


@law(15)
@given(random_graphs(), SEEDS)
def test_deleting_what_was_inserted_gives_the_same_network(graph: Graph, seed: int) -> None:
    check_return(graph, seed)


@pytest.mark.slow
@law(500)
@given(random_graphs(), SEEDS)
def test_deleting_what_was_inserted_gives_the_same_network_500_times(graph: Graph, seed: int) -> None:
    check_return(graph, seed)
