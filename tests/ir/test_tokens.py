"""Tokens: shapes, spaces and resizes of transformers, in float64 with the reference interpreter as the judge."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from nasir.errors import TypeRuleError
from nasir.ir import Atom, Draft, Graph, Port, parse
from nasir.testing import (
    MIXING,
    STIRRING,
    evaluate,
    random_batch,
    random_transformer,
    random_weights,
    silence,
    transferred,
    varied_graph,
)
from nasir.testing.interpreter import Array
from nasir.transfer import Key, TransferPlan, derive

BOUND = 1e-12  # relative to the largest output
SEEDS = range(12)
NORMS = ("ln_1", "ln_2", "ln")


def encoder(norms: bool = True, values: int = 3) -> Graph:
    """One attention with 3 heads of 4 (and `values`) channels, one hidden layer, 8 channels, a class token."""
    draft = Draft()
    image = draft.add("input", (), "image", shape=[2, 4, 6])
    x = draft.add("tokens", draft.add("conv2d", image, "patches", out=8, kernel=2, stride=2), "tokens")
    x = draft.add("position_embedding", draft.add("class_token", x, "class"), "positions")
    y = draft.add("layer_norm", x, "ln_1") if norms else x
    y = draft.add("linear", y, "in_proj", out=3 * (4 + 4 + values))
    y = draft.add("self_attention", y, "core", heads=3, head_dim=4, scale=0.5)
    x = draft.add("add", [x, draft.add("linear", y, "out_proj", out=8)], "add_1")
    y = draft.add("gelu", draft.add("linear", draft.add("layer_norm", x, "ln_2") if norms else x, "mlp", out=10), "act")
    x = draft.add("add", [x, draft.add("linear", y, "mlp_out", out=8)], "add_2")
    x = draft.add("select_token", draft.add("layer_norm", x, "ln") if norms else x, "first")
    draft.output(draft.add("linear", x, "head", out=5))
    return draft.commit()


def space(graph: Graph, name: str) -> Atom:
    return next(atom for atom in graph.infer.spaces if atom.name == name)


def resized(graph: Graph, keep: Mapping[Atom, Array]) -> tuple[Graph, TransferPlan]:
    draft = graph.draft()
    for atom, index in keep.items():
        draft.select(atom, index)
    new = draft.commit()
    return new, derive(draft, new)


def change(graph: Graph, keep: Mapping[Atom, Array], weights: dict[Key, Array], seed: int = 5) -> float:
    """Largest difference of an output, relative to the largest output, once only `keep` is left."""
    new, plan = resized(graph, keep)
    batch = random_batch(graph, seed)
    before = evaluate(graph, weights, batch)
    after = evaluate(new, transferred(plan, new, weights), batch)
    return float(abs(after - before).max() / max(1.0, abs(before).max()))


def silenced(graph: Graph, dead: Mapping[Atom, Array], seed: int = 0) -> dict[Key, Array]:
    weights = random_weights(graph, seed)
    silence(graph, weights, dict(dead))
    return weights


def without(atom: Atom, dead: list[int]) -> Array:
    return np.setdiff1d(np.arange(atom.size), dead)


def test_the_spaces_of_an_encoder_are_its_channels_heads_and_units() -> None:
    graph = encoder()
    sizes = {atom.name: atom.size for atom in graph.infer.spaces if atom.resizable}
    assert sizes == {"patches": 8, "core": 3, "core#2": 4, "core#3": 3, "mlp": 10}
    mixed = {atom.name: atom.mixed for atom in graph.infer.spaces if atom.mixed}
    assert mixed == {"patches": "ln_1", "core#2": "core"}
    assert graph.infer.types[Port(graph.find("core"))].shape == (7, 9)


@pytest.mark.parametrize("name, dead", [("core", [1]), ("core#2", [0, 3]), ("core#3", [2]), ("mlp", [1, 4, 9])])
def test_silent_heads_and_units_can_be_removed_exactly(name: str, dead: list[int]) -> None:
    graph = encoder()
    atom = space(graph, name)
    weights = silenced(graph, {atom: np.array(dead)})
    assert change(graph, {atom: without(atom, dead)}, weights) < BOUND
    assert change(graph, {atom: without(atom, dead)}, random_weights(graph, 0)) > 1e-3  # they were not silent before


def test_silent_channels_can_be_removed_exactly_without_norms_only() -> None:
    for norms in (False, True):
        graph = encoder(norms)
        atom = space(graph, "patches")
        weights = silenced(graph, {atom: np.array([2, 5])})
        moved = change(graph, {atom: without(atom, [2, 5])}, weights)
        assert (moved > 1e-3) if norms else (moved < BOUND)


@pytest.mark.parametrize("name", ["core", "core#3", "mlp"])
def test_replicas_and_fresh_units_keep_the_function(name: str) -> None:
    graph = encoder()
    atom = space(graph, name)
    for more in ([0, 0, 1], [-1, -1]):
        index = np.append(np.arange(atom.size), more)
        assert change(graph, {atom: index}, random_weights(graph, 3)) < BOUND


def test_more_channels_of_queries_and_keys_change_the_function() -> None:
    """What `mixed` says of them: their product counts each unit, and no reader makes up for it."""
    graph = encoder()
    atom = space(graph, "core#2")
    assert change(graph, {atom: np.array([0, 1, 2, 3, 3])}, random_weights(graph, 3)) > 1e-3


def test_everything_at_once_infers_again_and_keeps_the_scale() -> None:
    graph = encoder()
    keep = {"patches": [0, 1, 4, 6, 7], "core": [2], "core#2": [1, 3], "core#3": [0, 1], "mlp": [5, 6, 7]}
    new, plan = resized(graph, {space(graph, name): np.array(index) for name, index in keep.items()})
    slots = new.infer.slots
    shapes = {f"{new.nodes[n].label}.{s}": slot.shape for n in slots for s, slot in slots[n].items()}
    assert shapes["in_proj.weight"] == (1 * (2 + 2 + 2), 5) and shapes["in_proj.bias"] == (6,)
    assert shapes["out_proj.weight"] == (5, 2) and shapes["mlp.weight"] == (3, 5)
    assert shapes["class.weight"] == (1, 1, 5) and shapes["positions.weight"] == (1, 7, 5)
    assert shapes["ln.weight"] == (5,) and shapes["head.weight"] == (5, 5)
    core = new.nodes[new.find("core")]
    assert (core.attrs["heads"], core.attrs["head_dim"], core.attrs["scale"]) == (1, 2, 0.5)
    plan.verify(graph, new)
    assert parse(new.to_text()) == new and Graph.from_json(new.to_json()) == new
    weights = random_weights(graph, 1)
    taken = transferred(plan, new, weights)[Key(new.find("in_proj"), "bias")]
    # q, k and v one after another, head by head: of head 2, units 1 and 3 of q and k, units 0 and 1 of v
    rows = [2 * 4 + 1, 2 * 4 + 3, 12 + 2 * 4 + 1, 12 + 2 * 4 + 3, 24 + 2 * 3, 24 + 2 * 3 + 1]
    assert np.array_equal(taken, weights[Key(graph.find("in_proj"), "bias")][rows])


def test_projections_of_their_own_share_the_same_spaces() -> None:
    draft = Draft()
    x = draft.add("tokens", draft.add("input", (), "image", shape=[4, 2, 2]), "tokens")
    parts = [draft.add("linear", x, name, out=size) for name, size in (("q", 6), ("k", 6), ("v", 8))]
    y = draft.add("self_attention", draft.add("concat", parts, "qkv"), "core", heads=2, head_dim=3, scale=1.0)
    draft.output(draft.add("linear", draft.add("mean_tokens", y, "mean"), "head", out=2))
    graph = draft.commit()
    sizes = [(atom.size, atom.resizable) for atom in graph.infer.spaces]
    assert sorted(sizes) == [(2, False), (2, True), (3, True), (4, False), (4, True)]
    heads = next(atom for atom in graph.infer.spaces if atom.size == 2 and atom.resizable)
    new, _ = resized(graph, {heads: np.array([1])})
    assert [new.nodes[new.find(name)].attrs["out"] for name in "qkv"] == [3, 3, 4]


def test_attention_costs_two_products_for_each_pair_of_tokens() -> None:
    graph = encoder()
    assert graph.cost("core").macs == 7 * 7 * (3 * 4 + 3 * 3)
    assert graph.cost("mlp").macs == 7 * 8 * 10 and graph.cost("head").macs == 8 * 5


def build(shape: list[int], op: str, **attrs: object) -> Graph:
    draft = Draft()
    draft.output(draft.add(op, draft.add("input", (), "x", shape=shape), "it", **attrs))
    return draft.commit()


@pytest.mark.parametrize(
    "shape, op, attrs, parts",
    [
        ([4, 2, 2], "class_token", {}, ["needs tokens", "(4, 2, 2)", "'x'"]),
        ([5, 4], "tokens", {}, ["needs an image", "(5, 4)"]),
        ([5, 4], "batch_norm", {}, ["needs an image or a vector", "layer_norm"]),
        ([5, 4], "group_norm", {"groups": 2}, ["needs an image or a vector", "layer_norm"]),
        ([5, 4], "select_token", {"index": 5}, ["0 to 4", "not 5"]),
        ([5, 6], "self_attention", {"heads": 2, "head_dim": 1, "scale": 0.0, "dropout": 1.0}, ["dropout", "1.0"]),
        ([5, 7], "self_attention", {"heads": 2, "head_dim": 1, "scale": 1.0}, ["leave 3 of 7", "3 * heads"]),
        ([5, 8], "self_attention", {"heads": 2, "head_dim": 2, "scale": 1.0}, ["leave 0 of 8"]),
        ([5, 8], "self_attention", {"heads": 2, "head_dim": 2}, ["scale: this option is required"]),
        ([4, 3, 3], "linear", {"out": 2}, ["a vector or tokens", "flatten"]),
        ([4, 3, 3], "layer_norm", {}, ["a vector or tokens", "group_norm"]),
    ],
)
def test_refusals_name_place_and_values(shape: list[int], op: str, attrs: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(TypeRuleError) as caught:
        build(shape, op, **attrs)
    for part in [f"{op} 'it'", *parts]:
        assert part in str(caught.value), str(caught.value)


def test_a_sequence_made_of_channels_is_pinned() -> None:
    draft = Draft()
    x = draft.add("conv2d", draft.add("input", (), "image", shape=[2, 3, 3]), "conv", out=4, kernel=1)
    x = draft.add("position_embedding", draft.add("reshape", x, "rows", shape=[4, 9]), "positions")
    draft.output(draft.add("mean_tokens", x, "mean"))
    pinned = {atom.name: atom.pin for atom in draft.commit().infer.spaces}
    assert "takes it for a sequence" in str(pinned["conv"])


# -- generated networks


def test_generated_transformers_hold_every_op_on_tokens() -> None:
    graphs = [random_transformer(seed) for seed in range(40)]
    used = {node.op for graph in graphs for node in graph.nodes.values()}
    assert used >= {"tokens", "class_token", "position_embedding", "self_attention", "select_token", "mean_tokens"}
    assert used >= {"split", "concat", "flatten", "layer_norm"}
    assert graphs[3] == random_transformer(3)
    assert all([block.path for block in graph.blocks] == ["encoder.0", "encoder.1"] for graph in graphs)


def test_varied_graphs_are_of_both_kinds_and_honour_without() -> None:
    graphs = [varied_graph(seed, without=MIXING | STIRRING) for seed in range(60)]
    used = [{node.op for node in graph.nodes.values()} for graph in graphs]
    tokens = sum("self_attention" in ops for ops in used)
    assert 10 <= tokens <= 30
    assert not {op for ops in used for op in ops} & (MIXING | STIRRING)
    assert any("mean" in ops for ops in used)


@pytest.mark.parametrize("seed", SEEDS)
def test_silent_units_of_generated_transformers_can_be_removed_exactly(seed: int) -> None:
    graph = random_transformer(seed, without=MIXING | STIRRING)
    rng = np.random.default_rng(seed)
    spaces = [atom for atom in graph.infer.spaces if atom.resizable and atom.size > 1]
    keep = {s: np.sort(rng.choice(s.size, s.size - s.size // 2, replace=False)) for s in spaces}
    weights = silenced(graph, {s: np.setdiff1d(np.arange(s.size), kept) for s, kept in keep.items()}, seed)
    assert change(graph, keep, weights) < BOUND


@pytest.mark.parametrize("seed", SEEDS)
def test_widening_what_is_not_mixed_keeps_the_function(seed: int) -> None:
    graph = random_transformer(seed, without=MIXING)
    rng = np.random.default_rng(seed)
    spaces = [atom for atom in graph.infer.spaces if atom.resizable and not atom.mixed]
    weights = random_weights(graph, seed)
    replicas = {s: np.append(rng.permutation(s.size), rng.integers(0, s.size, 2)) for s in spaces}
    assert change(graph, replicas, weights) < BOUND
    assert change(graph, {s: np.append([-1], np.arange(s.size)) for s in spaces}, weights) < BOUND
