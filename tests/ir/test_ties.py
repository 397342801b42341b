"""Weights that several nodes share: one array, one space for each of its axes, counted once, through every rewrite."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest

from nasir.errors import Decline, GraphError, TextFormatError, TypeRuleError
from nasir.ir import Draft, Graph, Port, parse
from nasir.passes.widen import Widen
from nasir.pruning.fold import effects
from nasir.rewriting.evidence import Evidence
from nasir.testing import evaluate, random_batch, random_weights, silence, transferred
from nasir.testing.interpreter import Array
from nasir.transfer import Key, TransferPlan, derive

SLOTS = ("weight", "bias")


def recurrent(calls: int = 3, tied: bool = True) -> Graph:
    """A layer called several times in a row, as a recurrent network or ALBERT calls it, between two of its own."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=[5])
    x = draft.add("relu", draft.add("linear", x, "first", out=8), "act")
    owner = None
    for call in range(calls):
        x = draft.add("linear", x, f"cell@{call}", out=8)
        if owner is not None and tied:
            for slot in SLOTS:
                draft.tie(Key(x.node, slot), Key(owner, slot))
        owner = x.node if owner is None else owner
        x = draft.add("relu", x, f"act@{call}")
    draft.output(draft.add("linear", x, "last", out=3))
    return draft.commit()


def by_hand(graph: Graph, weights: Mapping[Key, Array], x: Array, calls: int) -> Array:
    """The same network written down in numpy, with one array for the cell."""
    node = {label: graph.find(label) for label in ("first", "cell@0", "last")}

    def linear(label: str, value: Array) -> Array:
        product: Array = value @ weights[Key(node[label], "weight")].T + weights[Key(node[label], "bias")]
        return product

    x = np.maximum(linear("first", x), 0.0)
    for _ in range(calls):
        x = np.maximum(linear("cell@0", x), 0.0)
    return linear("last", x)


def test_it_is_one_array_counted_once() -> None:
    graph, apart = recurrent(), recurrent(tied=False)
    assert apart.cost().params - graph.cost().params == 2 * (8 * 8 + 8)
    assert graph.cost().macs == apart.cost().macs
    assert [len(slots) for slots in graph.infer.slots.values()].count(2) == 3
    assert graph.cost("cell@1").params == 0 and graph.cost("cell@0").params == 72
    weights, (x,) = random_weights(graph, 0), random_batch(graph, 1)
    assert abs(evaluate(graph, weights, x) - by_hand(graph, weights, x, 3)).max() < 1e-12


def test_what_runs_over_its_axes_is_one_space() -> None:
    """Its inputs and outputs are one set of units, since the second call reads what the first wrote."""
    free = [atom for atom in recurrent().infer.spaces if atom.resizable]
    assert [atom.size for atom in free] == [8] and len(
        [a for a in recurrent(tied=False).infer.spaces if a.resizable]
    ) == 4


def test_units_that_are_silent_go_without_a_change() -> None:
    """The oracle of pruning: silenced in the network that is, gone in the one that follows."""
    graph = recurrent()
    (space,) = [atom for atom in graph.infer.spaces if atom.resizable]
    weights, (x,) = random_weights(graph, 0), random_batch(graph, 1)
    silence(graph, weights, {space: np.array([1, 4])})
    draft = graph.draft()
    draft.select(space, np.array([0, 2, 3, 5, 6, 7]))
    small = draft.commit()
    plan = derive(draft, small)
    assert {key.node for key in plan.sources} == {graph.find(label) for label in ("first", "cell@0", "last")}
    after = transferred(plan, small, weights)
    assert small.ties == graph.ties and small.infer.slots[small.find("cell@0")]["weight"].shape == (6, 6)
    assert abs(evaluate(small, after, x) - evaluate(graph, weights, x)).max() < 1e-12


def test_replicated_units_keep_the_function() -> None:
    graph = recurrent()
    (space,) = [atom for atom in graph.infer.spaces if atom.resizable]
    weights, (x,) = random_weights(graph, 0), random_batch(graph, 1)
    draft = graph.draft()
    draft.select(space, np.array([*range(8), 0, 3, 3]))
    wide = draft.commit()
    after = transferred(derive(draft, wide), wide, weights)
    assert abs(evaluate(wide, after, x) - evaluate(graph, weights, x)).max() < 1e-12


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_without_one_of_its_nodes_the_array_goes_on(gone: int) -> None:
    """Also without the one that owned it: the next one does then, with the same numbers."""
    graph = recurrent()
    draft = graph.draft()
    node, act = graph.find(f"cell@{gone}"), graph.find(f"act@{gone}")
    draft.rewire(Port(act), graph.nodes[node].inputs[0])
    draft.remove((node, act))
    short = draft.commit()
    plan = derive(draft, short)
    weights, (x,) = random_weights(graph, 0), random_batch(graph, 1)
    after = transferred(plan, short, weights)
    assert len(short.ties) == 2 and len(plan.sources) == (2 if gone == 0 else 0)
    assert abs(evaluate(short, after, x) - by_hand(graph, weights, x, 2)).max() < 1e-12
    assert TransferPlan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_a_weight_that_is_untied_starts_as_a_copy() -> None:
    graph = recurrent()
    draft = graph.draft()
    for slot in SLOTS:
        draft.untie(Key(graph.find("cell@2"), slot))
    new = draft.commit()
    weights, (x,) = random_weights(graph, 0), random_batch(graph, 1)
    after = transferred(derive(draft, new), new, weights)
    assert len(new.ties) == 2 and new.cost().params == graph.cost().params + 72
    assert abs(evaluate(new, after, x) - evaluate(graph, weights, x)).max() < 1e-12
    with pytest.raises(GraphError, match="borrowed from no other node"):
        draft.untie(Key(graph.find("cell@2"), "bias"))


def test_a_weight_tied_to_a_borrower_is_tied_to_its_owner() -> None:
    draft = recurrent(2).draft()
    first, second = (draft.base.find(f"cell@{n}") for n in (0, 1))  # type: ignore[union-attr]
    last = draft.add("linear", Port(draft.base.find("act@1")), "cell@2", out=8)  # type: ignore[union-attr]
    draft.tie(Key(last.node, "weight"), Key(second, "weight"))
    assert draft.ties[Key(last.node, "weight")] == Key(first, "weight")
    draft.tie(Key(first, "weight"), Key(draft.base.find("first"), "bias"))  # type: ignore[union-attr]
    assert set(draft.ties.values()) == {Key(first, "bias"), Key(draft.base.find("first"), "bias")}  # type: ignore[union-attr]
    with pytest.raises(GraphError, match="tied to itself"):
        draft.tie(Key(first, "bias"), Key(second, "bias"))
    with pytest.raises(GraphError, match="no node 999 to tie"):
        draft.tie(Key(999, "bias"), Key(second, "bias"))


def test_what_is_no_one_array_is_refused() -> None:
    def tied(out: int, slot: str = "weight", other: str = "weight") -> Graph:
        draft = Draft()
        x = draft.add("input", (), "x", shape=[4])
        a = draft.add("linear", x, "a", out=4)
        b = draft.add("linear", a, "b", out=out)
        draft.tie(Key(b.node, slot), Key(a.node, other))
        draft.output(b)
        return draft.commit()

    with pytest.raises(
        TypeRuleError, match=r"'b.weight' shares 'a.weight', but they differ in shape: .3, 4. and .4, 4."
    ):
        tied(3)
    with pytest.raises(GraphError, match=r"tie of b.gain to a.weight: there is no b.gain"):
        tied(4, "gain")
    graph = tied(4)
    assert not [atom for atom in graph.infer.spaces if atom.resizable]  # it reads the input and writes the output


def test_text_data_and_digest_know_what_is_shared() -> None:
    graph = recurrent()
    assert parse(graph.to_text()) == graph == Graph.from_json(json.loads(json.dumps(graph.to_json())))
    assert "tie %5.weight %3.weight\n" in graph.to_text()
    assert graph.digest != recurrent(tied=False).digest and graph != recurrent(tied=False)
    biases = [tie for tie in graph.to_json()["ties"] if tie[1] == "bias"]
    other = graph.to_json() | {"ties": [[3, "weight", 5, "weight"], [7, "weight", 5, "weight"], *biases]}
    assert Graph.from_json(other).digest == graph.digest  # whoever owns it
    for ties, text in (([[3, "weight", 99, "weight"]], "tie of"), ([[3, "weight"]], "malformed"), ([3], "malformed")):
        with pytest.raises(TextFormatError, match=text):
            Graph.from_json(graph.to_json() | {"ties": ties})
    with pytest.raises(GraphError, match="which owns nothing"):
        Graph.from_json(graph.to_json() | {"ties": [[5, "bias", 3, "bias"], [7, "bias", 5, "bias"]]})


def test_a_constant_goes_into_no_bias_that_others_share() -> None:
    """What one caller of a shared layer no longer reads may not be added for the others as well."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=[5])
    a = draft.add("linear", x, "a", out=6)
    b = draft.add("linear", x, "b", out=6)
    first, second = (
        draft.add("linear", draft.add("relu", y, f"r{n}"), f"head@{n}", out=2) for n, y in enumerate((a, b))
    )
    for slot in SLOTS:
        draft.tie(Key(second.node, slot), Key(first.node, slot))
    draft.output(draft.add("add", [first, second], "sum"))
    graph = draft.commit()
    (space,) = [atom for atom in graph.infer.spaces if atom.resizable]
    weights = random_weights(graph, 0)
    weights[Key(a.node, "weight")][2] = 0.0  # unit 2 of one of them is constant
    weights[Key(a.node, "bias")][2] = 0.7
    seen = Evidence({"weights": {f"{graph.nodes[k.node].label}.{k.slot}": v for k, v in weights.items()}})
    kept = {space: np.array([0, 1, 3, 4, 5])}
    with pytest.raises(Decline, match=r"'head@0.bias', which would take them, is shared with 'head@1'"):
        effects(graph, kept, seen, folding=True)
    assert effects(graph, kept, seen, folding=False) == (False, [])


@pytest.mark.parametrize("tied", [True, False])
def test_copies_of_units_are_not_exact_where_a_weight_reads_and_writes_them(tied: bool) -> None:
    """A reader of two copies takes half of its weight for each, and what scales them takes all of it."""
    draft = Draft()
    y = draft.add("linear", draft.add("input", (), "x", shape=[5]), "a", out=8)
    factor = draft.add("parameter", (), "factor", shape=[1, 8], start=1.0)
    head = draft.add("linear", draft.add("mul", [factor, y], "scaled"), "head", out=1, bias=False)
    if tied:
        draft.tie(Key(head.node, "weight"), Key(factor.node, "value"))
    draft.output(head)
    graph = draft.commit()
    (space,) = [atom for atom in graph.infer.spaces if atom.resizable]
    rewrite = Widen(units=3, symmetry="none").attempt(graph, space, Evidence({}))
    weights, (x,) = random_weights(graph, 0), random_batch(graph, 1)
    after = transferred(rewrite.plan, rewrite.graph, weights)
    apart = abs(evaluate(rewrite.graph, after, x) - evaluate(graph, weights, x)).max()
    assert (rewrite.preserves, bool(apart < 1e-12)) == (("no", False) if tied else ("exact", True))
