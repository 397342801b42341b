"""What residual branches contribute at each depth of trained networks, and what it costs to delete the weakest third.

Networks of 20, 32 and 56 layers (3, 5 and 9 basic blocks a stage) are trained at that depth; one more is grown to 20
layers from one block a stage. Each is analyzed; then the third of its blocks that can go which score lowest is deleted,
by residual ratio and by mean |w|, and the rest is trained on for an epoch. `unchanged` is the network trained on for
that epoch with all its blocks. Accuracies are those of held-out training images (`--held`), but for `test_accuracy`.

    python -m benchmarks.residual_depth --root DIR_OF_CIFAR10 --epochs 60 --threads 2 --out study.json
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import nasir
from benchmarks.common import report
from nasir.errors import Decline
from nasir.figures.kept import Kept, checkpoint_after
from nasir.figures.residuals import Wanted, analyze_run
from nasir.journal.directory import RunDirectory
from nasir.passes.remove_weak_blocks import RemoveWeakBlocks
from nasir.rewriting.rewrite import WHOLE
from nasir.running.engine import setup_of
from nasir.running.replay import reopen
from nasir.spec.network import initial_plan
from nasir.training.backend import Session, Start, make_backend
from nasir.training.plans import SchedulePlan

DEPTHS = {20: 3, 32: 5, 56: 9}
"""Blocks a stage, by number of layers."""
GROWN = 20
SHARE = 1 / 3
RATE = 0.01
"""Learning rate of the epoch after a deletion, a tenth of the first."""


def spec_of(layers: int, grown: bool, options: argparse.Namespace) -> str:
    """A ResNet for CIFAR-10, trained for `--epochs`; a grown one gets a block an epoch first."""
    blocks = DEPTHS[layers]
    depth, added = (1, 3 * (blocks - 1)) if grown else (blocks, 0)
    first = added + 1 if grown else 0  # no block is added after the last epoch of a phase
    if options.epochs <= first:
        raise SystemExit(f"--epochs {options.epochs}: growing takes {first}; give more")
    sgd = "optimizer: {sgd: {lr: 0.1, momentum: 0.9, weight_decay: 5.0e-4}}"
    stages = "\n".join(
        f"  - stage: {{name: s{n + 1}, block: basic, out: {16 << n}, depth: {depth}, stride: {2 if n else 1}}}"
        for n in range(3)
    )
    where = "where: {stages: [s1, s2, s3], order: round_robin}"
    grow = f"""
  - name: grow
    epochs: {first}
    {sgd}
    rules: [{{every: 1, do: {{insert-block: {{init: gaussian}}}}, {where}, at_most: {added}}}]"""
    root = f"\n  options: {{root: {options.root}}}" if options.root else ""
    return f"""nasir: 1
name: residual-depth
seed: {options.seed}
input: {{image: [3, 32, 32]}}
network:
  - conv_bn_relu: {{out: 16, kernel: 3}}
{stages}
  - classifier: {{classes: 10}}
data:
  dataset: {options.dataset}{root}
  batch_size: 128
  validation: {options.held}
  subset: {options.subset}
  augment: [pad_crop, hflip]
phases:{grow if added else ""}
  - name: train
    epochs: {options.epochs - first}
    {sgd}
    schedule: cosine
"""


def opened(run: RunDirectory) -> tuple[Session, Kept]:
    """A session with the network that a run ended with, about to be trained on."""
    spec, env = reopen(run)
    kept = checkpoint_after(run, None)
    session = make_backend(spec.backend).open(setup_of(spec, Path(env["base"])))
    session.build(kept.graph, initial_plan(kept.graph, spec), Start(kept.path))
    plan = spec.phases[-1].training(spec)
    plan = replace(plan, optimizer=replace(plan.optimizer, lr=RATE), schedule=SchedulePlan())
    session.begin_phase(plan, 1, False)
    return session, kept


def accuracy(session: Session) -> float:
    return round(session.evaluate("val")["val.accuracy"], 4)


def deleted(run: RunDirectory, score: str | None) -> dict[str, Any]:
    """Accuracy after the weakest third by `score` is deleted (None: nothing is), and after an epoch of training on."""
    session, kept = opened(run)
    try:
        figures: dict[str, Any] = {"before": accuracy(session)}
        if score is not None:
            rule = RemoveWeakBlocks(
                score=score,  # type: ignore[arg-type]
                share=SHARE,
                when="all",
                scores="current",
                candidates="all",
                guard=None,
            )
            try:
                rewrite = rule.attempt(kept.graph, WHOLE, session.observe(rule.needs))
            except Decline as reason:
                return {**figures, "declined": str(reason)}
            effect = session.propose(rewrite)
            session.accept()
            gone = [block.path for block in kept.graph.blocks if block.path not in rewrite.graph.regions]
            figures |= {"deleted": gone, "delta_logits": round(effect.delta_logits, 4), "after": accuracy(session)}
        session.train(kept.epoch, 0, None, lambda: False)
        return {**figures, "after_an_epoch": accuracy(session)}
    finally:
        session.close()


def studied(layers: int, grown: bool, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    name = f"resnet{layers}{'_grown' if grown else ''}"
    run = nasir.run(spec_of(layers, grown, options), out=folder / name)
    directory = RunDirectory.open(run.path)
    found = analyze_run(directory, Wanted(options.batch)).to_json()
    return {
        "name": name,
        "depths": run.graph.depths(),
        "test_accuracy": round(run.metrics["test.accuracy"], 4),
        "path_mass": found["path_mass"],
        "effective_depth": found["effective_depth"],
        "sums": found["sums"],
        "deletion": {score or "unchanged": deleted(directory, score) for score in ("residual_ratio", "mean", None)},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="residual contribution by depth")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--images", type=int, default=45_000, help="training images of those not held out")
    parser.add_argument("--held", type=int, default=5_000, help="training images that accuracy is measured on")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--layers", type=int, nargs="*", choices=tuple(DEPTHS), default=list(DEPTHS))
    parser.add_argument("--batch", type=int, default=256, help="images of an analysis")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--root", help="folder of the data set (default: where nasir looks)")
    parser.add_argument("--keep", help="folder for the runs (default: none are kept)")
    parser.add_argument("--out", help="also write the figures there")
    options = parser.parse_args(arguments)
    options.subset = min(1.0, options.images / (50_000 - options.held))
    torch.set_num_threads(options.threads)
    wanted = [(layers, False) for layers in options.layers] + [(GROWN, True)] * (GROWN in options.layers)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.keep or scratch)
        found = [studied(layers, grown, folder, options) for layers, grown in wanted]
    settings = {
        "epochs": options.epochs,
        "images": options.images,
        "held": options.held,
        "seed": options.seed,
        "batch": options.batch,
    }
    report("residual contribution by depth", {**settings, "networks": found})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
