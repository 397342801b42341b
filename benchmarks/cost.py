"""Counting the cost of a network: how long it takes, whether torch counts the same, and estimates beside measurements.

`count`: costs of all nodes and their sum on an inferred graph that was not counted before; `flop_counter` is what
torch's counter takes for the same number, one forward pass on the meta device. Latencies of all networks come from one
run, by turns; estimates use the peaks of this device, measured right before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import imagenet_resnet, interleaved, report, summary
from nasir.analysis.roofline import PROFILES, estimate
from nasir.backends.torch import Model
from nasir.backends.torch.observe.calibrate import calibrate
from nasir.backends.torch.observe.latency import compare
from nasir.ir import Fill, Graph
from nasir.ir.cost import count, total
from nasir.transfer import Key, TransferPlan

NAMES = ("resnet18", "resnet50", "resnet152", "vit_b_16")
BUDGET_MS = 5  # to count a ResNet-50


def on_meta(graph: Graph) -> Model:
    slots = graph.infer.slots
    plan = TransferPlan({Key(node_id, name): Fill("zeros") for node_id, own in slots.items() for name in own})
    return Model.from_graph(graph, plan=plan, device="meta").eval()


def executed(model: Model) -> int:
    """FLOPs of one 224x224 image, as torch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, 224, 224, device="meta"))
    return int(counter.get_total_flops())


def counting(graph: Graph) -> dict[str, Any]:
    model = on_meta(graph)

    def counted() -> None:
        total(count(graph.nodes, graph.infer).values())

    functions: dict[str, Callable[[], Any]] = {"count": counted, "flop_counter": lambda: executed(model)}
    times = interleaved(functions, repeats=9)
    cost = graph.cost()
    return {
        "nodes": len(graph.nodes),
        **asdict(cost),
        "flops": cost.flops,
        "flops_as_torch_counts": executed(model),
        "equal": cost.flops == executed(model),
        **{name: summary(taken) for name, taken in times.items()},
    }


def main() -> int:
    graphs = {name: imagenet_resnet(name) for name in NAMES}
    figures = {name: counting(graph) for name, graph in graphs.items()}
    here = calibrate()
    measured = compare(list(graphs.values()), repeats=9, warmup=2)
    latency = {
        name: {
            "measured_ms": round(1e3 * timing.median, 3),
            "fastest_ms": round(1e3 * timing.minimum, 3),
            "spread_ms": round(1e3 * timing.spread, 3),
            "estimated_here_ms": round(1e3 * estimate(graph, here), 3),
            "measured_to_estimated": round(timing.median / estimate(graph, here), 2),
            **{f"estimated_{p.name}_ms": round(1e3 * estimate(graph, p), 4) for p in PROFILES.values()},
        }
        for (name, graph), timing in zip(graphs.items(), measured, strict=True)
    }
    slow = figures["resnet50"]["count"]["median_ms"] > BUDGET_MS
    unequal = [name for name, figure in figures.items() if not figure["equal"]]
    report(
        "cost",
        {
            "budget_ms": BUDGET_MS,
            "counting": figures,
            "profile": asdict(here),
            "batch": 1,
            "latency": latency,
            "over_budget": ["resnet50"] if slow else [],
            "unequal": unequal,
        },
    )
    return 1 if slow or unequal else 0


if __name__ == "__main__":
    raise SystemExit(main())
