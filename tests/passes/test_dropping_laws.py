"""Networks that drop in training are rewritten as those that do not: passes look through what drops."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from grown import images, lived, logits, pyramid

from nasir.backends.torch import Model
from nasir.errors import Decline
from nasir.ir import Graph, Port
from nasir.passes.grow_kernel import GrowKernel
from nasir.passes.insert_block import InsertBlock
from nasir.passes.insert_random_block import InsertRandomBlock
from nasir.passes.keep_blocks import KeepBlocks
from nasir.passes.merge_branches import MergeBranches
from nasir.passes.place_dropout import PlaceDropout
from nasir.passes.prune_channels import PruneChannels
from nasir.passes.remove_block import RemoveBlock
from nasir.passes.split_branches import SplitBranches
from nasir.passes.widen import Widen
from nasir.rewriting.rewrite import Pass, Rewrite, site_name
from nasir.testing import PassContract, random_graph

BLOCKS = {
    "basic": "stochastic_depth: {linear: 0.4}",
    "bottleneck": "expansion: 2, stochastic_depth: 0.2",
    "preact_basic": "dropout: 0.3, stochastic_depth: {linear: 0.4}",
    "resbuilder": "stochastic_depth: 0.1",
}
PASSES: list[tuple[Pass, str]] = [
    (InsertBlock(init="zero"), "s1"),
    (InsertBlock(init="near_zero"), "s2"),
    (InsertBlock(init="copy"), "s1"),
    (InsertBlock(init="zero", block="copy"), "s2.1"),
    (InsertBlock(init="gaussian", stochastic_depth="respace"), "s1"),
    (InsertRandomBlock(position="after_first"), "network"),
    (RemoveBlock(), "s2"),
    (KeepBlocks(depths=(1, 1)), "network"),
    (PruneChannels(fraction=0.5, score="l1"), "network"),
    (Widen(factor=2.0, noise=0.01), "network"),
    (SplitBranches(branches=2, planes="keep"), "s2"),
]


def bare(graph: Graph) -> Graph:
    """The network without what drops."""
    draft = graph.draft()
    for node_id in graph.order:
        if graph.nodes[node_id].facts.drops is not None:
            draft.rewire(Port(node_id), draft.nodes[node_id].inputs[0])
            draft.remove(node_id)
    return draft.commit()


def with_drops(graph: Graph, seed: int) -> Graph:
    """The network with dropout or stochastic depth behind some of its nodes, in the same regions."""
    rng = random.Random(seed)
    draft = graph.draft()
    for node_id in graph.order:
        node = graph.nodes[node_id]
        if rng.random() < 0.3 and not node.facts.several and node.facts.family != "input":
            readers = [*draft.nodes]
            dropped = draft.add(rng.choice(("dropout", "stochastic_depth")), Port(node_id), f"{node.label}_drop", p=0.3)
            draft.rewire(Port(node_id), dropped, only=readers)
            draft.outputs = [dropped if port == Port(node_id) else port for port in draft.outputs]
    return draft.commit()


def outcome(rule: Pass, site: str, model: Model) -> Rewrite | str:
    """The rewrite of a model, or why there is none."""
    reasons: list[Decline] = []
    rewrite = model.apply(rule, site, on_decline=reasons.append)
    return str(reasons[0]) if rewrite is None else rewrite


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(("rule", "site"), PASSES, ids=lambda value: getattr(value, "name", value))
def test_a_rewrite_of_what_drops_is_that_of_what_does_not(block: str, rule: Any, site: str) -> None:
    graph = pyramid((2, 2), 4, block=block, options=BLOCKS[block], size=8)
    assert sum(node.facts.drops is not None for node in graph.nodes.values()) >= 4
    dropping, plain = lived(graph), lived(bare(graph))
    plain.load_state_dict(dropping.state_dict())
    before = logits(dropping, images(size=8))
    assert torch.equal(logits(plain, images(size=8)), before)
    rewrite, wanted = outcome(rule, site, dropping), outcome(rule, site, plain)
    if isinstance(rewrite, str) or isinstance(wanted, str):
        assert rewrite == wanted
        return
    assert rewrite.preserves == wanted.preserves
    assert bare(rewrite.graph).digest == bare(wanted.graph).digest
    plain.load_state_dict(dropping.state_dict())  # the same names; what is new is drawn by the number of its node
    after = logits(dropping, images(size=8))
    assert torch.equal(logits(plain, images(size=8)), after)
    if rewrite.preserves == "exact":
        assert torch.allclose(after, before, atol=1e-5)
    assert torch.isfinite(logits(dropping, images(size=8), training=True)).all()


class _Measured(PassContract):
    """What generated networks are measured as."""

    make = staticmethod(lambda: PruneChannels(fraction=0.5, score="l1"))


GENERATED: list[Pass] = [
    InsertBlock(init="zero"),
    InsertBlock(init="near_zero"),
    InsertBlock(init="copy"),
    RemoveBlock(),
    GrowKernel(),
    PruneChannels(fraction=0.5, score="l1"),
    Widen(units=2, how="fresh"),
]


@pytest.mark.parametrize("rule", GENERATED, ids=lambda rule: f"{rule.name}-{getattr(rule, 'init', '')}")
def test_generated_networks_that_drop_are_rewritten_as_those_that_do_not(rule: Pass) -> None:
    acted = 0
    contract = _Measured()
    for seed in range(6):
        plain = bare(random_graph(seed, steps=4))
        dropping = with_drops(plain, seed)
        assert bare(dropping).digest == plain.digest
        sites = [site_name(site) for site in rule.sites(plain)]
        assert sites == [site_name(site) for site in rule.sites(dropping)]
        for site in sites:
            reasons: list[Decline] = []
            wanted = rule.apply(plain, site, contract.evidence(plain), on_decline=reasons.append)
            given = rule.apply(dropping, site, contract.evidence(dropping), on_decline=reasons.append)
            if wanted is None or given is None:
                assert wanted is given and str(reasons[0]) == str(reasons[1])
                continue
            acted += 1
            assert given.preserves == wanted.preserves
            assert bare(given.graph).digest == bare(wanted.graph).digest
    assert acted > 3


@pytest.mark.parametrize("block", ["basic", "bottleneck", "preact_basic"])
def test_branches_that_drop_are_merged_and_still_drop(block: str) -> None:
    graph = pyramid((1, 1), 8, block=block, options=BLOCKS[block], size=8)
    model = lived(graph)
    model.apply(SplitBranches(branches=2, planes="keep", average="logits"), "s2")
    before = logits(model, images(size=8))
    rewrite = model.apply(MergeBranches(), "network")
    assert rewrite is not None and rewrite.preserves == "exact"
    assert torch.allclose(logits(model, images(size=8)), before, atol=1e-5)
    dropping = [node for node in model.graph.nodes.values() if node.facts.drops is not None]
    assert dropping and all(node.attrs["p"] for node in dropping)


def test_dropout_is_placed_in_branches_of_an_ensemble() -> None:
    model = lived(pyramid((1, 1), 8, block="preact_basic", size=8))
    model.apply(SplitBranches(branches=2, planes="keep"), "s2")
    before = logits(model, images(size=8))
    rewrite = model.apply(PlaceDropout(p=0.3), "network")
    assert rewrite is not None
    placed = sorted(node.label for node in model.graph.nodes.values() if node.facts.drops)
    assert placed == ["branches.0.s2.0.dropout", "branches.1.s2.0.dropout", "s1.0.dropout"]
    assert torch.equal(logits(model, images(size=8)), before)
    assert not torch.equal(logits(model, images(size=8), training=True), logits(model, images(size=8), training=True))
