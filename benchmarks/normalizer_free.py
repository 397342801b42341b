"""Curves of 54 residual blocks without norms: as they are, with SkipInit, and with Fixup, from the same seeds.

    python -m benchmarks.normalizer_free --seeds 0,1,2 --out benchmarks/results/normalizer_free.json

Each seed of each spec of `specs/residual/deep_*.yaml` is a run; a run that diverges ends there. `--epochs N` trains
shorter. `--small` trains narrow networks of the same depth on the 8x8 digits instead, for 6 epochs: minutes for all.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

import nasir
from benchmarks.common import report
from nasir.errors import Diverged
from nasir.records import EpochRecord, Record

KINDS = ("plain", "skipinit", "fixup")
SMALL_DATA = {"dataset": "digits", "batch_size": 64, "validation": 0.2}


def spec_of(kind: str, seed: int, epochs: int | None = None, small: bool = False) -> dict[str, Any]:
    """A spec that ships, with another seed and length; `small`: on the digits, with networks half as wide."""
    spec: dict[str, Any] = yaml.safe_load((files("nasir.specs") / f"residual/deep_{kind}.yaml").read_text())
    spec["seed"] = seed
    if small:
        spec |= {"input": {"image": [1, 8, 8]}, "data": SMALL_DATA}
        spec["network"] = [_halved(step) for step in spec["network"]]
    if epochs is not None or small:
        spec["phases"][0]["epochs"] = epochs or 6
    return spec


def _halved(step: Any) -> Any:
    if not isinstance(step, Mapping) or "classifier" in step:
        return step
    [(kind, options)] = step.items()
    kept = {name: value for name, value in options.items() if not (kind == "conv" and name == "stride")}
    return {kind: {**kept, "out": options["out"] // 2}}


def curve(spec: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Metrics of each epoch of a run, and how it ended."""
    epochs: list[dict[str, float]] = []

    def hear(record: Record) -> None:
        if isinstance(record, EpochRecord):
            epochs.append({name: round(value, 5) for name, value in record.metrics.items()})

    try:
        run = nasir.run(yaml.safe_dump(dict(spec)), folder, listener=hear)
    except Diverged as error:
        return {"epochs": epochs, "diverged": str(error)}
    return {"epochs": epochs, "test_accuracy": run.metrics["test.accuracy"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out")
    given = parser.parse_args()
    curves: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in map(int, given.seeds.split(",")):
            for kind in KINDS:
                spec = spec_of(kind, seed, given.epochs, given.small)
                curves.setdefault(kind, {})[str(seed)] = curve(spec, Path(folder) / f"{kind}{seed}")
    report("normalizer_free", {"small": given.small, "curves": curves})


if __name__ == "__main__":
    main()
