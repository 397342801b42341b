"""What a pass may look at: measurements by space, by node and by weight, its own randomness, and clear refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from grown import images, lived, pyramid
from made_records import made
from torch.nn import functional

from nasir import get_pass
from nasir.backends.torch.observe.evidence import observe
from nasir.errors import NasirError
from nasir.ir import Atom, Draft, Graph
from nasir.registry import passes
from nasir.rewriting.evidence import KINDS, OTHERS, PER_UNIT, Evidence, Need


def space(graph: Graph, name: str) -> Atom:
    return next(s for s in graph.infer.spaces if s.name == name)


def test_kinds_are_known_by_name() -> None:
    assert KINDS.keys() == PER_UNIT.keys() | OTHERS.keys() and len(KINDS) == len(PER_UNIT) + len(OTHERS)
    with pytest.raises(NasirError, match="weight_l2"):
        Need("weight_l3")


def test_rows_and_their_mean() -> None:
    graph = pyramid((1, 1), 4)
    there = space(graph, "s1.0.conv1")
    seen = Evidence({"taylor": {there.name: np.array([[1.0, 2, 3, 4], [3, 2, 1, 0]])}})
    assert seen.members("taylor", there).shape == (2, 4)
    assert seen.per_index("taylor", there).tolist() == [2, 2, 2, 2]
    evidence = Evidence({"taylor": {there.name: np.arange(4.0)}})
    assert evidence.per_index("taylor", there).tolist() == [0, 1, 2, 3] and evidence.members("taylor", there).shape == (
        1,
        4,
    )
    with pytest.raises(NasirError, match="3 values for 4 units"):
        Evidence({"taylor": {there.name: np.arange(3.0)}}).per_index("taylor", there)
    with pytest.raises(NasirError, match=r"not measured.*declares needs"):
        Evidence().per_index("taylor", there)


def test_its_randomness_depends_on_seed_rewrite_purpose_and_refusals_alone() -> None:
    def draw(seed: int, ordinal: int, purpose: str) -> list[float]:
        return Evidence(seed=seed, ordinal=ordinal).rng(purpose).random(3).tolist()

    assert draw(1, 2, "a") == draw(1, 2, "a")
    assert len({tuple(draw(*key)) for key in [(1, 2, "a"), (1, 2, "b"), (1, 3, "a"), (2, 2, "a")]}) == 4
    refused = Evidence(history=[made("declined"), made("epoch")], seed=1, ordinal=2)
    assert refused.rng("a").random(3).tolist() not in (draw(1, 2, "a"), draw(1, 3, "a"))  # else it is refused for ever


def test_weights_are_read_only_views() -> None:
    model = lived(pyramid((1, 1), 4))
    array = observe(model, [Need("weights")]).weight("s1.0.conv1", "weight")
    assert array.shape == (4, 4, 3, 3)
    with pytest.raises(ValueError):
        array[0] = 0.0
    with torch.no_grad():
        model.state_dict()["s1.0.conv1.weight"][0] = 7.0
    assert (array[0] == 7.0).all()  # no copy was made
    seen = observe(model, [Need("weights")])
    with pytest.raises(NasirError, match=r"no\.such\.weight"):
        seen.weight("no.such", "weight")


def test_numbers_by_node() -> None:
    model = lived(pyramid((1, 1), 4))
    seen = observe(model, [Need("weight_abs")])
    weight = model.state_dict()["s2.0.conv1.weight"]
    mean, count = seen.per_weight("weight_abs", "s2.0.conv1")
    assert count == weight.numel() and abs(mean - float(weight.double().abs().mean())) < 1e-12
    convs = [node.label for node in model.graph.nodes.values() if node.op in ("conv2d", "linear")]
    assert list(seen.measured["weight_abs"]) == convs


def test_sums_of_weights_reach_units_through_flattening_and_concatenation() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[2, 3, 3])
    a, b = draft.add("conv2d", x, "a", out=3, kernel=1), draft.add("conv2d", x, "b", out=2, kernel=1)
    flat = draft.add("flatten", draft.add("concat", [a, b], "cat"), "flat")
    draft.output(draft.add("linear", flat, "fc", out=4, bias=False))
    model = lived(draft.commit(), dtype=torch.float64)
    fc = model.state_dict()["fc.weight"].reshape(4, 5, 9)
    seen = observe(model, [Need("weight_l1"), Need("weight_l2"), Need("weight_mean")])
    for name, part in (("a", slice(0, 3)), ("b", slice(3, 5))):
        own = model.state_dict()[f"{name}.weight"].reshape(-1, 2)
        for kind, power in (("weight_l1", 1), ("weight_l2", 2)):
            wanted = torch.stack([own.abs().pow(power).sum(1), fc[:, part].abs().pow(power).sum((0, 2))])
            assert np.allclose(seen.members(kind, space(model.graph, name)), wanted, rtol=1e-12)
        assert np.allclose(seen.members("weight_mean", space(model.graph, name)), own.abs().mean(1), rtol=1e-12)


def test_gradients_need_labels_and_leave_no_trace() -> None:
    model = lived(pyramid((1, 1), 4))
    frozen = model.state_dict(keep_vars=True)["s1.0.conv1.weight"]
    frozen.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()]
    model.train()
    x, y = images(6), torch.arange(6)
    seen = observe(model, [Need("taylor")], x, y)
    assert model.training and [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    frozen.requires_grad_(True)
    functional.cross_entropy(model.eval()(x), y).backward()
    assert frozen.grad is not None
    wanted = (frozen * frozen.grad).sum((1, 2, 3)).abs().detach().numpy()
    assert any(np.allclose(row, wanted, rtol=1e-4) for row in seen.members("taylor", space(model.graph, "s1.0.conv1")))
    with pytest.raises(NasirError, match="labels"):
        observe(model, [Need("taylor")], x)
    with pytest.raises(NasirError, match="images"):
        observe(model, [Need("activation_mean")])


def test_a_model_measures_what_a_pass_needs() -> None:
    model = lived(pyramid((1, 1), 4))
    rule: Any = passes.get("prune-channels")(score="taylor", fraction=0.5)
    assert model.apply(rule, "s1.0.conv1", images=images(6), labels=torch.arange(6)) is not None
    assert model.state_dict()["s1.0.conv1.weight"].shape[0] == 2


def test_evidence_is_measured_for_a_pass_that_is_applied_by_hand() -> None:
    model = lived(pyramid((1, 1), 8))
    prune = get_pass("prune-channels")(fraction=0.5)
    with pytest.raises(NasirError, match=r"not measured.*model\.observe"):
        prune.apply(model.graph, "network")
    rewrite = prune.apply(model.graph, "network", model.observe(prune.needs))
    assert rewrite is not None and rewrite.graph.cost().params < model.graph.cost().params
