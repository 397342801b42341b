"""Explicit sources, literal arrays and opposite pairs: how a draft says where weights come from."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from nasir.errors import GraphError, PlanError, UsageError
from nasir.ir import Draft, Fill, Graph
from nasir.ir.source import digest_of
from nasir.testing import random_graph, random_weights, transferred
from nasir.transfer import (
    AxisTake,
    Blob,
    Key,
    NumpyArrays,
    Stack,
    Sum,
    Take,
    TransferPlan,
    Twin,
    derive,
    digests_of,
    execute,
    keys_of,
)


def network() -> Graph:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[2])
    x = draft.add("relu", draft.add("linear", x, "hidden", out=3), "act")
    draft.output(draft.add("linear", x, "out", out=2))
    return draft.commit()


def test_an_explicit_source_goes_before_everything_else() -> None:
    graph = network()
    node = graph.labels["hidden"]
    draft = graph.draft()
    draft.fill(node, "weight", "ones")
    draft.select(graph.infer.spaces[1], [0, 0, 1, 2])
    turned = Take(Key(node, "weight"), (AxisTake(np.array([2, 1, 0, 0])), None))
    draft.source(node, "weight", turned)
    plan = derive(draft, draft.commit())
    assert plan.sources[Key(node, "weight")] is turned
    weights = random_weights(graph, 0)
    after = transferred(plan, draft.commit(), weights)
    assert np.array_equal(after[Key(node, "weight")], weights[Key(node, "weight")][[2, 1, 0, 0]])


def test_a_weight_whose_shape_changes_with_an_attribute_needs_a_source() -> None:
    draft = Draft()
    draft.output(draft.add("conv2d", draft.add("input", (), "x", shape=[1, 5, 5]), "conv", out=2, kernel=3, padding=1))
    graph = draft.commit()
    node = graph.labels["conv"]
    edit = graph.draft()
    edit.set_attrs(node, kernel=1, padding=0)
    with pytest.raises(PlanError, match=r"conv\.weight: kept, but its shape changes"):
        derive(edit, edit.commit())
    centre = AxisTake(np.array([1]))
    edit.source(node, "weight", Take(Key(node, "weight"), (None, None, centre, centre)))
    plan = derive(edit, edit.commit())
    weights = random_weights(graph, 0)
    after = transferred(plan, edit.commit(), weights)
    assert np.array_equal(after[Key(node, "weight")], weights[Key(node, "weight")][:, :, 1:2, 1:2])


def test_a_source_for_a_weight_that_is_not_there_is_refused() -> None:
    draft = network().draft()
    draft.source(draft.base.labels["hidden"], "wieght", Fill("zeros"))
    with pytest.raises(PlanError, match=r"hidden\.wieght: there is no such weight to set"):
        derive(draft, draft.commit())


@pytest.mark.parametrize("source", [np.zeros((3, 2)), None, "zeros", Key(1, "weight")])
def test_what_is_no_source_is_refused_at_once(source: object) -> None:
    draft = network().draft()
    with pytest.raises(GraphError, match="is no source; give a Take, Stack, Sum, Fill or Blob"):
        draft.source(draft.base.labels["hidden"], "weight", source)
    assert not draft.origins.named()


def test_a_node_that_is_not_there_has_no_weights_to_set() -> None:
    draft = network().draft()
    hidden = draft.base.labels["hidden"]
    for said in (
        lambda: draft.fill(99, "weight", "zeros"),
        lambda: draft.source(99, "weight", Fill("zeros")),
        lambda: draft.copy(99, hidden),
    ):
        with pytest.raises(GraphError, match="no node 99 to say of where its weight 'weight' comes from"):
            said()
    assert not draft.origins.named()


def test_weights_are_copied_from_nodes_of_the_graph_before_only() -> None:
    new = Draft()
    x = new.add("input", (), "x", shape=[2])
    layer = new.add("linear", x, "fc", out=2)
    draft = network().draft()
    for edit, node in ((new, layer.node), (draft, draft.base.labels["hidden"])):
        with pytest.raises(GraphError, match="no node 77 to copy weights from"):
            edit.copy(node, 77)


def test_a_claim_is_one_of_three_words() -> None:
    draft = network().draft()
    with pytest.raises(UsageError, match="cannot claim 'excat'; claim one of exact, approximate, no"):
        draft.claim("excat")  # type: ignore[arg-type]
    assert draft.preserves == "no"


def test_sources_go_before_fills_and_these_before_copies_whichever_was_said_first() -> None:
    draft = network().draft()
    hidden, out = draft.base.labels["hidden"], draft.base.labels["out"]
    draft.source(out, "weight", Fill("ones"))
    draft.fill(out, "weight", "zeros")
    draft.fill(out, "bias", "constant", value=2.0)
    draft.copy(out, hidden)
    assert draft.origins.of(Key(out, "weight"), 2) == Fill("ones")
    assert draft.origins.of(Key(out, "bias"), 1) == Fill("constant", {"value": 2.0})
    draft.retract(out)
    assert not draft.origins.named() and draft.origins.of(Key(out, "bias"), 1) is None
    draft.copy(hidden, out)
    assert draft.origins.of(Key(hidden, "bias"), 1) == Take(Key(out, "bias"), (None,))


def test_a_literal_array_arrives_as_it_is_also_within_a_stack() -> None:
    graph = network()
    node = graph.labels["hidden"]
    draft = graph.draft()
    rows = np.array([[0.1, 0.2]])
    digest = draft.blob(rows)
    assert digest == digest_of(rows) == draft.blob(rows.copy()) and list(draft.origins.blobs) == [digest]
    first = Take(Key(node, "weight"), (AxisTake(np.array([0, 1])), None))
    source = Stack(0, (first, Blob(digest, (1, 2))))
    draft.source(node, "weight", source)
    new = draft.commit()
    plan = derive(draft, new)
    assert plan.digests() == (digest,) == tuple(digests_of(source))
    assert list(keys_of(source)) == [Key(node, "weight")]
    weights = random_weights(graph, 0)
    after = transferred(plan, new, weights, blobs=draft.origins.blobs)[Key(node, "weight")]
    assert np.array_equal(after, np.vstack([weights[Key(node, "weight")][:2], rows]))
    with pytest.raises(PlanError, match="is not at hand"):
        transferred(plan, new, weights)


def test_literal_arrays_must_be_finite_and_of_the_right_shape() -> None:
    draft = network().draft()
    node = draft.base.labels["hidden"]
    for bad in (np.array([np.nan]), np.array(["a"]), np.zeros(2, dtype=np.float16)):
        with pytest.raises(GraphError, match="a blob must hold finite"):
            draft.blob(bad)
    draft.source(node, "weight", Blob(draft.blob(np.zeros((2, 3))), (2, 3)))
    with pytest.raises(PlanError, match=r"hidden\.weight: its source has shape \(2, 3\), the weight has \(3, 2\)"):
        derive(draft, draft.commit())


def test_a_literal_shift_is_added_to_what_is_taken() -> None:
    graph = network()
    key = Key(graph.labels["hidden"], "bias")
    draft = graph.draft()
    draft.select(graph.infer.spaces[1], [2, 0])
    rows = AxisTake(np.array([2, 0]))
    shift = Blob(draft.blob(np.array([0.5, -1.0])), (2,))
    draft.source(*key, Take(key, (rows,), shift=shift))
    new = draft.commit()
    plan = derive(draft, new)
    again = TransferPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again.to_json() == plan.to_json() and again.digests() == plan.digests() == (shift.digest,)
    weights = random_weights(graph, 0)
    after = transferred(again, new, weights, blobs=draft.origins.blobs)[key]
    assert np.array_equal(after, weights[key][[2, 0]] + [0.5, -1.0])
    with pytest.raises(PlanError, match="is not at hand"):
        transferred(plan, new, weights)
    wrong = TransferPlan({**plan.sources, key: Take(key, (rows,), shift=Blob(shift.digest, (3,)))})
    with pytest.raises(PlanError, match=r"hidden\.bias: a shift of shape \(3,\) for a source of shape \(2,\)"):
        wrong.verify(graph, new)


def test_equal_bytes_of_another_shape_or_type_have_another_digest() -> None:
    zeros = np.zeros((2, 3))
    assert len({digest_of(a) for a in (zeros, zeros.T, zeros.view(np.int64), zeros.reshape(6))}) == 4


def test_one_node_can_be_rewired_as_a_whole() -> None:
    graph = network()
    draft = graph.draft()
    doubled = draft.add("add", [draft.outputs[0], draft.outputs[0]], "sum")
    draft.rewire_node(doubled.node, [graph.outputs[0]])
    draft.outputs = [doubled]
    assert draft.commit().nodes[doubled.node].inputs == (graph.outputs[0],)
    with pytest.raises(GraphError, match="no node 99 to rewire"):
        draft.rewire_node(99, [])


@pytest.mark.parametrize("seed", range(8))
def test_paired_plans_read_back_equal_and_give_equal_arrays(seed: int) -> None:
    graph = random_graph(seed)
    draft = graph.draft()
    for space in graph.infer.spaces:
        if space.resizable:
            draft.select(space, [-1, -1, *range(space.size), -1, -1, -1], paired=True)
    new = draft.commit()
    plan = derive(draft, new)
    again = TransferPlan.from_json(json.loads(json.dumps(plan.to_json())))
    again.verify(graph, new)
    weights = random_weights(graph, seed)
    first, second = transferred(plan, new, weights), transferred(again, new, weights)
    assert again.to_json() == plan.to_json() and all(np.array_equal(first[key], second[key]) for key in first)


def test_pairs_must_stand_side_by_side() -> None:
    graph = network()
    hidden = graph.infer.spaces[1]
    draft = graph.draft()
    with pytest.raises(GraphError, match="two by two side by side"):
        draft.select(hidden, [-1, 0, -1], paired=True)
    draft.select(hidden, [0, -1, -1, 1, -1], paired=True)
    draft.select(hidden, [0, -1], paired=False)
    assert not draft.resized[hidden].paired


def test_a_twin_that_is_no_fresh_unit_is_refused() -> None:
    graph = network()
    key = Key(graph.labels["out"], "weight")
    index = np.array([0, -1, 1])
    for twin, words in (
        (Twin(np.array([0, 0, 2]), np.ones(3)), "must be a fresh position"),
        (Twin(np.array([0, 1]), np.ones(3)), "for each of 3 positions"),
    ):
        plan = TransferPlan({key: Take(key, (None, AxisTake(index, None, Fill("ones"), twin)))})
        with pytest.raises(PlanError, match=words):
            plan.verify(graph, graph)


def test_a_sum_of_arrays_keeps_its_gain_and_goes_into_a_stack() -> None:
    graph = network()
    node = graph.labels["hidden"]
    key = Key(node, "bias")
    draft = graph.draft()
    mean = Sum((Take(key, (AxisTake(np.array([0])),)), Take(key, (AxisTake(np.array([2])),))), 0.5)
    draft.source(node, "bias", Stack(0, (mean, Take(key, (AxisTake(np.array([1, 0])),)))))
    plan = derive(draft, draft.commit())
    again = TransferPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again.to_json() == plan.to_json() and list(keys_of(plan.sources[key])) == [key] * 3
    bias = random_weights(graph, 0)[key]
    carried = transferred(again, draft.commit(), random_weights(graph, 0))[key]
    assert np.allclose(carried, [(bias[0] + bias[2]) / 2, bias[1], bias[0]], atol=1e-15)


@pytest.mark.parametrize(
    ("parts", "gain", "why"),
    [
        ((), 1.0, "a sum needs parts"),
        ((Fill("zeros"),), 1.0, "none of them filled"),
        ((Take(Key(1, "bias"), (None,)),), float("nan"), "a finite gain"),
        ((Take(Key(1, "bias"), (None,)), Take(Key(1, "bias"), (AxisTake(np.array([0])),))), 1.0, "have no sum"),
    ],
)
def test_a_sum_that_cannot_be_is_refused(parts: tuple[Any, ...], gain: float, why: str) -> None:
    graph = network()
    node = graph.labels["hidden"]
    draft = graph.draft()
    draft.source(node, "bias", Sum(parts, gain))
    with pytest.raises(PlanError, match=rf"hidden\.bias: .*{why}"):
        derive(draft, draft.commit())


def test_a_literal_array_has_a_second_one_for_averaged_weights() -> None:
    graph = network()
    key = Key(graph.labels["hidden"], "bias")
    draft = graph.draft()
    own, other = np.array([1.0, 2.0, 3.0]), np.array([-1.0, 0.0, 7.0])
    shift = Blob(draft.blob(own), (3,), draft.blob(other))
    draft.source(*key, Take(key, (None,), shift=shift))
    new = draft.commit()
    plan = TransferPlan.from_json(json.loads(json.dumps(derive(draft, new).to_json())))
    assert plan.digests() == (digest_of(own), digest_of(other))
    weights = random_weights(graph, 0)
    for averaged, more in ((False, own), (True, other)):
        after = execute(
            plan,
            new,
            weights.__getitem__,
            NumpyArrays(),
            seed=0,
            ordinal=1,
            blobs=draft.origins.blobs,
            averaged=averaged,
        )
        assert np.array_equal(after[key], weights[key] + more)


def test_averages_of_a_weight_may_have_a_gain_of_their_own() -> None:
    graph = network()
    key = Key(graph.labels["hidden"], "weight")
    rows = AxisTake(np.arange(3), np.array([1.0, 2.0, 3.0]), averaged=np.array([4.0, 5.0, 6.0]))
    plan = TransferPlan({key: Take(key, (rows, None))})
    plan.verify(graph, graph)
    again = TransferPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again.to_json() == plan.to_json()
    weights = random_weights(graph, 0)
    for averaged, gain in ((False, rows.gain), (True, rows.averaged)):
        for made in (plan, again):
            taken = execute(made, graph, weights.__getitem__, NumpyArrays(), seed=0, ordinal=1, averaged=averaged)
            assert (taken[key] == weights[key] * gain[:, None]).all()
    with pytest.raises(PlanError, match=r"hidden\.weight: 2 gains for 3 positions"):
        wrong = AxisTake(np.arange(3), averaged=np.ones(2))
        TransferPlan({key: Take(key, (wrong, None))}).verify(graph, graph)
