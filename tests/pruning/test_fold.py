"""Constants folded into what reads them, and what pruning does to transformers, exactly."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from grown import images

from nasir.backends.torch import Model
from nasir.backends.torch.observe.evidence import observe
from nasir.errors import Decline
from nasir.ir import Draft, Graph, Port
from nasir.passes.prune_channels import PruneChannels
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import WHOLE
from nasir.testing import evaluate, random_batch, random_weights, transferred
from nasir.transfer import Key, TransferPlan

Weights = dict[Key, Any]


# -- folding


def folding(padding: int = 0, norm: bool = True, bias: bool = False, groups: int = 1, tail: str = "relu") -> Graph:
    """conv - norm - relu - pool - conv 1x1 or 3x3, perhaps with a norm behind it, then a classifier."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 8, 8])
    x = draft.add("batch_norm", draft.add("conv2d", x, "a", out=6, kernel=3, padding=1), "bn")
    x = draft.add("max_pool", draft.add(tail, x, "act"), "pool", kernel=2)
    x = draft.add("conv2d", x, "b", out=4, kernel=3 if padding else 1, padding=padding, bias=bias, groups=groups)
    x = draft.add("batch_norm", x, "bn_b") if norm else x
    x = draft.add("global_avg_pool", draft.add("relu", x, "act_b"), "gap")
    draft.output(draft.add("linear", x, "fc", out=3))
    return draft.commit()


def constant(graph: Graph, units: list[int], label: str = "bn") -> Weights:
    weights = random_weights(graph, 0)
    weights[Key(graph.find(label), "weight")][units] = 0.0
    weights[Key(graph.find(label), "bias")][units] = np.linspace(0.5, 2.0, len(units))
    return weights


def norms(graph: Graph, weights: Weights) -> Evidence:
    named = {f"{graph.nodes[key.node].label}.{key.slot}": array for key, array in weights.items()}
    scales = {space.name: np.empty((0, space.size)) for space in graph.infer.spaces}
    for node in graph.nodes.values():
        if node.op == "batch_norm":
            name = graph.nodes[node.inputs[0].node].label
            scales[name] = np.atleast_2d(abs(named[f"{node.label}.weight"]))
    return Evidence({"norm_scale": scales, "weights": named})


GAMMA = PruneChannels(score="norm_scale", threshold=0.0)


@pytest.mark.parametrize(
    ("options", "moved"),
    [({}, "bn_b.running_mean"), ({"bias": True}, "b.bias"), ({"norm": False}, "b.bias"), ({"tail": "silu"}, None)],
)
def test_constant_channels_are_folded_exactly(options: dict[str, Any], moved: str | None) -> None:
    graph = folding(**options)
    weights, batch = constant(graph, [1, 4]), random_batch(graph, 3)
    rewrite = GAMMA.attempt(graph, WHOLE, norms(graph, weights))
    assert rewrite.preserves == "exact"
    after = transferred(rewrite.plan, rewrite.graph, weights, blobs=rewrite.blobs)
    before = evaluate(graph, weights, batch)
    assert abs(evaluate(rewrite.graph, after, batch) - before).max() <= 1e-12
    assert rewrite.graph.infer.types[Port(graph.find("bn"))].shape[0] == 4
    if moved is not None:
        label, slot = moved.split(".")
        assert (graph.find(label), slot) in {(key.node, key.slot) for key in rewrite.plan.sources}
    dropped = PruneChannels(score="norm_scale", threshold=0.0, constants="drop")
    loose = dropped.attempt(graph, WHOLE, norms(graph, weights))
    assert loose.preserves == "no"
    after = transferred(loose.plan, loose.graph, weights)
    assert abs(evaluate(loose.graph, after, batch) - before).max() > 1e-3


def test_constants_fold_where_their_readers_are_pruned_too() -> None:
    graph = folding()
    weights, batch = constant(graph, [0, 5]), random_batch(graph, 3)
    weights[Key(graph.find("bn_b"), "weight")][2] = 0.0
    weights[Key(graph.find("bn_b"), "bias")][2] = -1.0  # the ReLU makes it zero
    rewrite = GAMMA.attempt(graph, WHOLE, norms(graph, weights))
    assert rewrite.preserves == "exact"
    after = transferred(rewrite.plan, rewrite.graph, weights, blobs=rewrite.blobs)
    assert abs(evaluate(rewrite.graph, after, batch) - evaluate(graph, weights, batch)).max() <= 1e-12
    assert rewrite.graph.infer.types[Port(graph.find("fc"))].shape == (3,)
    assert rewrite.graph.nodes[graph.find("b")].attrs["out"] == 3


@pytest.mark.parametrize(("options", "reason"), [({"padding": 1}, "zero padding"), ({"groups": 2}, "grouped")])
def test_constants_that_cannot_be_folded_are_refused(options: dict[str, Any], reason: str) -> None:
    graph = folding(**options)
    weights = constant(graph, [0, 1, 2])  # a whole group where there are two
    spaces = [space for space in graph.infer.spaces if space.resizable]
    seen = norms(graph, weights)
    if "groups" in options:  # the channels are a product of groups and widths: one whole group is constant
        name = next(s.name for s in spaces if s.size == 2)
        seen.measured["norm_scale"][name] = np.array([[0.0, 1.0]])  # type: ignore[index]
    draft = graph.draft()
    with pytest.raises(Decline, match=reason):
        GAMMA.rewrite(draft, WHOLE, seen)
    assert draft.commit() == graph  # refused before anything was edited


def test_optimizer_state_of_a_bias_follows_what_is_folded_into_it() -> None:
    graph = folding(bias=True)
    weights = constant(graph, [1, 4])
    model = Model.from_graph(graph, dtype=torch.float64)
    model.load_state_dict({f"{graph.nodes[k.node].label}.{k.slot}": torch.tensor(a) for k, a in weights.items()})
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    x = images(2, 8, dtype=torch.float64)
    model(x).square().sum().backward()
    optimizer.step()
    old = model.get_parameter("b.bias")
    before, state = old.detach().clone(), dict(optimizer.state[old])
    weights = {key: model.tensor(key).numpy(force=True) for key in weights}  # statistics moved
    rewrite = GAMMA.attempt(graph, WHOLE, norms(graph, weights))
    read = TransferPlan.from_json(json.loads(json.dumps(rewrite.plan.to_json())))
    assert read.to_json() == rewrite.plan.to_json() and set(read.digests()) == set(rewrite.blobs)
    logits = model.eval()(x).detach()
    model.apply(rewrite, optimizers=[optimizer])
    assert float((model(x) - logits).detach().abs().max()) <= 1e-12
    new = model.get_parameter("b.bias")
    assert new is not old and float((new - before).detach().abs().min()) > 0.0
    assert optimizer.state[new].keys() == state.keys()
    assert all(torch.equal(optimizer.state[new][name], value) for name, value in state.items())


def test_a_constant_that_differs_from_token_to_token_is_refused() -> None:
    """A silent channel of the patches holds its position embedding: each token another number."""
    draft = Draft()
    x = draft.add("conv2d", draft.add("input", (), "x", shape=[3, 4, 4]), "patch", out=4, kernel=2, stride=2)
    x = draft.add("position_embedding", draft.add("tokens", x, "tokens"), "position")
    x = draft.add("gelu", draft.add("linear", x, "lin", out=3), "act")
    draft.output(draft.add("linear", draft.add("mean_tokens", x, "mean"), "fc", out=2))
    graph = draft.commit()
    weights = random_weights(graph, 0)
    weights[Key(graph.find("patch"), "weight")][1] = 0.0
    seen = norms(graph, weights)
    seen.measured["norm_scale"]["patch"] = np.array([[1.0, 0.0, 1.0, 1.0]])  # type: ignore[index]
    with pytest.raises(Decline, match="channel 1 that 'lin' reads is constant, but another number at each place"):
        GAMMA.attempt(graph, WHOLE, seen)
    weights[Key(graph.find("position"), "weight")][..., 1] = 0.5
    assert GAMMA.attempt(graph, WHOLE, seen).preserves == "exact"


# -- tokens


def encoder() -> Graph:
    """One pre-norm encoder block on the patches of an image."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 8, 8])
    x = draft.add("tokens", draft.add("conv2d", x, "patch", out=12, kernel=4, stride=4, bias=True), "tokens")
    x = draft.add("position_embedding", draft.add("class_token", x, "class"), "position")
    y = draft.add("linear", draft.add("layer_norm", x, "ln1"), "qkv", out=36)
    y = draft.add("self_attention", y, "attention", heads=3, head_dim=4, scale=0.5)
    x = draft.add("add", [x, draft.add("linear", y, "proj", out=12)], "add1")
    y = draft.add("gelu", draft.add("linear", draft.add("layer_norm", x, "ln2"), "up", out=20), "act")
    x = draft.add("add", [x, draft.add("linear", y, "down", out=12)], "add2")
    draft.output(draft.add("linear", draft.add("select_token", x, "first"), "head", out=5))
    return draft.commit()


def test_half_of_a_transformer() -> None:
    model = Model.from_graph(encoder())
    rule = PruneChannels(fraction=0.5, spaces=("channels", "heads", "widths", "head_dims"))
    graph = model.apply(rule, WHOLE).graph  # type: ignore[union-attr]
    assert graph.nodes[graph.find("attention")].attrs["heads"] == 2 and graph.nodes[graph.find("up")].attrs["out"] == 10
    assert graph.nodes[graph.find("attention")].attrs["head_dim"] == 2
    assert graph.nodes[graph.find("qkv")].attrs["out"] == 2 * (2 + 2 + 2)
    assert model.eval()(images(2, 8)).shape == (2, 5)
    plain = PruneChannels(fraction=0.5).attempt(encoder(), WHOLE, observe(Model.from_graph(encoder()), rule.needs))
    assert plain.graph.nodes[plain.graph.find("attention")].attrs["head_dim"] == 4  # heads go, their sizes stay


@pytest.mark.parametrize(("silent", "heads", "up"), [("values", 2, 20), ("hidden", 3, 19), ("queries", 2, 20)])
def test_a_silent_head_and_a_silent_hidden_unit_go_exactly(silent: str, heads: int, up: int) -> None:
    model = Model.from_graph(encoder(), dtype=torch.float64)
    state = model.state_dict()
    rows = {"values": slice(28, 32), "queries": slice(4, 8), "hidden": slice(7, 8)}[silent]  # of the second head
    with torch.no_grad():
        for slot in ("weight", "bias"):
            state[f"{'up' if silent == 'hidden' else 'qkv'}.{slot}"][rows] = 0.0
    x = images(2, 8, dtype=torch.float64)
    before = model.eval()(x).detach()
    seen = observe(model, PruneChannels(fraction=0.5).needs)
    weak = {space.name: np.ones((1, space.size)) for space in model.graph.infer.spaces}
    name = "up" if silent == "hidden" else next(s.name for s in model.graph.infer.spaces if s.size == 3 and s.resizable)
    weak[name][0, 7 if silent == "hidden" else 1] = 0.0
    seen = Evidence({**seen.measured, "group_lasso": weak})
    rule = PruneChannels(score="group_lasso", threshold=0.0)
    rewrite = rule.attempt(model.graph, WHOLE, seen)
    graph = rewrite.graph
    assert graph.nodes[graph.find("attention")].attrs["heads"] == heads
    assert graph.nodes[graph.find("up")].attrs["out"] == up
    after = model.rewritten(rewrite).eval()(x).detach()
    if silent == "queries":  # silent queries attend evenly: the head still speaks
        assert rewrite.preserves == "no" and float((after - before).abs().max()) > 1e-4
    else:
        assert rewrite.preserves == "exact" and float((after - before).abs().max()) <= 1e-12
