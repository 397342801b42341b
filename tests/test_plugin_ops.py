"""Ops that others add behave as shipped ones, by what they state and by the roles of their weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warm
from grown import images, lived, logits, pyramid
from plugin_ops import file_of_the_docs  # and registers the ops

from nasir import Decline, op
from nasir.analysis.main_path import layers
from nasir.backends.torch import Model
from nasir.backends.torch.observe.evidence import observe
from nasir.blocks import Maker, starts
from nasir.errors import UsageError
from nasir.ir import At, Draft, Graph, Port, ValueType, op_named
from nasir.ir.op import loaded
from nasir.passes.grow_kernel import GrowKernel
from nasir.passes.insert_block import InsertBlock
from nasir.passes.insert_random_block import InsertRandomBlock
from nasir.passes.merge_branches import MergeBranches
from nasir.passes.prune_channels import PruneChannels
from nasir.passes.split_branches import SplitBranches
from nasir.rewriting.evidence import Evidence, Need
from nasir.rewriting.rewrite import WHOLE, Rewrite
from nasir.testing import OpCase, OpContract, evaluate, random_batch, random_weights, transferred
from nasir.training.plans import PenaltyPlan
from nasir.transfer import Key, Take
from nasir.transfer.fill import fill, random_stream

IMAGE, VECTOR, TOKENS = (4, 5, 6), (6,), (5, 6)
SILENT = PruneChannels(score="norm_scale", threshold=0.0)


class TestPluginOps(OpContract):
    cases = (
        *[OpCase(name, (shape,)) for name in ("my_leaky_relu", "my_gelu") for shape in (IMAGE, VECTOR, TOKENS)],
        OpCase("my_leaky_relu", (IMAGE,), {"slope": 0.3}),
        OpCase("deconv", (IMAGE,), {"out": 3}),
        OpCase("deconv", (IMAGE,), {"out": 4, "kernel": 3, "stride": [1, 2], "bias": False}),
    )


def chain(act: str, **attrs: Any) -> Graph:
    """conv - norm - `act` - conv - norm - `act` - classifier."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 8, 8])
    for number in (1, 2):
        x = draft.add("conv2d", x, f"conv{number}", out=6, kernel=3, padding=1)
        x = draft.add(act, draft.add("batch_norm", x, f"bn{number}"), f"act{number}", **attrs)
    draft.output(draft.add("linear", draft.add("global_avg_pool", x, "gap"), "fc", out=3))
    return draft.commit()


# -- activations


@pytest.mark.parametrize("act", ["relu", "my_leaky_relu", "my_gelu"])
def test_a_random_block_goes_behind_the_activation_of_a_layer(act: str) -> None:
    graph = chain(act)
    ends = [graph.nodes[layer.end].label for layer in layers(graph)]
    assert ends == ["act1", "act2", "fc"]
    for position in ("after_first", "random"):
        made = InsertRandomBlock(position=position).attempt(graph, WHOLE).graph  # type: ignore[arg-type]
        assert made.nodes[made.find("act1")].inputs == (Port(made.find("bn1")),)
        assert made.nodes[made.find("act2")].inputs == (Port(made.find("bn2")),)


def test_behind_an_op_that_says_nothing_a_layer_ends_before_it() -> None:
    graph = chain("stirred")
    assert [graph.nodes[layer.end].label for layer in layers(graph)] == ["bn1", "bn2", "fc"]


def silent(graph: Graph, shift: float) -> tuple[dict[Key, Any], Evidence]:
    """Weights with three units of bn1 that hold a constant, and what is measured of them."""
    weights = random_weights(graph, 0)
    norm = graph.find("bn1")
    weights[Key(norm, "weight")][:3] = 0.0
    weights[Key(norm, "bias")][:3] = shift
    named = {f"{graph.nodes[key.node].label}.{key.slot}": array for key, array in weights.items()}
    scales = {space.name: np.ones((1, space.size)) for space in graph.infer.spaces}
    scales["conv1"] = abs(weights[Key(norm, "weight")])[None]
    return weights, Evidence({"norm_scale": scales, "weights": named})


@pytest.mark.parametrize("act, exact", [("relu", True), ("my_leaky_relu", True), ("my_gelu", True), ("stirred", False)])
def test_dead_units_are_pruned_exactly_behind_any_activation_that_states_its_function(act: str, exact: bool) -> None:
    graph = chain(act)
    weights, seen = silent(graph, 0.0)
    rewrite = SILENT.attempt(graph, WHOLE, seen)
    assert rewrite.preserves == ("exact" if exact else "no")
    after, batch = transferred(rewrite.plan, rewrite.graph, weights), random_batch(graph, 1)
    assert rewrite.graph.nodes[rewrite.graph.find("conv1")].attrs["out"] == 3
    assert abs(evaluate(rewrite.graph, after, batch) - evaluate(graph, weights, batch)).max() <= 1e-12


def test_constants_fold_through_the_function_of_a_plugin() -> None:
    draft = chain("my_leaky_relu", slope=0.3).draft()
    draft.set_attrs(draft.base.find("conv2"), padding=0)  # type: ignore[union-attr]
    graph = draft.commit()
    weights, seen = silent(graph, -0.7)
    rewrite = SILENT.attempt(graph, WHOLE, seen)
    assert rewrite.preserves == "exact"
    after = transferred(rewrite.plan, rewrite.graph, weights, blobs=rewrite.blobs)
    batch = random_batch(graph, 1)
    assert abs(evaluate(rewrite.graph, after, batch) - evaluate(graph, weights, batch)).max() <= 1e-12


@pytest.mark.parametrize("act", ["relu", "my_leaky_relu", "my_gelu"])
def test_branches_merge_through_any_activation(act: str) -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 8, 8])
    x = draft.add(act, draft.add("conv2d", x, "stem", out=4, kernel=3), "stem_act")
    draft.region("s1", "stage")
    x = draft.add("batch_norm", draft.add("conv2d", x, "s1.conv", out=4, kernel=3), "s1.bn")
    x = draft.add("conv2d", draft.add(act, x, "s1.act"), "s1.conv2", out=4, kernel=3)
    x = draft.add("global_avg_pool", draft.add(act, x, "s1.act2"), "gap")
    draft.output(draft.add("linear", x, "fc", out=3))
    graph = SplitBranches(branches=2, planes="keep", how="random", average="logits").attempt(draft.commit(), "s1").graph
    weights = random_weights(graph, 0)
    seen = Evidence({"weights": {f"{graph.nodes[k.node].label}.{k.slot}": a for k, a in weights.items()}})
    rewrite = MergeBranches().attempt(graph, WHOLE, seen)
    assert rewrite.preserves == "exact"
    assert sorted(n.op for n in rewrite.graph.nodes.values()).count(act) == 3, "the branches' activations are joined"
    after = transferred(rewrite.plan, rewrite.graph, weights, blobs=rewrite.blobs)
    batch = random_batch(graph, 1)
    assert abs(evaluate(rewrite.graph, after, batch) - evaluate(graph, weights, batch)).max() <= 1e-12


def block(then: str, branch: str = "") -> dict[str, Any]:
    steps = [{"conv": {"out": "out", "bias": False}}, "batch_norm", *([branch] if branch else [])]
    return {"block": {"branch": steps, "then": [then]}}


@pytest.mark.parametrize(
    "then, claim", [("relu", "exact"), ("my_leaky_relu", "exact"), ("gelu", "no"), ("my_gelu", "no"), ("silu", "no")]
)
def test_the_shortcut_around_a_branch_is_found_whatever_follows_the_sum(then: str, claim: str) -> None:
    model = lived(pyramid((1, 1), 4, size=8))
    before = logits(model, images(size=8))
    rewrite = model.apply(InsertBlock(init="zero", block=block(then)), "s1")
    assert isinstance(rewrite, Rewrite) and rewrite.preserves == claim
    assert torch.equal(logits(model, images(size=8)), before) is (claim == "exact")
    for init in ("near_zero", "gaussian", "adam"):
        assert InsertBlock(init=init, block=block(then)).attempt(model.graph, "s1")  # type: ignore[arg-type]


def test_a_bend_behind_the_sum_is_exact_on_no_stream_that_may_be_negative() -> None:
    graph = pyramid((2, 1), 4, block="preact_basic", size=8)
    assert InsertBlock(init="zero", block=block("my_leaky_relu")).attempt(graph, "s1.0").preserves == "no"


def test_no_shortcut_is_seen_through_what_says_nothing_or_mixes() -> None:
    for then in ("stirred", "softmax"):
        with pytest.raises(Decline, match="no identity shortcut"):
            InsertBlock(init="zero", block=block(then)).attempt(pyramid((1, 1), 4, size=8), "s1")


@pytest.mark.parametrize("end", ["my_leaky_relu", "my_gelu", "gelu"])
def test_a_branch_may_end_in_an_activation_that_keeps_zero(end: str) -> None:
    model = lived(pyramid((1, 1), 4, size=8))
    before = logits(model, images(size=8))
    rewrite = model.apply(InsertBlock(init="zero", block=block("relu", end)), "s1")
    assert isinstance(rewrite, Rewrite) and rewrite.preserves == "exact"
    assert torch.equal(logits(model, images(size=8)), before)
    torch.nn.functional.cross_entropy(model.train()(images(size=8)), torch.arange(4)).backward()
    norm = dict(model.named_parameters())[_norm_of(model.graph)]
    assert norm.grad is not None and bool(norm.grad.any()), "nothing is learnt behind it"


def _norm_of(graph: Graph) -> str:
    label = next(graph.nodes[n].label for n in graph.members("s1.1") if graph.nodes[n].op == "batch_norm")
    return f"{label}.weight"


def test_where_zero_is_not_kept_there_is_nothing_to_set() -> None:
    for init in ("zero", "near_zero"):
        with pytest.raises(Decline, match=r"\(sigmoid\), which has no weights to set"):
            InsertBlock(init=init, block=block("relu", "sigmoid")).attempt(pyramid((1, 1), 4, size=8), "s1")  # type: ignore[arg-type]


# -- a weighted op


def decoder() -> Graph:
    """conv - norm - relu - transposed conv - norm - relu - classifier."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 8, 8])
    x = draft.add("conv2d", x, "conv1", out=6, kernel=3)
    x = draft.add("relu", draft.add("batch_norm", x, "bn1"), "act1")
    x = draft.add("deconv", x, "up", out=5)
    x = draft.add("relu", draft.add("batch_norm", x, "bn2"), "act2")
    draft.output(draft.add("linear", draft.add("global_avg_pool", x, "gap"), "fc", out=3))
    return draft.commit()


def test_initializers_go_by_the_roles_of_weights() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[96, 4, 4])
    for init in ("he_normal", "vit", "glorot_uniform"):
        Maker(draft, init, init).node("deconv", x, "up", out=48, kernel=3)
    he, vit, glorot = (
        {slot: rule for (n, slot), rule in draft.origins.fills.items() if n == node} for node in (1, 2, 3)
    )
    # written by [read, written, ...]: the fan out of a kernel of [written, read, ...] is the fan in here
    assert (he["weight"].rule, dict(he["weight"].args)) == ("kaiming_normal", {"mode": "fan_in"}) and "bias" not in he
    assert vit["weight"].args["mode"] == "fan_out" and vit["bias"].rule == "zeros"
    assert glorot["weight"].rule == "xavier_uniform" and glorot["bias"].rule == "zeros"
    draft = Draft()
    x = draft.add("input", (), "x", shape=[96, 4, 4])
    draft.output(Maker(draft, "", "he_normal").node("deconv", x, "up", out=48, kernel=3))
    graph = draft.commit()
    assert starts("he_normal", graph.infer.slots[1]) == {"weight": he["weight"]}
    slot = graph.infer.slots[1]["weight"]
    drawn = fill(he["weight"], slot.shape, random_stream(0, 0, 1, "weight"))
    assert abs(drawn.std() - (2 / (9 * 48)) ** 0.5) < 0.002  # of 41,472 numbers: five standard errors are 0.0012


def test_penalties_and_measurements_go_by_the_roles_of_weights() -> None:
    graph = decoder()
    model = Model.from_graph(graph)
    wanted = {"conv1", "up", "fc"}
    on_kernels = PenaltyPlan("l2", 0.1).slots(graph)
    assert {graph.nodes[key.node].label for key in on_kernels} == wanted and {k.slot for k in on_kernels} == {"weight"}
    convs = PenaltyPlan("layer-lasso", 0.1, on="convs").slots(graph)
    assert {graph.nodes[key.node].label for key in convs} == {"conv1", "up"}
    assert set(observe(model, [Need("weight_abs")]).measured["weight_abs"]) == wanted


def test_units_are_pruned_exactly_before_and_behind_it() -> None:
    graph = decoder()
    weights, seen = silent(graph, 0.0)
    up, norm = graph.find("up"), graph.find("bn2")
    weights[Key(norm, "weight")][1] = weights[Key(norm, "bias")][1] = 0.0
    seen.measured["norm_scale"]["up"] = abs(weights[Key(norm, "weight")])[None]  # type: ignore[index]
    rewrite = SILENT.attempt(graph, WHOLE, seen)
    assert rewrite.preserves == "exact" and rewrite.graph.infer.slots[up]["weight"].shape == (3, 4, 2, 2)
    after, batch = transferred(rewrite.plan, rewrite.graph, weights), random_batch(graph, 1)
    assert abs(evaluate(rewrite.graph, after, batch) - evaluate(graph, weights, batch)).max() <= 1e-12


def test_a_constant_that_it_may_not_carry_on_evenly_is_refused() -> None:
    graph = decoder()
    _, seen = silent(graph, 0.5)
    with pytest.raises(Decline, match="deconv may not carry on evenly"):
        SILENT.attempt(graph, WHOLE, seen)
    assert (
        PruneChannels(score="norm_scale", threshold=0.0, constants="drop").attempt(graph, WHOLE, seen).preserves == "no"
    )


def test_passes_that_would_have_to_know_more_leave_it_alone() -> None:
    assert "up" not in GrowKernel(least=1).sites(decoder())  # it states no padding
    graph = SplitBranches(branches=2, planes="keep", how="rrr").attempt(_staged(), "s1").graph
    rewrite = MergeBranches().apply(graph, WHOLE, _weights(graph))
    assert rewrite is not None
    assert [node.op for node in rewrite.graph.nodes.values()].count("deconv") == 2  # each branch its own


def _staged() -> Graph:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 8, 8])
    x = draft.add("relu", draft.add("conv2d", x, "stem", out=4, kernel=3), "stem_act")
    draft.region("s1", "stage")
    x = draft.add("relu", draft.add("conv2d", x, "s1.conv", out=4, kernel=3), "s1.act")
    x = draft.add("deconv", x, "s1.up", out=4)
    draft.output(draft.add("linear", draft.add("global_avg_pool", x, "gap"), "fc", out=3))
    return draft.commit()


def _weights(graph: Graph) -> Evidence:
    return Evidence(
        {"weights": {f"{graph.nodes[k.node].label}.{k.slot}": a for k, a in random_weights(graph, 0).items()}}
    )


def test_filters_are_dealt_along_the_axis_that_is_written() -> None:
    rewrite = SplitBranches(branches=2, planes=(2,), how="rrr").attempt(_staged(), "s1")
    made = rewrite.graph.find("branches.1.s1.up")
    source = rewrite.plan.sources[Key(made, "weight")]
    assert isinstance(source, Take)
    read, written = source.axes[:2]
    assert (
        read is not None and read.index.tolist() == [0, 1] and written is not None and written.index.tolist() == [2, 3]
    )


# -- what is said wrongly is refused where it is said


@pytest.mark.parametrize(
    "facts, text",
    [
        ({"family": "activations"}, "family='activations' is not known; did you mean 'activation'?"),
        ({"channels": "each"}, "channels='each' is not known; it is one of alone, moves, groups, or not given"),
        ({"unchanged": "positive"}, "unchanged='positive' is not known"),
        ({"pointwise": abs, "mixes": True}, "a pointwise function acts on each channel alone; remove mixes"),
        ({"mixes": True, "channels": "alone"}, "what mixes channels does not keep them apart"),
        ({"family": "weighted"}, "'weighted' ops have an attribute 'out'; add it to the parameters"),
        ({"pointwise": abs, "channels": "moves"}, "acts on each channel alone; remove channels='moves'"),
        ({"channels": "groups"}, "'groups' ops have an attribute 'groups'; add it to the parameters"),
    ],
)
def test_facts_that_cannot_be_are_refused(facts: dict[str, Any], text: str) -> None:
    def rule(at: At, x: ValueType) -> ValueType:
        return x

    with pytest.raises(UsageError) as refused:
        op("wrongly_stated", **facts)(rule)
    assert text in str(refused.value) and "op 'wrongly_stated'" in str(refused.value)
    with pytest.raises(UsageError):
        op_named("wrongly_stated")


def test_most_families_have_one_input() -> None:
    def rule(at: At, *x: ValueType) -> ValueType:
        return x[0]

    for facts, text in (({"family": "activation"}, "family 'activation'"), ({"pointwise": abs}, "a pointwise op")):
        with pytest.raises(UsageError, match=f"{text} has one input; it is declared with any number"):
            op("wrongly_stated", **facts)(rule)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "facts, law",
    [
        ({"pointwise": np.tanh}, "test_the_pointwise_function_agrees_with_the_reference"),
        ({"unchanged": "nonnegative"}, "test_what_is_said_to_be_unchanged_is"),
        ({"family": None}, "test_it_states_its_family"),
    ],
)
def test_a_wrong_fact_is_noticed(facts: dict[str, Any], law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loaded, "my_gelu", replace(op_named("my_gelu"), **facts))

    class Suite(OpContract):
        cases = (OpCase("my_gelu", (IMAGE,)),)

    with pytest.raises(AssertionError, match="my_gelu"):
        getattr(Suite(), law)()


@pytest.mark.parametrize(
    "cases, text", [((), "no `cases`"), ((OpCase("nosuch", (IMAGE,)),), "no op is called 'nosuch'")]
)
def test_a_suite_without_cases_or_of_no_op_fails(cases: tuple[OpCase, ...], text: str) -> None:
    suite = type("Suite", (OpContract,), {"cases": cases})
    with pytest.raises(AssertionError, match=text):
        suite().test_there_are_cases_of_ops_that_exist()


def test_the_suite_that_the_docs_show_passes(tmp_path: Path) -> None:
    for name in ("mine.py", "test_mine.py"):
        (tmp_path / name).write_text(file_of_the_docs(name), encoding="utf-8")
    root = Path(__file__).parents[1]
    words = ["-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    done = warm.completed("-m", "pytest", *words, folder=root)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr
