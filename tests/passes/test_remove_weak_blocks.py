"""`remove-weak-blocks`: what counts as weak, when a block may go, and what is left (ResBuilder, LayerLasso)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from grown import images, lived, logits, pyramid, same_tensors
from made_records import made

from nasir.backends.torch import Model
from nasir.backends.torch.observe.evidence import observe
from nasir.errors import Decline
from nasir.ir import Draft, Graph, Port
from nasir.passes.insert_random_block import InsertRandomBlock
from nasir.passes.remove_weak_blocks import RemoveWeakBlocks, births
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import WHOLE
from nasir.testing import PassContract

ALWAYS = RemoveWeakBlocks(scores="current", candidates="all", guard=None)
NAME = "remove-weak-blocks"
Record = dict[str, Any]


def two_stages() -> Graph:
    return pyramid((3, 2), 4, block="resbuilder", size=8)


def scored(graph: Graph, weak: dict[str, float] | None = None, history: list[Record] | None = None) -> Evidence:
    """Every convolution has mean |w| 0.01 over 100 weights, but for those below the paths in `weak`."""
    labels = [node.label for node in graph.nodes.values() if node.op in ("conv2d", "linear")]
    means = {label: 0.01 for label in labels}
    for path, value in (weak or {}).items():
        means.update({label: value for label in labels if label == path or label.startswith(f"{path}.")})
    measured = {"weight_abs": {label: np.array([mean, 100.0]) for label, mean in means.items()}}
    return Evidence(measured, history or [])


class TestRemoveWeakBlocksContract(PassContract):
    make = staticmethod(lambda: RemoveWeakBlocks(threshold=2.0, scores="current", candidates="all", guard=None))

    def graphs(self) -> list[Graph]:
        return [two_stages(), pyramid((2, 1), 4, size=8)]


def gone(rule: RemoveWeakBlocks, graph: Graph, seen: Evidence) -> list[str]:
    """Paths of the removed blocks, in the order of the network."""
    try:
        after = rule.attempt(graph, WHOLE, seen).graph
    except Decline:
        return []
    return [block.path for block in graph.blocks if block.path not in after.regions]


# -- what is weak


@pytest.mark.parametrize(
    ("options", "weak", "removed"),
    [
        ({}, {"s1.1.conv2": 9e-4}, ["s1.1"]),
        ({}, {"s1.1.conv2": 1e-3}, []),  # at the threshold is not below it
        ({"when": "all"}, {"s1.1.conv2": 9e-4}, []),
        ({"when": "all"}, {"s1.1": 9e-4, "s1.2.conv1": 1e-5}, ["s1.1"]),
        ({"score": "sum"}, {"s1.1": 9e-4}, []),  # 100 weights: a sum of 0.09
        ({"score": "sum"}, {"s1.1.conv1": 9e-6}, ["s1.1"]),
        ({"threshold": 0.1}, {}, ["s1.0", "s1.1", "s1.2", "s2.1"]),  # s2.0 halves the image
        ({}, {"s1.1": 1e-4, "s1.2": 1e-4, "s2.1": 1e-4}, ["s1.1", "s1.2", "s2.1"]),
        ({}, {"s2.0": 1e-4}, []),
    ],
)
def test_scores_and_thresholds(options: dict[str, Any], weak: dict[str, float], removed: list[str]) -> None:
    graph = two_stages()
    rule = RemoveWeakBlocks(**{"scores": "current", "candidates": "all", "guard": None, **options})
    assert gone(rule, graph, scored(graph, weak)) == removed


def test_mean_and_sum_are_those_of_the_kernels_themselves() -> None:
    model = lived(two_stages())
    seen = observe(model, ALWAYS.needs, None)
    with pytest.raises(Decline) as refusal:
        ALWAYS.attempt(model.graph, WHOLE, seen)
    mean, count = refusal.value.noted["scores"]["s1.0"]["s1.0.conv1"]
    weight = model.get_parameter("s1.0.conv1.weight").detach()
    assert count == weight.numel() and mean == pytest.approx(float(weight.abs().mean()), rel=1e-6)


def test_removing_blocks_whose_branches_are_silent_leaves_the_logits_as_they_are() -> None:
    model = lived(two_stages())
    with torch.no_grad():
        for block in ("s1.1", "s1.2"):
            for name in ("weight", "bias"):
                model.get_parameter(f"{block}.conv2.{name}").zero_()
    before = logits(model, images(size=8))
    kept = {name: value.clone() for name, value in model.state_dict().items() if name[:4] not in ("s1.1", "s1.2")}
    rewrite = model.apply(ALWAYS, WHOLE)
    assert rewrite is not None and model.graph.depths() == {"s1": 1, "s2": 2}  # neighbours at once
    assert torch.equal(logits(model, images(size=8)), before)
    assert same_tensors(dict(model.state_dict()), kept)


def test_insertion_undone_gives_the_old_network_with_the_same_tensors() -> None:
    model = lived(two_stages())
    graph, tensors, before = model.graph, dict(model.named_parameters()), logits(model, images(size=8))
    model.apply(InsertRandomBlock(), WHOLE)
    model.apply(RemoveWeakBlocks(scores="current", candidates="all", guard=None), WHOLE)  # N(0, 1e-3): mean 8e-4
    assert model.graph.nodes == graph.nodes and model.graph.regions == graph.regions
    assert all(parameter is tensors[name] for name, parameter in model.named_parameters())
    assert torch.equal(logits(model, images(size=8)), before)


def test_a_stage_goes_with_its_last_block() -> None:
    graph = pyramid((1, 1), 4, block="resbuilder", size=8)
    after = ALWAYS.attempt(graph, WHOLE, scored(graph, {"s1.0": 1e-6})).graph
    assert "s1" not in after.regions and after.depths() == {"s2": 1}


def test_where_a_block_added_channels_its_input_is_padded_instead() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 4, 4])
    x = draft.add("conv2d", x, "stem", out=2, kernel=1)
    y = draft.add("relu", draft.add("conv2d", x, "b.0.conv", out=5, kernel=1), "b.0.relu")
    y = draft.add("add", (draft.add("pad_channels", x, "b.0.pad_in", after=3), y), "b.0.add")
    draft.region("b.0", "block")
    draft.output(draft.add("linear", draft.add("global_avg_pool", y, "gap"), "fc", out=3))
    graph = draft.commit()
    model = Model.from_graph(graph, 0)
    with torch.no_grad():
        model.get_parameter("b.0.conv.weight").zero_()
    x4 = torch.randn(2, 3, 4, 4)
    before = logits(model, x4)
    assert model.apply(ALWAYS, WHOLE) is not None
    assert torch.equal(logits(model, x4), before)
    assert [node.op for node in model.graph.nodes.values() if node.op == "pad_channels"] == ["pad_channels"]
    assert not model.graph.regions and model.graph.infer.types[Port(model.graph.find("gap"))].shape == (5,)


# -- when


class Run:
    """A run played by hand: four-run cycles of ResBuilder, with made-up scores and accuracies."""

    def __init__(self, graph: Graph, rule: RemoveWeakBlocks) -> None:
        self.graph, self.rule = graph, rule
        self.history: list[Record] = []
        self.number = 0

    def insert(self) -> str:
        self.number += 1
        rewrite = InsertRandomBlock(position="after_first").attempt(self.graph, WHOLE, Evidence(seed=self.number))
        [new] = [path for path in rewrite.graph.regions if path not in self.graph.regions]
        place = {"pass": "insert-random-block", "before": self.graph.digest}
        self.history.append(made("rewrite", {**place, "added": [new], "removed": []}))
        self.graph = rewrite.graph
        return new

    def widths(self) -> None:
        self.history.append(made("rewrite", {"pass": "morph-widths", "before": "", "added": [], "removed": []}))

    def train(self, accuracy: float = 0.5, epochs: int = 1) -> None:
        for _ in range(epochs):
            self.history.append(made("epoch", {"metrics": {"val.accuracy": accuracy}}))

    def fire(self, **weak: float) -> list[str]:
        """What the rule removes at the end of a run; dots of paths are written as __."""
        seen = scored(self.graph, {path.replace("__", "."): value for path, value in weak.items()}, self.history)
        try:
            rewrite = self.rule.attempt(self.graph, WHOLE, seen)
        except Decline as refusal:
            self.history.append(made("declined", {"pass": NAME, "reason": str(refusal), "noted": refusal.noted}))
            return []
        removed = [block.path for block in self.graph.blocks if block.path not in rewrite.graph.regions]
        self.history.append(
            made("rewrite", {"pass": NAME, "before": "", "added": [], "removed": removed, "noted": rewrite.noted})
        )
        self.graph = rewrite.graph
        return removed


def start() -> Graph:
    return pyramid((1,), 4, block="resbuilder", size=8)


# run in which the block is inserted -> (scores of each run from then on, run after which it is removed)
TIMELINE = [
    pytest.param([1e-4, 1e-4, 1e-4], 2, id="weak from birth: judged by run 1, removed after run 2"),
    pytest.param([1e-2, 1e-4, 1e-4], 3, id="weak in run 2: removed after run 3"),
    pytest.param([1e-4, 1e-2, 1e-2], 2, id="weak in run 1 only: removed after run 2 on stale scores"),
    pytest.param([1e-2, 1e-2, 1e-4], None, id="weak in the last run: nobody reads its scores"),
    pytest.param([1e-2, 1e-2, 1e-2], None, id="never weak"),
]


@pytest.mark.parametrize(("means", "removed"), TIMELINE)
def test_timeline_of_deletion_on_the_scores_of_the_run_before(means: list[float], removed: int | None) -> None:
    run = Run(start(), RemoveWeakBlocks())
    run.train()
    assert run.fire() == []  # run 0, from scratch: the first scores
    new = run.insert()
    for number, mean in enumerate(means, start=1):
        run.train()
        weak = {new.replace(".", "__"): mean} if new in run.graph.regions else {}
        assert run.fire(**weak) == ([new] if number == removed else [])


def test_current_scores_delete_at_once_and_grace_puts_it_off() -> None:
    for grace, epochs in ((0, 1), (3, 3), (5, 5)):
        run = Run(start(), RemoveWeakBlocks(scores="current", grace=grace))
        run.train()
        new = run.insert().replace(".", "__")
        for epoch in range(1, epochs + 1):
            run.train()
            assert bool(run.fire(**{new: 1e-4})) == (epoch == epochs)


def test_only_inserted_blocks_are_candidates_unless_all_are() -> None:
    for candidates, expected in (("inserted", []), ("all", ["s1.0"])):
        run = Run(start(), RemoveWeakBlocks(candidates=candidates))  # type: ignore[arg-type]
        run.train()
        run.fire(s1__0=1e-5)
        run.train()
        assert run.fire(s1__0=1e-5) == expected


def test_a_new_block_under_an_old_name_is_not_judged_by_its_namesake() -> None:
    run = Run(start(), RemoveWeakBlocks())
    run.train()
    first = run.insert()
    run.fire(inserted__0=1e-5)
    run.train()
    assert run.fire(inserted__0=1e-5) == [first] == ["inserted.0"]
    assert run.insert() == first
    run.train()
    assert run.fire() == []  # the scores of the run before are those of the other block
    assert births(run.history) == {first: len(run.history) - 3}


def test_the_guard_leaves_all_blocks_alone_after_a_leap_but_not_after_a_width_step() -> None:
    for leap, widths, removed in ((0.02, False, False), (0.01, False, True), (0.02, True, True), (-0.5, False, True)):
        run = Run(start(), RemoveWeakBlocks())
        run.train(0.4)
        run.insert()
        run.fire()
        run.train(0.5)
        run.fire(inserted__0=1e-5)
        if widths:
            run.widths()
        run.train(0.5 + leap)
        assert bool(run.fire()) is removed, (leap, widths)
    assert RemoveWeakBlocks(guard=None).guard is None


def test_refusals_say_why_and_still_note_the_scores() -> None:
    graph = start()
    rule = RemoveWeakBlocks()
    for history, reason in (
        ([], "no scores of an earlier run"),
        ([made("declined", {"pass": NAME, "noted": {"scores": {}}})], "none of 0 blocks scores below 0.001"),
    ):
        with pytest.raises(Decline, match=reason) as refusal:
            rule.attempt(graph, WHOLE, scored(graph, history=history))
        assert refusal.value.noted["scores"]["s1.0"]["s1.0.conv1"] == [0.01, 100.0]
    run = Run(start(), RemoveWeakBlocks(metric="val.f1"))
    run.train()
    run.fire()
    run.train()
    run.fire()
    assert run.history[-1]["reason"] == "the epochs have no metric 'val.f1'; they have val.accuracy"
    with pytest.raises(ValueError, match="threshold: must be above 0, found 0"):
        RemoveWeakBlocks(threshold=0)


# -- residual ratios


def by_ratio(**options: Any) -> RemoveWeakBlocks:
    usual: dict[str, Any] = {"scores": "current", "candidates": "all", "guard": None}
    return RemoveWeakBlocks(score="residual_ratio", **{**usual, **options})


def one_quiet_and_one_small(seed: int = 0) -> Model:
    """s1.1 ends in a norm of small gain; s2.1 has a first convolution of small weights, which a norm follows."""
    model = lived(pyramid((3, 3), 8, size=8), seed)
    with torch.no_grad():
        norm = model.get_submodule("s1.1.bn2")
        norm.weight.mul_(0.01)
        norm.bias.mul_(0.01)
        model.get_submodule("s2.1.conv1").weight.mul_(0.25)
    return model


def test_the_ratio_finds_a_block_that_l1_does_not_see() -> None:
    model = one_quiet_and_one_small()
    graph, x = model.graph, images(16, 8)
    ratio, small = by_ratio(share=0.2), RemoveWeakBlocks(share=0.2, scores="current", candidates="all", guard=None)
    assert gone(ratio, graph, observe(model, ratio.needs, x)) == ["s1.1"]
    assert gone(small, graph, observe(model, small.needs, x)) == ["s2.1"]
    # what either costs: |difference of logits| / |logits|, with norms by the batch
    before = logits(model, x, training=True)
    changed = {}
    for rule in (ratio, small):
        other = one_quiet_and_one_small()
        other.apply(rule, WHOLE, images=x)
        changed[rule.score] = float((logits(other, x, training=True) - before).norm() / before.norm())
    assert changed["residual_ratio"] < 0.05 < 0.1 < changed["mean"]


def test_a_threshold_on_the_ratio() -> None:
    model = one_quiet_and_one_small()
    seen = observe(model, by_ratio(threshold=0.1).needs, images(16, 8))
    assert gone(by_ratio(threshold=0.1), model.graph, seen) == ["s1.1"]
    assert gone(by_ratio(threshold=1e-3), model.graph, seen) == []
    everything = by_ratio(threshold=1e6)
    assert gone(everything, model.graph, seen) == ["s1.0", "s1.1", "s1.2", "s2.1", "s2.2"]  # s2.0 halves the image
    rewrite = everything.attempt(model.graph, WHOLE, seen)
    assert rewrite.noted["ratios"]["s1.1"] == {"s1.1.add": [seen.residual_ratio("s1.1.add")]}
    assert "scores" not in rewrite.noted


@pytest.mark.parametrize(("share", "removed"), [(0.2, 1), (1 / 3, 1), (0.4, 2), (0.6, 3), (1, 5)])
def test_a_share_counts_the_blocks_that_may_go(share: float, removed: int) -> None:
    model = one_quiet_and_one_small()
    seen = observe(model, by_ratio(share=share).needs, images(16, 8))
    assert len(gone(by_ratio(share=share), model.graph, seen)) == removed


def test_a_share_too_small_for_one_block_declines() -> None:
    model = one_quiet_and_one_small()
    rule = by_ratio(share=0.1)
    with pytest.raises(Decline, match=r"none of 6 blocks is among the weakest 0\.1 and may go"):
        rule.attempt(model.graph, WHOLE, observe(model, rule.needs, images(16, 8)))


def test_blocks_with_several_sums_go_when_all_are_weak() -> None:
    graph = pyramid((2, 1), 4, size=8)
    ratios = {"s1.0.add": 0.2, "s1.1.add": 0.01, "s2.0.add": 0.3}
    seen = Evidence({"residual_ratio": {label: np.array(value) for label, value in ratios.items()}})
    assert gone(by_ratio(threshold=0.1), graph, seen) == ["s1.1"]
    rule = by_ratio(threshold=0.1)
    assert rule._score({"one": [0.01], "other": [0.5]}) == 0.5
    assert RemoveWeakBlocks()._score({"one": [0.01, 9], "other": [0.5, 9]}) == 0.01


def test_ratios_are_never_taken_for_scores_of_weights() -> None:
    """A rule before this one journaled mean |w|: these are the first ratios."""
    graph = pyramid((2, 1), 4, size=8)
    ratios = {"s1.0.add": 0.2, "s1.1.add": 0.01, "s2.0.add": 0.3}
    measured = {"residual_ratio": {label: np.array(value) for label, value in ratios.items()}}
    old = {"scores": {"s1.1": {"s1.1.conv1": [1e-5, 100.0]}}}
    seen = Evidence(measured, [made("declined", {"pass": NAME, "noted": old})])
    with pytest.raises(Decline, match="these are the first"):
        by_ratio(threshold=0.1, scores="previous").attempt(graph, WHOLE, seen)


def test_the_ratio_wants_a_threshold_or_a_share_and_no_rule_takes_both() -> None:
    with pytest.raises(ValueError, match=r"residual_ratio has no usual threshold.*share: 0\.33"):
        RemoveWeakBlocks(score="residual_ratio")
    with pytest.raises(ValueError, match="give one of the two"):
        RemoveWeakBlocks(threshold=0.1, share=0.5)
