"""The specs of residual branches: a small version of each runs to its end and does what it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import nasir
from nasir.analysis.residuals import residual_sums
from nasir.records import RewriteRecord

SPECS = Path(__file__).parents[1] / "specs" / "residual"


def small(name: str) -> dict[str, Any]:
    """The spec on few small images, in few epochs; channels by four."""
    spec: dict[str, Any] = yaml.safe_load((SPECS / name).read_text())
    spec["input"] = {"image": [3, 8, 8]}
    spec["data"] = {"dataset": "synthetic", "options": {"classes": 10, "channels": 3, "train": 64}, "batch_size": 32}
    for step in spec["network"]:
        for options in step.values() if isinstance(step, dict) else ():
            if "out" in options:
                options["out"] //= 4
    for phase in spec["phases"]:
        phase["epochs"] = min(phase["epochs"], 4)
    return spec


@pytest.mark.slow
def test_scaled_growth_gives_all_branches_the_scale_of_the_depth_that_is_reached(tmp_path: Path) -> None:
    run = nasir.run(nasir.loads_spec(yaml.safe_dump(small("scaled_cpu.yaml"))), out=tmp_path / "run")
    rewrites = [record for record in run.journal if isinstance(record, RewriteRecord)]
    assert [record.preserves for record in rewrites] == ["no"] * len(rewrites) and len(rewrites) == 3
    assert all(record.delta_logits > 0.0 for record in rewrites)  # what rescaling the others does is measured
    ends = [run.graph.nodes[item.branch.node] for item in residual_sums(run.graph)]
    assert [end.attrs["value"] for end in ends] == [pytest.approx(6**-0.5)] * 6
