"""Specs of 54 blocks without norms: what starts as its shortcuts trains, what does not explodes."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest
import torch
import yaml
from torch.nn import functional

import nasir
from nasir.backends.torch import Model
from nasir.spec import loads_spec
from nasir.spec.network import initial_plan

KINDS = ("plain", "skipinit", "fixup")


def shipped(kind: str) -> dict[str, Any]:
    spec: dict[str, Any] = yaml.safe_load((files("nasir.specs") / f"residual/deep_{kind}.yaml").read_text())
    return spec


def test_they_differ_in_how_branches_start_and_in_nothing_else() -> None:
    plain, skipinit, fixup = map(shipped, KINDS)
    for spec in (skipinit, fixup):
        assert {key for key in spec if spec[key] != plain[key]} <= {"name", "init", "network"}
        assert [step if "stage" not in step else step["stage"]["depth"] for step in spec["network"]] == [
            step if "stage" not in step else step["stage"]["depth"] for step in plain["network"]
        ]
    stages = [step["stage"] for step in skipinit["network"] if "stage" in step]
    assert all(stage.pop("branch_scale") == "skipinit" for stage in stages)
    assert stages == [step["stage"] for step in plain["network"] if "stage" in step]
    for kind in KINDS:
        graph = nasir.build(yaml.safe_dump(shipped(kind)))
        assert len(graph.blocks) == 54 and not any(node.facts.family == "norm" for node in graph.nodes.values())


def losses(kind: str, steps: int, share: int = 4, size: int = 8) -> list[float]:
    """Of one batch of 16 images that is trained on, by networks of the spec's depth and a share of its widths."""
    given = shipped(kind)
    given["input"] = {"image": [3, size, size]}
    for step in given["network"]:
        for name, options in step.items() if isinstance(step, dict) else ():
            if name != "classifier":
                options["out"] //= share
    spec = loads_spec(yaml.safe_dump(given))
    graph = nasir.build(spec)
    model = Model.from_graph(graph, plan=initial_plan(graph, spec))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    random = torch.Generator().manual_seed(0)
    x, labels = torch.randn(16, 3, size, size, generator=random), torch.arange(16) % 10
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        seen.append(float(loss.detach()))
    return seen


def test_without_help_the_stream_explodes() -> None:
    first, second = losses("plain", 2, share=1, size=32)
    assert first > 1e4 and not second < first


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["skipinit", "fixup"])
def test_blocks_that_start_as_their_shortcuts_learn(kind: str) -> None:
    seen = losses(kind, 80)
    assert seen[0] < 4.0 and seen[-1] < 0.9 * seen[0] and max(seen) < 1.1 * seen[0]
