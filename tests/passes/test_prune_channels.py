"""`prune-channels`: scores, rankings, targets, exactness and folding (algorithms.md sections 3.5, 3.6, 12)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from grown import images, lived, logits, pyramid

from nasir.backends.torch import Model
from nasir.backends.torch.observe.evidence import observe
from nasir.errors import Decline
from nasir.ir import Atom, Draft, Graph
from nasir.ir.space import positions
from nasir.passes.prune_channels import PruneChannels
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import WHOLE, Refresh, Rewrite
from nasir.testing import PassContract, evaluate, random_batch, random_graph, random_weights, transferred
from nasir.testing.graphs import MIXING, STIRRING
from nasir.testing.weights import silence
from nasir.transfer import Key

Weights = dict[Key, Any]


class TestFractionContract(PassContract):
    make = staticmethod(lambda: PruneChannels(fraction=0.4))


class TestGlobalTargetContract(PassContract):
    make = staticmethod(lambda: PruneChannels(target={"macs": "60%"}, ranking="global", score="activation_mean"))


class TestLatencyContract(PassContract):
    make = staticmethod(lambda: PruneChannels(target={"latency": "80%"}, score="random"))


class TestSilentUnitsContract(PassContract):
    """Units that put out constant zero go; the contract's weights are made to hold some."""

    make = staticmethod(lambda: PruneChannels(score="group_lasso", threshold=0.6, constants="drop", recalibrate=3))


def seen_by(graph: Graph, weights: Weights) -> Evidence:
    """Evidence from given weights, each number summed up naively unit by unit."""
    writes: dict[str, list[Any]] = {space.name: [] for space in graph.infer.spaces}
    for space in graph.infer.spaces:
        for node_id, slots in graph.infer.slots.items():
            for name, slot in slots.items():
                for number, (axis, role) in enumerate(slot.axes):
                    if role != "write" or slot.kind != "param" or "bias" in slot.tags:
                        continue
                    rows = []
                    for unit in range(space.size):
                        index = np.arange(space.size)
                        index[unit] = -1
                        where = positions(axis, {space: index})
                        if where is not None:
                            part = np.moveaxis(weights[Key(node_id, name)], number, 0)[where < 0]
                            rows.append(np.sqrt((part**2).mean()))
                    if rows:
                        writes[space.name].append(rows)
    measured = {name: np.array(rows) if rows else np.empty((0, 1)) for name, rows in writes.items()}
    for space in graph.infer.spaces:
        measured[space.name] = measured[space.name].reshape(-1, space.size)
    named = {f"{graph.nodes[key.node].label}.{key.slot}": array for key, array in weights.items()}
    return Evidence({"group_lasso": measured, "weights": named})


def silenced(graph: Graph, seed: int) -> tuple[Weights, int]:
    """Random weights with about a third of the units of every resizable space silent, and their number."""
    rng = np.random.default_rng(seed)
    weights = random_weights(graph, seed)
    dead = {
        space: rng.permutation(space.size)[: rng.integers(0, space.size // 2 + 1)]
        for space in graph.infer.spaces
        if space.resizable
    }
    dead = {space: units for space, units in dead.items() if len(units)}
    silence(graph, weights, dead)
    return weights, sum(map(len, dead.values()))


DEAD = PruneChannels(score="group_lasso", aggregate="max", threshold=0.0, spaces=("channels", "groups", "widths"))


# -- exactness


@pytest.mark.parametrize("seed", range(30))
def test_silent_units_go_without_a_trace_in_float64(seed: int) -> None:
    graph = random_graph(seed, steps=6, without=MIXING | STIRRING)
    weights, dead = silenced(graph, seed)
    batch = random_batch(graph, seed)
    rewrite = DEAD.apply(graph, WHOLE, seen_by(graph, weights))
    if rewrite is None:
        return
    assert rewrite.preserves == "exact"
    assert rewrite.graph.cost().params < graph.cost().params
    before = evaluate(graph, weights, batch)
    after = evaluate(rewrite.graph, transferred(rewrite.plan, rewrite.graph, weights), batch)
    assert abs(after - before).max() <= 1e-12 * max(1.0, abs(before).max())
    assert dead > 0


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_called_exact_is(seed: int) -> None:
    graph = random_graph(100 + seed, steps=6)
    weights, _ = silenced(graph, seed)
    batch = random_batch(graph, seed)
    rewrite = DEAD.apply(graph, WHOLE, seen_by(graph, weights))
    if rewrite is None or rewrite.preserves != "exact":
        return
    before = evaluate(graph, weights, batch)
    new = transferred(rewrite.plan, rewrite.graph, weights, blobs=rewrite.blobs)
    assert abs(evaluate(rewrite.graph, new, batch) - before).max() <= 1e-12 * max(1.0, abs(before).max())


def test_golden_dead_channels_inside_a_block() -> None:
    """Four inner channels with scale and shift 0 at stage width 32 with 16 inputs: 1,736 parameters, no difference."""
    model = lived(pyramid((1, 1, 1)), dtype=torch.float64)
    x = images(dtype=torch.float64)
    with torch.no_grad():
        for slot in ("weight", "bias"):
            model.state_dict()[f"s2.0.bn1.{slot}"][[3, 7, 8, 31]] = 0.0
    before = [logits(model, x, training) for training in (False, True)]
    params = model.graph.cost().params
    rewrite = model.apply(PruneChannels(score="norm_scale", threshold=0.0), "s2.0")
    assert isinstance(rewrite, Rewrite) and rewrite.preserves == "exact"
    assert params - model.graph.cost().params == 1736
    # kernels sum channels in another order; in float32 the logits are the same numbers
    for training, old in zip((False, True), before, strict=True):
        assert torch.equal(logits(model, x, training).float(), old.float())


def test_the_pruned_network_is_the_old_one_with_those_channels_at_zero() -> None:
    model = lived(pyramid((1, 1, 1), 8), dtype=torch.float64)
    pruned = lived(pyramid((1, 1, 1), 8), dtype=torch.float64)
    rewrite = pruned.apply(PruneChannels(fraction=0.5), "s2.0.conv1")
    assert isinstance(rewrite, Rewrite) and rewrite.preserves == "no"
    (source,) = [s for key, s in rewrite.plan.sources.items() if key == Key(model.graph.find("s2.0.bn1"), "bias")]
    gone = np.setdiff1d(np.arange(16), source.axes[0].index)  # type: ignore[union-attr]
    with torch.no_grad():
        for slot in ("weight", "bias"):
            model.state_dict()[f"s2.0.bn1.{slot}"][gone] = 0.0
    x = images(dtype=torch.float64)
    assert torch.allclose(logits(model, x), logits(pruned, x), rtol=0, atol=1e-12)


# -- scores


def tied() -> Graph:
    """Two convolutions added: one space, read by a 1x1 convolution and, flattened, by a linear layer."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 4, 4])
    left = draft.add("batch_norm", draft.add("conv2d", x, "left", out=5, kernel=3, padding=1), "bn")
    right = draft.add("conv2d", x, "right", out=5, kernel=1, bias=True)
    y = draft.add("relu", draft.add("add", [left, right], "sum"), "act")
    y = draft.add("add", [draft.add("conv2d", y, "mix", out=5, kernel=1), y], "again")
    draft.output(draft.add("linear", draft.add("flatten", y, "flat"), "fc", out=4))
    return draft.commit()


def expected_rows(model: Model, per_unit: Any) -> dict[str, Any]:
    """`per_unit(tensor, name)` for each array along the space of `tied`: units first, as 2-D tensors."""
    state = dict(model.named_parameters())
    fc = state["fc.weight"].reshape(4, 5, 16).permute(1, 0, 2)
    arrays = {
        "left.weight": state["left.weight"],
        "bn.weight": state["bn.weight"],
        "right.weight": state["right.weight"],
        "mix.weight": state["mix.weight"],
        "mix.weight in": state["mix.weight"].transpose(0, 1),
        "fc.weight": fc,
    }
    return {name: per_unit(array.reshape(5, -1)).detach().double().numpy() for name, array in arrays.items()}


@pytest.mark.parametrize("aggregate", ["mean", "max", "sum"])
@pytest.mark.parametrize("score", ["l1", "l2", "group_lasso", "norm_scale"])
def test_scores_are_their_formulas(score: str, aggregate: str) -> None:
    model = lived(tied())
    formulas = {
        "l1": lambda w: w.abs().sum(1),
        "l2": lambda w: w.square().sum(1),
        "group_lasso": lambda w: w.square().mean(1).sqrt(),
        "norm_scale": lambda w: w.abs().sum(1),
    }
    rows = expected_rows(model, formulas[score])
    chosen = {"group_lasso": ("left.weight", "right.weight", "mix.weight"), "norm_scale": ("bn.weight",)}
    wanted = np.array([rows[name] for name in chosen.get(score, tuple(rows))])
    values = getattr(wanted, aggregate)(axis=0)
    rule = PruneChannels(score=score, aggregate=aggregate, fraction=0.4)  # type: ignore[arg-type]
    rewrite = rule.attempt(model.graph, "left", observe(model, rule.needs))
    kept = rewrite.plan.sources[Key(model.graph.find("bn"), "bias")].axes[0].index  # type: ignore[union-attr]
    assert kept.tolist() == sorted(np.argsort(values, kind="stable")[2:].tolist())
    cut = float(np.sort(values)[1])
    rule = PruneChannels(score=score, aggregate=aggregate, threshold=cut * (1 + 1e-5))  # type: ignore[arg-type]
    assert rule.attempt(model.graph, WHOLE, observe(model, rule.needs)).graph == rewrite.graph


def space(graph: Graph, name: str = "left") -> Atom:
    return next(s for s in graph.infer.spaces if s.name == name)


def test_the_group_lasso_mixes_in_the_mean() -> None:
    model = lived(tied())
    rows = expected_rows(model, lambda w: 0.75 * w.square().mean(1).sqrt() + 0.25 * w.abs().mean(1))
    values = np.array([rows[name] for name in ("left.weight", "right.weight", "mix.weight")]).mean(0)
    rule = PruneChannels(score="group_lasso", l1=0.25, threshold=float(np.sort(values)[2]) * (1 + 1e-6))
    rewrite = rule.attempt(model.graph, WHOLE, observe(model, rule.needs))
    kept = rewrite.plan.sources[Key(model.graph.find("bn"), "bias")].axes[0].index  # type: ignore[union-attr]
    assert kept.tolist() == sorted(np.argsort(values)[3:].tolist())


def test_taylor_scores_by_weight_times_gradient() -> None:
    model = lived(tied())
    x, y = images(6, 4), torch.arange(6) % 4
    with torch.no_grad():
        marker = torch.full_like(model.leaf(model.graph.find("fc")).weight, 7.0)  # type: ignore[union-attr, arg-type]
    model.leaf(model.graph.find("fc")).weight.grad = marker  # type: ignore[union-attr]
    rule = PruneChannels(score="taylor", fraction=0.4, aggregate="sum")
    seen = observe(model, rule.needs, x, y)
    assert model.leaf(model.graph.find("fc")).weight.grad is marker  # type: ignore[union-attr]
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["fc.weight"]
    loss = torch.nn.functional.cross_entropy(model.eval()(x), y)
    parameters = dict(model.named_parameters())
    gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    product = {name: parameters[name] * gradients[name] for name in parameters}
    rows = [
        product["left.weight"].reshape(5, -1).sum(1),
        product["bn.weight"],
        product["right.weight"].reshape(5, -1).sum(1),
        product["mix.weight"].reshape(5, -1).sum(1),
        product["mix.weight"].transpose(0, 1).reshape(5, -1).sum(1),
        product["fc.weight"].reshape(4, 5, 16).sum((0, 2)),
    ]
    wanted = torch.stack([row.abs() for row in rows]).detach().double().numpy()
    measured = seen.members("taylor", space(model.graph))
    assert np.allclose(np.sort(measured, axis=0), np.sort(wanted, axis=0), rtol=1e-5, atol=1e-8)


def test_random_scores_are_a_function_of_seed_and_ordinal() -> None:
    graph = pyramid((1, 1), 8)
    rule = PruneChannels(score="random", fraction=0.5)
    first, again, other, later = (
        plan_of(rule, graph, seed, ordinal) for seed, ordinal in ((1, 1), (1, 1), (2, 1), (1, 2))
    )
    assert first == again and first != other and first != later


def plan_of(rule: PruneChannels, graph: Graph, seed: int, ordinal: int) -> Any:
    named = {f"{graph.nodes[k.node].label}.{k.slot}": w for k, w in random_weights(graph, 0).items()}
    return rule.attempt(graph, WHOLE, Evidence({"weights": named}, seed=seed, ordinal=ordinal)).plan.to_json()


# -- rankings, rounding and targets


def test_a_global_ranking_takes_the_lowest_scores_wherever_they_are() -> None:
    model = lived(pyramid((1, 1), 8))
    with torch.no_grad():
        model.state_dict()["s1.0.bn1.weight"][:6] = 1e-3
    rule = PruneChannels(score="norm_scale", ranking="global", normalize="none", fraction=0.2)
    sizes = {s.name: s.size for s in rule.attempt(model.graph, WHOLE, observe(model, rule.needs)).graph.infer.spaces}
    total = sum(s.size for s in model.graph.infer.spaces if s.resizable)
    left = sum(s.size for s in model.graph.infer.spaces if s.resizable) - int(0.2 * total)
    assert sizes["s1.0.conv1"] == 2
    assert sum(size for name, size in sizes.items() if name not in ("x", "fc")) == left


@pytest.mark.parametrize("ranking", ["local", "global"])
def test_floor_and_multiple_hold(ranking: str) -> None:
    model = lived(pyramid((1, 1), 12))
    rule = PruneChannels(fraction=0.7, floor=5, multiple_of=4, ranking=ranking)  # type: ignore[arg-type]
    graph = rule.attempt(model.graph, WHOLE, observe(model, rule.needs)).graph
    before = {s.name: s.size for s in model.graph.infer.spaces}
    for s in graph.infer.spaces:
        if s.resizable:
            assert s.size >= 8 and (s.size % 4 == 0 or s.size == before[s.name])


@pytest.mark.parametrize("ranking", ["local", "global"])
@pytest.mark.parametrize("multiple_of", [1, 4])
@pytest.mark.parametrize("resource", ["macs", "params"])
def test_a_target_is_met_as_far_as_rounding_allows(resource: str, multiple_of: int, ranking: str) -> None:
    model = lived(pyramid((2, 1, 1), 16))
    rule = PruneChannels(target={resource: "47%"}, multiple_of=multiple_of, ranking=ranking)  # type: ignore[arg-type]
    rewrite = rule.attempt(model.graph, WHOLE, observe(model, rule.needs))
    target = 0.47 * getattr(model.graph.cost(), resource)
    assert getattr(rewrite.graph.cost(), resource) <= target
    after = {s.name: s.size for s in rewrite.graph.infer.spaces}
    for wider in [s for s in model.graph.infer.spaces if s.resizable and after[s.name] < s.size]:
        draft = model.graph.draft()
        for s in model.graph.infer.spaces:
            if s.resizable:
                size = after[s.name]
                draft.select(s, np.arange(min(s.size, size + multiple_of) if s is wider else size))
        assert getattr(draft.commit().cost(), resource) > target, wider.name


def test_an_absolute_target_and_a_latency_target() -> None:
    model = lived(pyramid((1, 1), 8))
    macs = model.graph.cost().macs
    rule = PruneChannels(target={"macs": 0.3 * macs})
    assert rule.attempt(model.graph, WHOLE, observe(model, rule.needs)).graph.cost().macs <= 0.3 * macs
    asked = []

    def clock(graph: Graph) -> float:
        asked.append(graph)
        return 1e-9 * graph.cost().macs

    rule = PruneChannels(target={"latency": "50%"})
    seen = observe(model, [need for need in rule.needs if need.kind != "latency"], latency=clock)
    rewrite = rule.attempt(model.graph, WHOLE, seen)
    assert 0.4 * macs < rewrite.graph.cost().macs <= 0.5 * macs
    assert len(asked) < 12


# -- sites and refusals


def test_a_region_prunes_what_is_written_in_it() -> None:
    model = lived(pyramid((1, 1), 8))
    rule = PruneChannels(fraction=0.5)
    graph = rule.attempt(model.graph, "s2", observe(model, rule.needs)).graph
    before = {s.name: s.size for s in model.graph.infer.spaces}
    changed = {s.name for s in graph.infer.spaces if s.size != before[s.name]}
    assert changed == {name for name in before if name.startswith("s2.")} and changed


def test_pinned_spaces_are_refused_with_the_reason() -> None:
    model = lived(pyramid((1, 1), 8))
    rule = PruneChannels(fraction=0.5)
    seen = observe(model, rule.needs)
    for pinned, reason in (("x", "input of the network"), ("fc", "output of the network")):
        (site,) = [s for s in rule.sites(model.graph) if isinstance(s, Atom) and s.name == pinned]
        with pytest.raises(Decline, match=reason):
            rule.attempt(model.graph, site, seen)


def test_what_cannot_be_done_is_refused_with_the_reason() -> None:
    model = lived(pyramid((1, 1), 8))
    cases = {
        "no unit goes": PruneChannels(fraction=0.01),
        "within the target": PruneChannels(target={"params": 10**9}),
        "floors respected": PruneChannels(target={"params": 10}),
        "of kind channels": PruneChannels(fraction=0.5, spaces=("heads",)),
    }
    for reason, rule in cases.items():
        with pytest.raises(Decline, match=reason):
            rule.attempt(model.graph, WHOLE, observe(model, rule.needs))
    rule = PruneChannels(score="norm_scale", fraction=0.5)
    model = Model.from_graph(grouped())
    with pytest.raises(Decline, match="not defined"):
        rule.attempt(model.graph, WHOLE, observe(model, rule.needs))


def grouped() -> Graph:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 6, 6])
    x = draft.add("relu", draft.add("conv2d", x, "a", out=12, kernel=1), "act")
    x = draft.add("conv2d", x, "b", out=24, kernel=3, padding=1, groups=4)
    draft.output(draft.add("linear", draft.add("flatten", x, "flat"), "fc", out=3))
    return draft.commit()


def test_groups_go_whole_and_unequal_groups_cannot_be_asked_for() -> None:
    model = Model.from_graph(grouped())
    rule = PruneChannels(fraction=0.5)
    graph = rule.attempt(model.graph, WHOLE, observe(model, rule.needs)).graph
    node = graph.nodes[model.graph.find("b")]
    assert (node.attrs["groups"], node.attrs["out"]) == (2, 12)
    assert graph.nodes[model.graph.find("a")].attrs["out"] == 6
    with pytest.raises(Decline, match="of kind groups, widths, and `spaces` allows channels only"):
        PruneChannels(fraction=0.5, spaces=("channels",)).attempt(model.graph, WHOLE, observe(model, rule.needs))
    rule = PruneChannels(fraction=0.5, spaces=("widths",))
    graph = rule.attempt(model.graph, WHOLE, observe(model, rule.needs)).graph
    node = graph.nodes[model.graph.find("b")]
    assert (node.attrs["groups"], node.attrs["out"], graph.nodes[model.graph.find("a")].attrs["out"]) == (4, 12, 8)
    rule = PruneChannels(fraction=0.4, multiple_of=6)  # 24 outputs in 4 groups of 6: any number of groups will do
    node = rule.attempt(model.graph, WHOLE, observe(model, rule.needs)).graph.nodes[model.graph.find("b")]
    assert node.attrs["groups"] == 4 or node.attrs["out"] % 6 == 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fraction": 0.5, "threshold": 0.1},
        {"fraction": 1.0},
        {"threshold": -0.1},
        {"fraction": 0.5, "floor": 0},
        {"target": {"macs": "150%"}},
        {"target": {"speed": 3}},
        {"target": {"macs": "half"}},
        {"target": {"macs": 1, "params": 1}},
        {"fraction": 0.5, "spaces": ()},
        {"fraction": 0.5, "l1": 2.0},
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        PruneChannels(**options)


def test_it_asks_for_recalibration_when_told_to() -> None:
    model = lived(pyramid((1, 1), 8))
    for batches in (0, 5):
        rule = PruneChannels(fraction=0.5, recalibrate=batches)
        rewrite = rule.attempt(model.graph, WHOLE, observe(model, rule.needs))
        assert rewrite.refresh == (Refresh(batches=5) if batches else None)
