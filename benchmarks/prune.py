"""Pruning half of all channels: scores, rewrite, verification and new weights, beside Torch-Pruning in one run.

    python -m benchmarks.prune [--repeats N] [--out FILE]

Torch-Pruning is no dependency of nasir; its rows are left out where it is not installed.
"""

from __future__ import annotations

import copy
import gc
import importlib.util
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from benchmarks.common import imagenet_resnet, report, summary
from nasir.backends.torch import Model
from nasir.backends.torch.observe.evidence import observe
from nasir.errors import NasirError
from nasir.ir import Graph
from nasir.passes.prune_channels import PruneChannels
from nasir.rewriting.rewrite import WHOLE

IMAGE = (1, 3, 224, 224)
NETWORKS = ("resnet18", "resnet50", "resnet152", "densenet121", "vit_b_16")
TARGETS = {"resnet152": {"ms": 140, "times": 3}, "vit_b_16": {"ms": 170}}

Timed = Callable[[], tuple[float, Any]]  # seconds of what is measured, and what came out


def ours(model: Model, momentum: bool) -> Timed:
    """Scores, rewrite, verification, weights; with `momentum` in place, with the state of an SGD optimizer."""
    rule = PruneChannels(fraction=0.5)

    def timed() -> tuple[float, Any]:
        if not momentum:
            started = time.perf_counter()
            rewrite = rule.attempt(model.graph, WHOLE, observe(model, rule.needs))
            new = model.rewritten(rewrite)
            return time.perf_counter() - started, new
        own = Model.from_graph(model.graph)
        optimizer = torch.optim.SGD(own.parameters(), lr=0.1, momentum=0.9)
        for parameter in own.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        started = time.perf_counter()
        own.apply(rule, WHOLE, optimizers=[optimizer])
        return time.perf_counter() - started, own

    return timed


def theirs(net: nn.Module, ignored: nn.Module) -> Timed:
    """Dependency graph, L2 group importance and removal by Torch-Pruning, on a copy that is not timed."""
    import torch_pruning

    def timed() -> tuple[float, Any]:
        own, kept = copy.deepcopy((net, ignored))
        started = time.perf_counter()
        pruner = torch_pruning.pruner.BasePruner(
            own,
            torch.zeros(IMAGE),
            importance=torch_pruning.importance.MagnitudeImportance(p=2),
            pruning_ratio=0.5,
            ignored_layers=[kept],
        )
        pruner.step()
        return time.perf_counter() - started, own

    return timed


def works(net: Any) -> bool:
    """Whether the pruned network still runs on an image."""
    try:
        with torch.no_grad():
            logits: Tensor = net.eval()(torch.zeros(IMAGE))
    except RuntimeError:
        return False
    return logits.shape == (1, 1000)


def compared(name: str, graph: Graph, repeats: int) -> dict[str, Any]:
    """Times of one network, by turns."""
    model = Model.from_graph(graph)
    rows: dict[str, Timed] = {"nasir": ours(model, False), "nasir_with_sgd_momentum": ours(model, True)}
    if importlib.util.find_spec("torch_pruning") is not None:
        net = getattr(torchvision.models, name)()
        last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
        rows["torch_pruning"] = theirs(net, last)
    times: dict[str, list[float]] = {row: [] for row in rows}
    figures: dict[str, Any] = {"params_before": graph.cost().params}
    for turn in range(repeats + 2):
        for row, timed in rows.items():
            gc.collect()
            seconds, pruned = timed()
            if turn >= 2:  # two to warm up
                times[row].append(seconds)
            if turn == 0:
                figures[row] = {
                    "params_after": sum(p.numel() for p in pruned.parameters()),
                    "runs_afterwards": works(pruned),
                }
            del pruned
    for row, taken in times.items():
        figures[row].update(summary(taken))
    if "torch_pruning" in times:
        ratios = [figures["torch_pruning"][key] / figures["nasir"][key] for key in ("min_ms", "median_ms")]
        figures["times_faster"] = {"min": round(ratios[0], 1), "median": round(ratios[1], 1)}
    return figures


def main() -> None:
    repeats = int(sys.argv[sys.argv.index("--repeats") + 1]) if "--repeats" in sys.argv else 10
    figures: dict[str, Any] = {"fraction": 0.5, "repeats": repeats, "targets": TARGETS}
    for name in NETWORKS:
        try:
            graph = imagenet_resnet(name)
        except NasirError as error:
            figures[name] = {"left_out": str(error).splitlines()[0]}
            continue
        figures[name] = compared(name, graph, repeats)
    report("prune half of all channels", figures)


if __name__ == "__main__":
    main()
