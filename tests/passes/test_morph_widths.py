"""`morph-widths`: ResBuilder's arithmetic, widths that are not tied, and what becomes of the weights."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from grown import images, lived, logits, pyramid
from made_records import made
from networks import small_resnet

from nasir.analysis.untied import largest_factor, own_widths, set_widths
from nasir.blocks.alive import blend
from nasir.errors import Decline, TypeRuleError
from nasir.ir import Draft, Graph, Port
from nasir.passes.insert_random_block import InsertRandomBlock
from nasir.passes.morph_widths import MorphWidths, expanded, flops_of
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import WHOLE
from nasir.spec import load_spec
from nasir.spec.network import build
from nasir.testing import PassContract
from nasir.testing.weights import random_weights
from nasir.transfer import Key


def weights_of(graph: Graph, dead: dict[str, int] | None = None) -> Evidence:
    """Weights of ones; of the named layers the first so many output units are zero."""
    weights = {}
    for node_id, slots in graph.infer.slots.items():
        if "weight" in slots:
            label = graph.nodes[node_id].label
            weights[f"{label}.weight"] = np.ones(slots["weight"].shape, dtype=np.float32)
            weights[f"{label}.weight"][: (dead or {}).get(label, 0)] = 0.0
    return Evidence({"weights": weights})


def tied(graph: Graph, alive: float = 1.0) -> Evidence:
    """The last `alive` of the units of every space are alive."""
    values = {s.name: np.where(np.arange(s.size) >= round(s.size * (1 - alive)), 1.0, 0.0) for s in graph.infer.spaces}
    return Evidence({"group_lasso": values})


def outs(graph: Graph) -> dict[str, int]:
    return {graph.nodes[node_id].label: width for node_id, width in own_widths(graph).items()}


class TestMorphWidthsContract(PassContract):
    make = staticmethod(lambda: MorphWidths(flops=2e5))

    def graphs(self) -> list[Graph]:
        return [pyramid((2, 1), 4, block="resbuilder", size=8), pyramid((1, 1), 4, size=8)]


class TestCoupledContract(PassContract):
    make = staticmethod(lambda: MorphWidths(flops=5e5, ties="coupled", width_step="transfer", factor="exact"))

    def graphs(self) -> list[Graph]:
        return [pyramid((2, 1), 4, block="resbuilder", size=8), pyramid((1, 1), 4, size=8)]


# -- arithmetic


@pytest.mark.parametrize(("actual", "width"), [(2.5e8, 96), (1e8, 133), (4e9, 48)])
def test_the_worked_examples_of_the_expansion(actual: float, width: int) -> None:
    assert expanded({"layer": 64}, sqrt(1e9 / actual), 0.5) == {"layer": width}


@pytest.mark.parametrize(("old", "new", "share", "result"), [(64, 10, 1.0, 10), (64, 11, 0.5, 37), (7, 0, 0.3, 4)])
def test_part_of_the_way_is_rounded_down(old: int, new: int, share: float, result: int) -> None:
    assert blend(old, new, share) == result


def test_a_layer_never_vanishes_by_arithmetic() -> None:
    assert expanded({"layer": 1}, 0.01, 1.0) == {"layer": 1}


def test_the_largest_factor_is_found_from_below() -> None:
    assert largest_factor(lambda f: f < 1.4375) == pytest.approx(1.4375, rel=1e-8)
    assert largest_factor(lambda f: f < 1.4375) < 1.4375
    assert largest_factor(lambda f: f <= 0.001) == pytest.approx(0.001, rel=1e-8)
    assert largest_factor(lambda f: False) == 0.0
    assert largest_factor(lambda f: True) > 1e5


@pytest.mark.parametrize(("budget", "widths"), [(25e6, (22, 45, 91)), (50e6, (32, 65, 130)), (100e6, (45, 91, 183))])
def test_the_exact_factor_of_the_reference(budget: float, widths: tuple[int, ...]) -> None:
    graph = pyramid((1, 1, 1))
    rule = MorphWidths(flops=2 * budget, expand=1.0, factor="exact", ties="coupled", width_step="transfer")
    after = rule.attempt(graph, WHOLE, tied(graph)).graph
    assert tuple(after.nodes[after.find(f"s{n}.0.conv2")].attrs["out"] for n in (1, 2, 3)) == widths
    assert after.cost().macs <= budget


def test_shrink_then_expand_to_the_target_by_hand() -> None:
    graph = pyramid((1, 1), 8, block="resbuilder", size=8)
    seen = weights_of(graph, {"s1.0.conv1": 5, "conv1": 2})
    shrunk = MorphWidths(flops=1e6, expand=0.0).attempt(graph, WHOLE, seen).graph
    assert outs(shrunk) == {"conv1": 6, "s1.0.conv1": 3, "s1.0.conv2": 8, "s2.0.conv1": 16, "s2.0.conv2": 16}
    omega = sqrt(4e6 / flops_of(shrunk))
    after = MorphWidths(flops=4e6).attempt(graph, WHOLE, seen).graph
    wanted = {name: int(0.5 * int(omega * n) + 0.5 * n) for name, n in outs(shrunk).items()}
    assert outs(after) == wanted
    half = MorphWidths(flops=1e6, shrink=0.5, expand=0.0).attempt(graph, WHOLE, seen).graph
    assert outs(half)["s1.0.conv1"] == 5  # floor(0.5 * 3 + 0.5 * 8)


# -- widths of their own


def test_sums_are_padded_on_the_narrower_side_and_strided_shortcuts_follow() -> None:
    graph = pyramid((2, 1), 4, block="resbuilder", size=8)
    draft = graph.draft()
    widths = {"conv1": 5, "s1.0.conv2": 3, "s1.1.conv2": 9, "s2.0.conv2": 7}
    set_widths(draft, {node_id: widths.get(graph.nodes[node_id].label, 2) for node_id in own_widths(graph)})
    after = draft.commit()
    shape = {label: after.infer.types[Port(after.find(label))].shape[0] for label in after.labels if "bn1" not in label}
    assert (shape["s1.0.add"], shape["s1.1.add"], shape["s2.0.add"]) == (5, 9, 9)
    pads = {node.label: node.attrs["after"] for node in after.nodes.values() if node.op == "pad_channels"}
    assert pads == {"s1.0.add_pad1": 2, "s1.1.add_pad0": 4, "s2.0.add_pad1": 2}
    assert after.nodes[after.find("s2.0.downsample")].attrs["out"] == 9
    back = after.draft()
    set_widths(back, {node_id: graph.nodes[node_id].attrs["out"] for node_id in own_widths(graph)})
    assert back.commit().digest == graph.digest  # padding comes and goes


def test_zero_padding_commutes_with_appending_channels() -> None:
    """The sum of a padded and a wide operand is that of the operands with silent channels appended."""
    graph = pyramid((1,), 4, block="resbuilder", size=8)
    draft = graph.draft()
    inner = graph.find("s1.0.conv2")
    set_widths(draft, {node_id: 2 if node_id == inner else 4 for node_id in own_widths(graph)})
    narrow = lived(draft.commit())
    wide = lived(graph)
    with torch.no_grad():
        for name, tensor in wide.state_dict().items():
            source = narrow.state_dict()[name]
            tensor.zero_()
            tensor[tuple(slice(0, size) for size in source.shape)] = source
    assert torch.allclose(logits(wide, images(size=8)), logits(narrow, images(size=8)), atol=1e-6)


def test_what_ties_channels_otherwise_is_refused_before_anything_changes() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 4, 4])
    a = draft.add("conv2d", x, "a", out=4, kernel=1)
    b = draft.add("sigmoid", draft.add("conv2d", x, "b", out=4, kernel=1), "gate")
    y = draft.add("global_avg_pool", draft.add("mul", (a, b), "product"), "gap")
    draft.output(draft.add("linear", y, "fc", out=2))
    graph = draft.commit()
    with pytest.raises(Decline, match="do not fit together: mul 'product': inputs differ"):
        MorphWidths(flops=1e3, expand=0.0).attempt(graph, WHOLE, weights_of(graph, {"b": 2}))
    draft = graph.draft()
    wide = draft.add("conv2d", Port(graph.find("x")), "grouped", out=3, kernel=1, groups=3)
    draft.rewire_node(graph.find("a"), (wide,))
    grouped = draft.commit()
    with pytest.raises(TypeRuleError, match="grouped convolution"):
        set_widths(grouped.draft(), {grouped.find("grouped"): 6})


def test_a_dead_layer_takes_its_block_along() -> None:
    graph = pyramid((2, 1), 4, block="resbuilder", size=8)
    seen = weights_of(graph, {"s1.1.conv1": 4, "s2.0.conv1": 8, "conv1": 4})
    after = MorphWidths(flops=1e9, expand=0.0).attempt(graph, WHOLE, seen).graph
    assert after.depths() == {"s1": 1, "s2": 1}
    assert outs(after)["s2.0.conv1"] == 1 and outs(after)["conv1"] == 1  # they cannot go


@pytest.mark.parametrize("width", ["stream", "last_conv"])
def test_it_goes_on_with_untied_networks(width: Any) -> None:
    """Insertions, removals and further width steps on a network whose sums are padded."""
    graph = build(load_spec("specs/resbuilder/resnet18_low.yaml"))
    rng = np.random.default_rng(0)
    for step in range(4):
        dead = {label: int(rng.integers(0, width)) for label, width in outs(graph).items()}
        rewrite = MorphWidths(flops=1e7).attempt(graph, WHOLE, weights_of(graph, dead))
        graph = InsertRandomBlock(width=width).attempt(rewrite.graph, WHOLE, Evidence(seed=step)).graph
        assert all(graph.boundary(block.path) for block in graph.blocks)
    assert any(node.op == "pad_channels" for node in graph.nodes.values())
    rule = MorphWidths(flops=1e7, factor="exact", expand=1.0)
    assert flops_of(rule.attempt(graph, WHOLE, weights_of(graph)).graph) <= 1e7


# -- weights


def test_from_scratch_everything_starts_by_the_initializer() -> None:
    model = lived(pyramid((1, 1), 8, block="resbuilder", size=8))
    rewrite = MorphWidths(flops=2e6).attempt(model.graph, WHOLE, weights_of(model.graph))
    keys = {Key(node_id, name) for node_id, slots in rewrite.graph.infer.slots.items() for name in slots}
    assert rewrite.plan.sources.keys() == keys and rewrite.preserves == "no"
    model.apply(rewrite)
    for name, parameter in model.named_parameters():
        if "bn" in name:
            assert bool((parameter == (1.0 if name.endswith("weight") else 0.0)).all())
        elif name.endswith("bias"):
            assert not parameter.any()
        else:
            out, inner = parameter.shape[0], parameter.shape[1]
            bound = sqrt(6 / ((out + inner) * parameter[0, 0].numel()))
            assert 0 < float(parameter.detach().abs().max()) <= bound


def test_transfer_keeps_the_function_where_nothing_is_dead() -> None:
    model = lived(pyramid((2, 1), 8, block="resbuilder", size=8))
    before = logits(model, images(size=8))
    rule = MorphWidths(flops=3e7, ties="coupled", width_step="transfer")
    rewrite = rule.attempt(model.graph, WHOLE, tied(model.graph))
    model.apply(rewrite)
    assert rewrite.preserves == "approximate" and model.graph.cost().macs > 1e6
    assert torch.allclose(logits(model, images(size=8)), before, atol=1e-5)  # new channels are read by zeros


def test_coupled_widths_shrink_by_the_weakest() -> None:
    graph = pyramid((1, 1), 8, size=8)
    rule = MorphWidths(flops=1.0, expand=0.5, factor="sqrt", ties="coupled", width_step="transfer")
    seen = tied(graph)
    seen.measured["group_lasso"]["s1.0.conv1"][:] = [8, 1, 7, 2, 6, 3, 5, 4]
    rewrite = rule.attempt(graph, WHOLE, seen)
    take: Any = rewrite.plan.sources[Key(graph.find("s1.0.conv1"), "weight")]
    assert take.axes[0].index.tolist() == [0, 2, 4, 6]


# -- refusals


def test_an_untrained_network_is_left_alone() -> None:
    graph = pyramid((1,), 4, block="resbuilder", size=8)
    seen = weights_of(graph)
    begun = Evidence(seen.measured, history=[made("start"), made("phase")])
    with pytest.raises(Decline, match="not trained yet"):
        MorphWidths().attempt(graph, WHOLE, begun)
    trained = Evidence(seen.measured, history=[made("start"), made("epoch")])
    assert MorphWidths(flops=1e6).attempt(graph, WHOLE, trained).graph != graph


def test_a_target_below_one_channel_a_layer_is_refused() -> None:
    graph = small_resnet()
    with pytest.raises(Decline, match="even one channel a layer costs more than 10 FLOPs"):
        MorphWidths(flops=10, factor="exact").attempt(graph, WHOLE, weights_of(graph))


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="width_step: transfer needs ties: coupled"):
        MorphWidths(width_step="transfer")
    for options in ({"flops": 0.0}, {"threshold": -1.0}, {"shrink": 0.0}, {"expand": 1.5}):
        with pytest.raises(ValueError, match="must be"):
            MorphWidths(**options)  # type: ignore[arg-type]


def test_alive_is_by_the_root_mean_square_of_each_layer_of_its_own() -> None:
    graph = pyramid((1,), 4, block="resbuilder", size=8)
    weights = {f"{graph.nodes[k.node].label}.{k.slot}": v for k, v in random_weights(graph, 0).items()}
    weights["s1.0.conv2.weight"] = np.full_like(weights["s1.0.conv2.weight"], 0.01)
    weights["s1.0.conv2.weight"][1] = 0.0101
    after = MorphWidths(flops=1e6, expand=0.0).attempt(graph, WHOLE, Evidence({"weights": weights})).graph
    assert outs(after) == {"conv1": 4, "s1.0.conv1": 4, "s1.0.conv2": 1}
