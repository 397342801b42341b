"""Latency of RRR-Net's networks in one run, by turns: ResNet-152, one block a stage, and that in eight branches.

The branches run one after another ("branches") and as one network of grouped convolutions ("merged"); every network has
20 classes and sees batches of 4 images, 128x128. `rewrite`: seconds from the reduced network to its branches (graph,
plan, weights) and from there to the merged network.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.common import HEAD, report
from nasir.backends.torch import Model
from nasir.backends.torch.observe.latency import compare
from nasir.ir import Graph
from nasir.passes.merge_branches import MergeBranches
from nasir.passes.remove_block import RemoveBlock
from nasir.passes.split_branches import SplitBranches
from nasir.rewriting.rewrite import WHOLE, Rewrite
from nasir.spec import loads_spec
from nasir.spec.network import build

BATCH, SIDE, CLASSES, BRANCHES = 4, 128, 20, 8


def resnet152() -> Graph:
    network = f"{{from: torchvision, model: resnet152, classes: {CLASSES}}}"
    return build(loads_spec(f"{HEAD}input: {{image: [3, {SIDE}, {SIDE}]}}\nnetwork: {network}\n"))


def reduced(graph: Graph) -> Graph:
    """The first block of each stage."""
    for stage in graph.stages:
        for block in reversed(graph.blocks_of(stage.path)[1:]):
            graph = RemoveBlock().attempt(graph, block.path).graph
    return graph


def moved(model: Model, rewrite: Rewrite) -> tuple[Model, float]:
    """The model after a rewrite, and the seconds that its weights took."""
    started = time.perf_counter()
    return model.rewritten(rewrite), time.perf_counter() - started


def main() -> None:
    full = resnet152()
    unsplit = Model.from_graph(reduced(full)).eval()
    started = time.perf_counter()
    split = SplitBranches(branches=BRANCHES).attempt(unsplit.graph, "layer3")
    split_seconds = time.perf_counter() - started
    branches, split_moved = moved(unsplit, split)
    started = time.perf_counter()
    merge = MergeBranches().attempt(branches.graph, WHOLE)
    merge_seconds = time.perf_counter() - started
    merged, merge_moved = moved(branches.eval(), merge)
    x = torch.rand(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = float((branches(x) - merged.eval()(x)).abs().max())
    graphs = {"resnet152": full, "reduced": unsplit.graph, "branches": branches.graph, "merged": merged.graph}
    figures: dict[str, Any] = {"batch": BATCH, "image": SIDE, "classes": CLASSES, "number_of_branches": BRANCHES}
    times = compare(list(graphs.values()), BATCH, repeats=30)
    for (name, graph), taken in zip(graphs.items(), times, strict=True):
        cost = graph.cost()
        figures[name] = {
            "params": cost.params,
            "macs": cost.macs,
            "params_times_fewer": round(full.cost().params / cost.params, 3),
            "macs_times_fewer": round(full.cost().macs / cost.macs, 3),
            "median_ms": round(1e3 * taken.median, 3),
            "min_ms": round(1e3 * taken.minimum, 3),
            "times_faster": round(times[0].median / taken.median, 2),
        }
    figures["measured_on"] = times[0].device
    figures["merged_logits_difference"] = difference
    figures["rewrite"] = {
        "split_plan_s": round(split_seconds, 3),
        "split_weights_s": round(split_moved, 3),
        "merge_plan_s": round(merge_seconds, 3),
        "merge_weights_s": round(merge_moved, 3),
    }
    report("rrrnet", figures)


if __name__ == "__main__":
    main()
