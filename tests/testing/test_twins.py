"""Behaviour follows from facts: a network of renamed ops is rewritten, read and drawn as the network itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from nasir.analysis.main_path import layers
from nasir.analysis.roofline import PROFILES, estimates
from nasir.analysis.untied import own_widths
from nasir.blocks.init import INITS
from nasir.blocks.starts import renew
from nasir.errors import Decline, NasirError
from nasir.ir import Graph
from nasir.pruning.constants import constants
from nasir.registry import ops
from nasir.report.graph_svg import draw
from nasir.report.show import render
from nasir.rewriting.evidence import PER_UNIT, Evidence
from nasir.rewriting.rewrite import get_pass, site_name
from nasir.testing import (
    random_graph,
    random_transformer,
    random_weights,
    twin_ops,
    varied_graph,
    with_twins,
    without_twins,
)
from nasir.testing.twins import TWIN

SHIPPED = sorted(name for name in ops.names() if ops.get(name).rule.__module__.startswith("nasir."))
PASSES: tuple[tuple[str, dict[str, Any]], ...] = (
    *[("insert-block", {"init": init}) for init in ("zero", "gaussian", "adam", "near_zero", "copy")],
    ("insert-block", {"init": "zero", "block": {"block": {"branch": [{"conv": {"out": "out"}}], "then": ["gelu"]}}}),
    ("insert-random-block", {"position": "random", "width": "last_conv"}),
    ("insert-random-block", {"position": "equal_blockwise"}),
    ("prune-channels", {"score": "norm_scale", "threshold": 0.0}),
    ("prune-channels", {"score": "l1", "threshold": 0.0, "constants": "drop"}),
    ("freeze", {"norms": False}),
    ("grow-kernel", {"to": 5, "least": 1}),
    ("split-branches", {"branches": 2, "average": "logits", "planes": "keep"}),
    ("split-branches", {"branches": 2, "how": "aligned"}),
    ("merge-branches", {}),
    ("ungroup-branches", {"branches": 2}),
    ("remove-block", {}),
    ("reset-weights", {"init": "vit"}),
    ("widen", {"factor": 1.5, "noise": 0.01}),
)
SITES = 4


@pytest.fixture(autouse=True)
def twins() -> Iterator[None]:
    with twin_ops(SHIPPED):
        yield


def networks() -> dict[str, Graph]:
    generated = {f"random {seed}": random_graph(seed, steps=5) for seed in range(6)}
    generated.update({f"varied {seed}": varied_graph(seed) for seed in range(2)}, transformer=random_transformer(0))
    split = get_pass("split-branches")(branches=2, average="logits", planes="keep", how="random")
    branches = split.attempt(random_graph(1, steps=0), "s1", Evidence({})).graph
    joint = get_pass("merge-branches")(join_heads=False).attempt(branches, "network", evidence(branches)).graph
    return {**generated, "branches": branches, "joint": joint}


def evidence(graph: Graph) -> Evidence:
    """Random measurements and weights with silent units, equal for equal labels whatever the ops are called."""
    rng = np.random.default_rng(0)
    weights = {}
    for key, array in random_weights(graph, 0).items():
        slot = graph.infer.slots[key.node][key.slot]
        if slot.axes and rng.random() < 0.5 and (slot.is_kernel or "norm" in slot.tags):
            array[rng.permutation(len(array))[: 1 + len(array) // 3]] = 0.0
        weights[f"{graph.nodes[key.node].label}.{key.slot}"] = array
    measured: dict[str, dict[str, Any]] = {"weights": weights}
    for kind in PER_UNIT:
        measured[kind] = {space.name: rng.integers(0, 3, (1, space.size)) / 2 for space in graph.infer.spaces}
    return Evidence(measured, latency=lambda candidate: 1e-9 * (candidate.cost().macs + 1000))


def outcome(graph: Graph, name: str, options: dict[str, Any]) -> list[str]:
    """What the pass does at each site: graph, plan and claim, or why it declines; twins under their first names."""
    rule, outcomes = get_pass(name)(**options), []
    for site in list(rule.sites(graph))[:SITES]:
        try:
            rewrite = rule.attempt(graph, site, evidence(graph))
        except (Decline, NasirError) as refusal:
            outcomes.append(f"{site_name(site)}: {refusal}".replace(TWIN, ""))
        else:
            made = [without_twins(rewrite.graph).to_json(), rewrite.plan.to_json(), rewrite.preserves]
            outcomes.append(f"{site_name(site)}: {json.dumps(made, sort_keys=True)}")
    return outcomes


@pytest.mark.parametrize("name, options", PASSES)
def test_passes_do_to_twins_what_they_do_to_the_ops_themselves(name: str, options: dict[str, Any]) -> None:
    acted = 0
    for label, graph in networks().items():
        twin = with_twins(graph, SHIPPED)
        assert {node.op for node in twin.nodes.values()}.isdisjoint(SHIPPED) and without_twins(twin) == graph
        plain = outcome(graph, name, options)
        assert outcome(twin, name, options) == plain, label
        acted += sum('"nodes"' in text for text in plain)
    assert acted, "the pass declines everything: nothing was compared"


@pytest.mark.parametrize("family", ["activation", "norm"])
def test_some_twins_among_ops_do_not_matter_either(family: str) -> None:
    names = [name for name in SHIPPED if ops.get(name).family == family]
    for name, options in PASSES:
        graph = random_graph(3, steps=4)
        assert outcome(with_twins(graph, names), name, options) == outcome(graph, name, options), name


def test_analyses_say_of_twins_what_they_say_of_the_ops_themselves() -> None:
    def said(graph: Graph) -> dict[str, str]:
        known = constants(graph, evidence(graph))
        seen: dict[str, Any] = {
            "constants": [(port, None if value is None else value.tolist()) for port, value in known.items()],
            "layers": layers(graph),
            "widths": own_widths(graph),
            "signs": graph.nonnegative,
            "inputs": graph.inputs,
            "latency": estimates(graph, PROFILES["T4"]),
            "text": "\n".join(line.split("  ")[0] for line in render(graph).splitlines()),
            "drawing": draw(graph).count("op-other"),
        }
        for init in INITS:
            draft = graph.draft()
            renew(draft, init)
            seen[init] = draft.origins.fills
        return {key: str(value) for key, value in seen.items()}

    for graph in networks().values():
        assert said(with_twins(graph, SHIPPED)) == said(graph)
