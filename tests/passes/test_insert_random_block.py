"""`insert-random-block`: where blocks may go, how they start, and that no architecture is trained twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from grown import images, lived, logits, pyramid, same_tensors
from made_records import made
from torch.nn import functional

from nasir.analysis.main_path import layers, main_nodes
from nasir.analysis.untied import own_widths, set_widths
from nasir.backends.torch import Model
from nasir.blocks.init import GLOROT
from nasir.errors import Decline, OptionError
from nasir.ir import Draft, Graph, Port
from nasir.passes.insert_random_block import InsertRandomBlock, Position, anchors, architectures
from nasir.passes.remove_weak_blocks import THRESHOLD
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import WHOLE
from nasir.spec import load_spec
from nasir.spec.network import build
from nasir.testing import PassContract
from nasir.transfer.fill import fill, random_stream

SIGMAS = (1e-4, 2e-4, 4e-4)


def chain(pools: int = 2) -> Graph:
    """ResBuilder's empty net on 8x8 images: norm, convolution, ReLU, `pools` poolings, classifier."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 8, 8])
    x = draft.add("batch_norm", x, "bn")
    x = draft.add("conv2d", x, "conv", out=4, kernel=3, padding=1, bias=True)
    x = draft.add("relu", x, "relu")
    for pool in range(pools):
        x = draft.add("max_pool", x, f"pool{pool}", kernel=2)
    x = draft.add("global_avg_pool", x, "gap")
    draft.output(draft.add("linear", x, "fc", out=3))
    return draft.commit()


def names(graph: Graph, position: Position = "equal_blockwise") -> list[list[str]]:
    return [[graph.nodes[node_id].label for node_id in group] for group in anchors(graph, position)]


class TestInsertRandomBlockContract(PassContract):
    make = staticmethod(lambda: InsertRandomBlock())

    def graphs(self) -> list[Graph]:
        return [chain(), pyramid((1, 2), 4, block="resbuilder", size=8), pyramid((2, 1), 4, size=8)]


class TestReleasedCodeContract(PassContract):
    make = staticmethod(lambda: InsertRandomBlock(position="random", init="default"))

    def graphs(self) -> list[Graph]:
        return [chain(), pyramid((1, 1), 4, block="plain", size=8)]


# -- where


def test_the_main_path_is_what_every_path_takes() -> None:
    graph = pyramid((2,), 4, size=8)
    on = [graph.nodes[node_id].label for node_id in main_nodes(graph)]
    inside = [label for label in on if label.startswith("s1")]
    assert inside == ["s1.0.add", "s1.0.relu_out", "s1.1.add", "s1.1.relu_out"]
    ends = [(graph.nodes[layer.end].label, layer.kind) for layer in layers(graph)]
    assert ends == [("relu1", "weighted"), ("s1.0.relu_out", "merge"), ("s1.1.relu_out", "merge"), ("fc", "weighted")]


def test_anchors_of_the_two_starts() -> None:
    empty = build(load_spec("specs/resbuilder/empty_high.yaml"))
    assert names(empty) == [["stem.relu"], ["pool1"], ["pool2"], ["pool3"]]
    resnet = build(load_spec("specs/resbuilder/resnet18_high.yaml"))
    sums = [f"s{stage}.{block}.add" for stage in range(1, 5) for block in range(2)]
    assert names(resnet) == [["stem.relu"], ["stem.pool", *sums], ["pool"]]  # a third each, wherever it makes sense
    assert names(resnet, "after_ending_skip") == [["stem.relu", "stem.pool", *sums, "pool"]]
    assert names(resnet, "after_first") == [["stem.relu"]]


def test_random_also_takes_layers_that_end_no_skip() -> None:
    graph = pyramid((1, 1), 4, block="plain", size=8)
    assert names(graph, "after_ending_skip") == [["relu1"]]
    assert names(graph, "random") == [["relu1", "s1.0.relu", "s2.0.relu"]]


def test_segments_are_drawn_uniformly_then_their_anchors() -> None:
    graph = build(load_spec("specs/resbuilder/resnet18_high.yaml"))
    drawn: Counter[str] = Counter()
    count = 300
    for seed in range(count):
        after = InsertRandomBlock(init="default").attempt(graph, WHOLE, Evidence(seed=seed)).graph
        new = next(path for path in after.regions if path not in graph.regions)
        entry = after.boundary(new)[0]
        drawn[after.nodes[entry.node].label] += 1
    body = sum(number for label, number in drawn.items() if label.startswith("s") and label != "stem.relu")
    for number in (drawn["stem.relu"], body, drawn["pool"]):
        assert abs(number - count / 3) < 4 * np.sqrt(count * 2 / 9)
    assert len(drawn) >= 10  # of 11 anchors


def test_a_block_behind_one_of_a_stage_belongs_to_it_and_any_other_stands_alone() -> None:
    graph = build(load_spec("specs/resbuilder/resnet18_high.yaml"))
    stages, alone = set(), set()
    for seed in range(40):
        after = InsertRandomBlock().attempt(graph, WHOLE, Evidence(seed=seed)).graph
        [new] = [path for path in after.regions if path not in graph.regions]
        (alone if new.startswith("inserted.") else stages).add(new)
        assert after.regions[new].kind == "block" and after.boundary(new)
        entry, exit_ = after.boundary(new)
        assert after.infer.types[entry].shape == after.infer.types[Port(exit_)].shape
    assert alone == {"inserted.0"} and stages <= {f"s{n}.2" for n in range(1, 5)} and stages
    after = [InsertRandomBlock().attempt(graph, WHOLE, Evidence(seed=seed)).graph for seed in range(9)]
    assert {sum(rewritten_graph.depths().values()) for rewritten_graph in after} == {8, 9}


def test_nothing_fits_where_there_is_no_image_or_no_common_path() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[4])
    draft.output(draft.add("linear", x, "fc", out=2))
    with pytest.raises(Decline, match="no layer with an image"):
        InsertRandomBlock().attempt(draft.commit(), WHOLE)


def test_a_template_that_changes_the_shape_is_refused() -> None:
    with pytest.raises(Decline, match="must keep the shape"):
        InsertRandomBlock(block={"block": "plain", "options": {"out": 5}}, init="default").attempt(chain(), WHOLE)
    with pytest.raises(Decline, match="no identity shortcut"):
        InsertRandomBlock(block={"block": "plain"}).attempt(chain(), WHOLE)


def test_the_width_is_that_of_the_stream_or_of_the_last_convolution_before() -> None:
    """They differ behind a padded sum: here 8 channels arrive of which the last convolution wrote 3."""
    draft = pyramid((1,), 8, block="resbuilder", size=8).draft()
    base = draft.base
    assert base is not None
    last = base.find("s1.0.conv2")
    set_widths(draft, {node_id: 3 if node_id == last else width for node_id, width in own_widths(base).items()})
    graph = draft.commit()
    widths = {"stream": {8}, "last_conv": {3, 8}}  # behind the first convolution, 8 either way
    for width, expected in widths.items():
        rule = InsertRandomBlock(width=width)  # type: ignore[arg-type]
        after = [rule.attempt(graph, WHOLE, Evidence(seed=seed)).graph for seed in range(8)]
        assert {
            grown.nodes[n].attrs["out"] for grown in after for n in own_widths(grown) if n not in graph.nodes
        } == expected
    own = InsertRandomBlock(width="last_conv", block={"block": "resbuilder", "options": {"out": 5}})
    narrow = own.attempt(graph, WHOLE, Evidence(seed=0)).graph
    assert {narrow.nodes[n].attrs["out"] for n in own_widths(narrow) if n not in graph.nodes} == {5}


def test_a_narrow_block_starts_near_zero_too() -> None:
    model = lived(pyramid((1,), 8, block="resbuilder", size=8))
    before = logits(model, images(size=8))
    narrow = {"block": "resbuilder", "options": {"out": 3}}
    assert model.apply(InsertRandomBlock(block=narrow, sigma=1e-6), WHOLE) is not None
    assert 0 < float((logits(model, images(size=8)) - before).abs().max()) < 1e-3


def test_a_block_given_as_data_and_one_of_three_convolutions() -> None:
    branch = {"branch": ["batch_norm", {"conv": {"out": "out"}}]}
    after = InsertRandomBlock(block=branch).attempt(chain(), WHOLE).graph
    assert [b.path for b in after.blocks] == ["inserted.0"]
    three = InsertRandomBlock(convs=3).attempt(chain(), WHOLE).graph
    assert sum(three.nodes[n].op == "conv2d" for n in three.members("inserted.0")) == 3


# -- how it starts


@pytest.mark.parametrize("seed", range(3))
def test_all_old_tensors_are_kept_and_the_effect_is_linear_in_sigma(seed: int) -> None:
    graph = pyramid((1, 1), 4, block="resbuilder", size=8)
    changes = []
    for sigma in SIGMAS:
        model = lived(graph, dtype=torch.float64)
        tensors, values = dict(model.named_parameters()), {k: v.clone() for k, v in model.state_dict().items()}
        x = images(size=8, dtype=torch.float64)
        before = logits(model, x)
        rewrite = InsertRandomBlock(sigma=sigma).attempt(graph, WHOLE, Evidence(seed=seed))
        model.apply(rewrite)
        assert all(dict(model.named_parameters())[name] is tensor for name, tensor in tensors.items())
        assert same_tensors({k: v for k, v in model.state_dict().items() if k in values}, values)
        changes.append(float((logits(model, x) - before).abs().max()))
    assert changes[0] > 0
    for sigma, change in zip(SIGMAS[1:], changes[1:], strict=True):
        assert change / changes[0] == pytest.approx(sigma / SIGMAS[0], rel=0.02)


@pytest.mark.parametrize("init", ["near_zero", "default"])
def test_every_parameter_gets_a_gradient_from_the_start(init: str) -> None:
    graph = pyramid((1, 1), 4, block="resbuilder", size=8)
    model = lived(graph)
    rewrite = InsertRandomBlock(init=init).attempt(graph, WHOLE, Evidence(seed=1))  # type: ignore[arg-type]
    model.apply(rewrite)
    labels = torch.arange(4) % 10
    functional.cross_entropy(model.train()(images(size=8)), labels).backward()
    [new] = [path for path in rewrite.graph.regions if path not in graph.regions]
    grads = {name: p.grad for name, p in model.named_parameters() if name.startswith(f"{new}.")}
    assert len(grads) == 8
    assert all(grad is not None and grad.abs().max() > 0 for grad in grads.values())


def test_the_dead_block_trap_exactly_zero_weights_before_a_relu_never_wake_up() -> None:
    """What the pass refuses, and why (reference section 2.5): the derivative of ReLU at 0 is 0."""
    for sigma in (0.0, -1e-3, 1e-50, float("nan")):
        with pytest.raises(ValueError, match="never learns"):
            InsertRandomBlock(sigma=sigma)
    graph = pyramid((1,), 4, block="resbuilder", size=8)
    model = lived(graph)
    rewrite = InsertRandomBlock().attempt(graph, WHOLE, Evidence(seed=1))
    model.apply(rewrite)
    [new] = [path for path in rewrite.graph.regions if path not in graph.regions]
    with torch.no_grad():
        for name in ("weight", "bias"):
            model.get_parameter(f"{new}.conv2.{name}").zero_()
    functional.cross_entropy(model.train()(images(size=8)), torch.arange(4)).backward()
    grads = [p.grad for name, p in model.named_parameters() if name.startswith(f"{new}.")]
    assert all(float(grad.abs().max()) == 0.0 for grad in grads if grad is not None)


def test_the_new_weights_follow_glorot_but_for_the_last_convolution() -> None:
    graph = chain()
    model = lived(graph)
    model.apply(InsertRandomBlock(sigma=1e-3).attempt(graph, WHOLE, Evidence(seed=0)))
    first, last = (model.get_parameter(f"inserted.0.conv{n}.weight").detach() for n in (1, 2))
    bound = (6.0 / (9 * 4 + 9 * 4)) ** 0.5
    assert 0.5 * bound < float(first.abs().max()) <= bound
    assert float(last.std()) == pytest.approx(1e-3, rel=0.25)
    assert all(not model.get_parameter(f"inserted.0.conv{n}.bias").any() for n in (1, 2))


@pytest.mark.parametrize(("options", "change"), [({"init": "default"}, 0.93), ({"sigma": 1e-4}, 0.0011)])
def test_how_much_of_the_stream_a_new_block_changes(options: dict[str, Any], change: float) -> None:
    """Reference section 2.5, for 16 channels: 93 % by Glorot, 0.11 % by N(0, 1e-4)."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 16, 16])
    x = draft.add("relu", draft.add("conv2d", x, "conv", out=16, kernel=3, padding=1), "relu")
    draft.output(draft.add("linear", draft.add("global_avg_pool", x, "gap"), "fc", out=3))
    graph = draft.commit()
    changes = []
    for seed in range(4):
        model = Model.from_graph(graph, seed)
        model.apply(InsertRandomBlock(**options).attempt(graph, WHOLE, Evidence(seed=seed)))
        block = model.units["inserted.0"]
        stream = torch.randn(16, 16, 16, 16, generator=torch.Generator().manual_seed(seed)).relu()
        with torch.no_grad():
            changes.append(float((block.train()(stream) - stream).norm() / stream.norm()))
    assert np.mean(changes) == pytest.approx(change, rel=0.15)


@pytest.mark.parametrize(("channels", "mean"), [(16, 0.072), (64, 0.036), (256, 0.018), (512, 0.013)])
def test_glorot_kernels_are_far_above_the_threshold_of_deletion_and_depend_on_the_width(
    channels: int, mean: float
) -> None:
    weight = fill(GLOROT, (channels, channels, 3, 3), random_stream(0, 0, 0, "weight"))
    assert float(np.abs(weight).mean()) == pytest.approx(mean, rel=0.04) and mean > 10 * THRESHOLD


@pytest.mark.parametrize(("scale", "std"), [(1, 1.0), (1e-1, 0.995), (1e-2, 0.71), (1e-3, 0.10), (1e-4, 0.010)])
def test_in_front_of_a_norm_small_weights_are_not_near_zero(scale: float, std: float) -> None:
    """Why blocks that end in a norm are started by its scale: in train mode it restores the unit scale."""
    graph = pyramid((1,), 16, size=8)
    model = Model.from_graph(graph, 0)
    x = images(count=64, size=8)
    conv, ends = model.get_submodule("s1.0.conv2"), []
    model.get_submodule("s1.0.bn2").register_forward_hook(lambda module, args, out: ends.append((args[0], out)))
    with torch.no_grad():
        model.train()(x)
        unit = ends[0][0].var(dim=(0, 2, 3), correction=0).sqrt().view(-1, 1, 1, 1)  # of each channel
        conv.weight.mul_(0.1**0.5 * scale / unit)  # type: ignore[union-attr, operator]
        model(x)
    assert float(ends[1][1].std()) == pytest.approx(std, rel=0.1)


def test_the_cost_of_a_block_is_that_of_the_reference() -> None:
    for channels, params in ((16, 4704), (32, 18624), (64, 74112)):
        graph = pyramid((1,), channels, block="resbuilder", size=8)
        after = InsertRandomBlock(position="after_first").attempt(graph, WHOLE).graph
        assert after.cost().params - graph.cost().params == params


# -- never twice


def epoch(number: int) -> dict[str, object]:
    return made("epoch", {"epoch": number})


def rewritten(before: Graph, after: Graph) -> dict[str, object]:
    return made("rewrite", {"pass": "insert-random-block", "before": before.digest, "after": after.digest})


def test_only_what_was_trained_counts_as_known() -> None:
    graph = chain()
    rule = InsertRandomBlock()
    second = rule.attempt(graph, WHOLE, Evidence(seed=0)).graph
    third = rule.attempt(second, WHOLE, Evidence(seed=1)).graph
    assert architectures([], graph) == set()
    history = [epoch(1), rewritten(graph, second), rewritten(second, third), epoch(2)]
    assert architectures(history, third) == {graph.digest, third.digest}  # the second was rewritten before it trained


def test_architectures_of_the_run_are_avoided_as_long_as_draws_last() -> None:
    graph = chain()
    rule = InsertRandomBlock(init="default")
    all_of_them = {rule.attempt(graph, WHOLE, Evidence(seed=seed)).graph.digest for seed in range(30)}
    assert len(all_of_them) == 3
    tried = rule.attempt(graph, WHOLE, Evidence(seed=0)).graph
    history = [epoch(1), rewritten(tried, graph), epoch(2)]  # `tried` was trained, and left again
    again = {rule.attempt(graph, WHOLE, Evidence(history=history, seed=seed)).graph.digest for seed in range(30)}
    assert again == all_of_them - {tried.digest}
    single = InsertRandomBlock(init="default", draws=1)
    assert single.attempt(graph, WHOLE, Evidence(history=history, seed=0)).graph.digest == tried.digest
    known = [record for digest in all_of_them for record in (epoch(1), replace(rewritten(graph, graph), before=digest))]
    last = rule.attempt(graph, WHOLE, Evidence(history=known, seed=0)).graph
    assert last.digest in all_of_them  # nine draws later the last one is used anyway


def test_it_is_a_function_of_seed_and_ordinal() -> None:
    graph = build(load_spec("specs/resbuilder/resnet18_high.yaml"))
    rule = InsertRandomBlock()
    first = [rule.attempt(graph, WHOLE, Evidence(seed=3, ordinal=n)).graph.digest for n in range(6)]
    assert first == [rule.attempt(graph, WHOLE, Evidence(seed=3, ordinal=n)).graph.digest for n in range(6)]
    assert len(set(first)) > 1


def test_wrong_options_are_refused() -> None:
    for options in ({"draws": 0}, {"convs": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            InsertRandomBlock(**options)
    with pytest.raises(OptionError, match="unknown initializer 'glorot'; did you mean 'glorot_uniform'"):
        InsertRandomBlock(initializer="glorot")


def test_the_initializer_of_a_block_sets_only_weights_that_its_nodes_have() -> None:
    # the convolutions of a basic block have no bias, and Glorot's rules have one
    rewrite = InsertRandomBlock(block={"block": "basic"}).attempt(chain(), WHOLE, Evidence())
    assert any(label.endswith("conv1") and label.startswith("inserted.0") for label in rewrite.graph.labels)
