"""Routed against removed: accuracy by executed MACs and by measured latency, for several seeds.

    python -m benchmarks.routed_cifar10 --folder runs/routed --seeds 3 --out benchmarks/results/routed_cifar10.json

For each seed the static phase of `specs/residual/routed_cifar10_cpu.yaml` is run once. From its checkpoint go on, for
as long and with the same teacher: `routed`, a run for each target of the expected MACs; `removed`, a run for each
number of blocks that all stages keep; and `static`, all blocks. Each figure is of the test data: accuracy, the MACs
that are executed for a sample in the mean, and milliseconds of a sample in batches of 128, by turns. Runs that are
there are taken as they are, so a study that was ended goes on. `--subset S`: with a share of the training images.
`--tiny`: a minute on generated images, to see it work.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

import nasir.api
from benchmarks.common import interleaved, report, summary
from nasir.backends.torch import Model
from nasir.backends.torch.data.in_memory import open_source
from nasir.backends.torch.data.rawdata import DataContext
from nasir.backends.torch.lower.module import zeros_of
from nasir.backends.torch.observe.routes import taking
from nasir.backends.torch.weights import checkpoint
from nasir.journal.directory import RunDirectory
from nasir.journal.trained import trained_network
from nasir.records import EndRecord
from nasir.running.engine import setup_of
from nasir.spec import loads_spec

SPEC = Path(__file__).parents[1] / "specs/residual/routed_cifar10_cpu.yaml"
TARGETS, DEPTHS, BATCH, TURNS = (0.8, 0.6, 0.4), (2, 1), 128, 20
TINY = {
    "dataset": "synthetic",
    "options": {"classes": 10, "size": 16, "channels": 3, "train": 256, "test": 256},
    "batch_size": 64,
    "validation": 64,
}


def argument(name: str, default: str) -> str:
    """The value of an option of the command line."""
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


def specs(seed: int, base: Path, subset: float, tiny: bool) -> dict[str, dict[str, Any]]:
    """The static run, and those that go on from it in the folder `base`."""
    spec = yaml.safe_load(SPEC.read_text())
    spec["seed"] = seed
    if subset < 1:
        spec["data"]["subset"] = subset
    if tiny:
        spec["data"], spec["input"] = TINY, {"image": [3, 16, 16]}
        for phase in spec["phases"]:
            phase["epochs"] = 1
    first, routed = spec["phases"]
    made = {"base": {**spec, "name": "base", "phases": [first]}}
    macs, distill = routed["regularize"]
    start = {**spec, "network": {"from": "run", "run": str(base)}}
    for target in TARGETS:
        terms = [{"expected-macs": {**macs["expected-macs"], "target": target}}, distill]
        name = f"routed {target}"
        made[name] = {**start, "name": name.replace(" ", "-"), "phases": [{**routed, "regularize": terms}]}
    for depth in DEPTHS:
        rules = [{"when": "start", "do": {"keep-blocks": {"depths": depth}}}]
        phase = {**routed, "rules": rules, "regularize": [distill]}
        made[f"removed {depth}"] = {**start, "name": f"removed-{depth}", "phases": [phase]}
    made["static"] = {**start, "name": "static", "phases": [{**routed, "rules": [], "regularize": [distill]}]}
    return made


def ended(folder: Path, spec: dict[str, Any]) -> RunDirectory:
    """The run of a spec, made or gone on with unless it has ended."""
    text = yaml.safe_dump(spec)
    if not (folder / "journal.jsonl").exists():
        nasir.api.run(text, folder)
    elif not any(isinstance(record, EndRecord) for record in RunDirectory(folder).effective()):
        nasir.api.resume(folder)
    return RunDirectory(folder)


def network(run: RunDirectory) -> Model:
    """The network that a run has come to, in evaluation."""
    trained = trained_network(run)
    assert trained is not None
    model = Model.from_graph(trained.graph, plan=zeros_of(trained.graph))
    checkpoint.load(trained.checkpoint).fill(model)
    model.use_channels_last()
    return model.eval()


def test_batches(spec: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """The test data."""
    setup = setup_of(loads_spec(yaml.safe_dump(spec)), Path())
    source = open_source(setup.data, DataContext(setup.base), torch.device("cpu"), channels_last=True)
    return [(x.float(), y) for x, y in source.test()]


def measured(models: dict[str, Model], batches: list[tuple[Tensor, Tensor]]) -> dict[str, dict[str, float]]:
    """Accuracy, executed MACs and milliseconds of a sample, by network."""
    samples = sum(len(y) for _, y in batches)
    rows: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        for name, model in models.items():
            with taking(model, samples) as taken:
                right = sum(int((model(x).argmax(1) == y).sum()) for x, y in batches)
            macs = taken.macs / samples if taken.rows else model.graph.cost().macs
            rows[name] = {"accuracy": round(right / samples, 4), "macs": round(macs)}
        x = torch.cat([x for x, _ in batches[:2]])[:BATCH].contiguous(memory_format=torch.channels_last)
        for name, times in interleaved({name: lambda m=model: m(x) for name, model in models.items()}, TURNS).items():
            rows[name]["ms_per_sample"] = round(summary(times)["median_ms"] / len(x), 5)
    return rows


def main() -> None:
    folder, tiny = Path(argument("--folder", "runs/routed_cifar10")).resolve(), "--tiny" in sys.argv
    subset = float(argument("--subset", "1"))
    figures: dict[str, Any] = {"subset": subset}
    for seed in range(int(argument("--seeds", "3"))):
        base = folder / f"seed_{seed}" / "base"
        made = specs(seed, base, subset, tiny)
        runs = {name: ended(base.with_name(name.replace(" ", "_")), spec) for name, spec in made.items()}
        figures[f"seed_{seed}"] = measured(
            {name: network(run) for name, run in runs.items()}, test_batches(made["base"])
        )
    report("routed_cifar10", figures)


if __name__ == "__main__":
    main()
