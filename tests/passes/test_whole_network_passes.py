"""Passes on whole networks meet networks of all kinds: they give a sound rewrite or decline, and nothing else."""

from __future__ import annotations

import pytest

from nasir.errors import Decline
from nasir.passes.insert_random_block import InsertRandomBlock
from nasir.passes.morph_widths import MorphWidths
from nasir.passes.remove_weak_blocks import RemoveWeakBlocks
from nasir.passes.shrink_widths import ShrinkWidths
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import WHOLE, Pass
from nasir.testing import PassContract
from nasir.testing.graphs import random_graph

RULES: dict[str, Pass] = {
    "insert": InsertRandomBlock(),
    "insert-anywhere": InsertRandomBlock(position="random", init="default"),
    "remove": RemoveWeakBlocks(threshold=0.5, scores="current", candidates="all", guard=None),
    "shrink": ShrinkWidths(threshold=0.5),
    "shrink-rescratch": ShrinkWidths(threshold=0.95, width_step="rescratch"),
    "morph": MorphWidths(flops=1e5, threshold=0.05),
    "morph-coupled": MorphWidths(flops=1e5, threshold=0.5, ties="coupled"),
    "morph-transfer": MorphWidths(flops=1e5, threshold=0.5, ties="coupled", width_step="transfer", factor="exact"),
}


@pytest.mark.parametrize("name", RULES)
def test_a_sound_rewrite_or_a_reason(name: str) -> None:
    rule = RULES[name]

    class Contract(PassContract):
        make = staticmethod(lambda: rule)

    accepted = 0
    for seed in range(12):
        graph = random_graph(seed, steps=5)
        before = graph.to_json()
        try:
            rewrite = rule.attempt(graph, WHOLE, Evidence(Contract().evidence(graph).measured, seed=seed))
        except Decline as refusal:
            assert str(refusal)
        else:
            rewrite.plan.verify(graph, rewrite.graph)
            accepted += 1
        assert graph.to_json() == before
    assert accepted >= 6
