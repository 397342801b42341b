"""What the graph costs without weights: build, order, infer, hash, dump and load 10,000 nodes; infer a ResNet-152.

Beside each figure stands a floor, measured in the same run: making, and walking, a list of as many plain frozen
dataclasses. Needs no torch. Prints JSON; `--out FILE` also writes it.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasir.ir import Draft, Graph, Port
from nasir.ir.canon import digest, postorder
from nasir.ir.infer import infer

NODES = 10_000
BLOCK = 7  # nodes of a basic block
BUDGET_MS = dict.fromkeys(("build", "order", "infer", "hash", "dump", "load"), 100)
BUDGET_MS |= {"infer_resnet152": 10, "drop_empty_regions": 5}


@dataclass(frozen=True, slots=True)
class Plain:
    """As many fields as a node."""

    op: str
    inputs: tuple[int, ...]
    attrs: Mapping[str, Any]
    label: str


def make_plain() -> list[Plain]:
    return [Plain("conv2d", (n,), {"out": 16, "kernel": 3}, f"s1.{n}") for n in range(NODES)]


def walk_plain(nodes: list[Plain]) -> int:
    total = 0
    for node in nodes:
        total += node.inputs[0]
    return total


def conv_norm(draft: Draft, x: Port, label: str, out: int, kernel: int, stride: int = 1) -> Port:
    y = draft.add("conv2d", x, f"{label}.conv", out=out, kernel=kernel, stride=stride, padding=kernel // 2)
    return draft.add("batch_norm", y, f"{label}.bn")


def long_resnet() -> Draft:
    """Basic blocks of width 16 at 32x32, `NODES` nodes, in one stage."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=[16, 32, 32])
    draft.region("s1", "stage")
    for block in range((NODES - 1) // BLOCK):
        path = f"s1.{block}"
        y = draft.add("relu", conv_norm(draft, x, f"{path}.a", 16, 3), f"{path}.relu")
        y = conv_norm(draft, y, f"{path}.b", 16, 3)
        x = draft.add("relu", draft.add("add", (y, x), f"{path}.add"), f"{path}.out")
        draft.region(path, "block")
    while draft.minted < NODES:
        x = draft.add("relu", x, f"end{draft.minted}")
    draft.output(x)
    return draft


def resnet152() -> Graph:
    """He et al. 2015, table 1, at 224x224."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 224, 224])
    x = draft.add("relu", conv_norm(draft, x, "stem", 64, 7, 2), "stem.relu")
    x = draft.add("max_pool", x, "stem.pool", kernel=3, stride=2, padding=1)
    for stage, depth in enumerate((3, 8, 36, 3)):
        width = 64 << stage
        draft.region(f"s{stage}", "stage")
        for block in range(depth):
            path, stride = f"s{stage}.{block}", 2 if stage and not block else 1
            y = draft.add("relu", conv_norm(draft, x, f"{path}.a", width, 1), f"{path}.a.relu")
            y = draft.add("relu", conv_norm(draft, y, f"{path}.b", width, 3, stride), f"{path}.b.relu")
            y = conv_norm(draft, y, f"{path}.c", 4 * width, 1)
            x = x if block else conv_norm(draft, x, f"{path}.down", 4 * width, 1, stride)
            x = draft.add("relu", draft.add("add", (y, x), f"{path}.add"), f"{path}.out")
            draft.region(path, "block")
    draft.output(draft.add("linear", draft.add("global_avg_pool", x, "pool"), "fc", out=1000))
    return draft.commit()


def measured(functions: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds, called by turns so that a machine that slows down slows all; results are freed off the clock."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            gc.collect()
            started = time.perf_counter()
            result = function()
            taken = time.perf_counter() - started
            del result
            if turn:
                times[name].append(1e3 * taken)
    return {
        name: {"min_ms": round(min(taken), 3), "median_ms": round(statistics.median(taken), 3)}
        for name, taken in times.items()
    }


def main() -> int:
    draft = long_resnet()
    graph, resnet, plain = draft.commit(), resnet152(), make_plain()
    assert len(graph.nodes) == NODES
    text = json.dumps(graph.to_json())

    def checked() -> None:
        Graph(graph.nodes, graph.outputs, graph.regions, graph.minted).verify_regions()

    figures = measured(
        {
            "floor_make": make_plain,
            "floor_walk": lambda: walk_plain(plain),
            "build": long_resnet,
            "commit": draft.commit,
            "order": lambda: postorder(graph.nodes, graph.outputs),
            "infer": lambda: infer(graph.nodes, graph.order, graph.outputs),
            "verify_regions": checked,
            "hash": lambda: digest(graph.nodes, graph.order, graph.outputs),
            "dump": lambda: json.dumps(graph.to_json()),
            "load": lambda: Graph.from_json(json.loads(text)),
            "drop_empty_regions": draft.drop_empty_regions,
            "infer_resnet152": lambda: infer(resnet.nodes, resnet.order, resnet.outputs),
        },
        repeats=7,
    )
    floor = figures["floor_make"]["min_ms"]
    missed = []
    for name, figure in figures.items():
        figure["ratio_to_floor_make"] = round(figure["min_ms"] / floor, 2)
        if name in BUDGET_MS:
            figure["budget_ms"] = BUDGET_MS[name]
            missed += [name] if figure["min_ms"] > BUDGET_MS[name] else []
    data = {
        "benchmark": "ir",
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "nodes": {"long": len(graph.nodes), "resnet152": len(resnet.nodes)},
        "resnet152_params": resnet.cost().params,
        "figures": figures,
        "over_budget": missed,
    }
    printed = json.dumps(data, indent=2)
    print(printed)
    if "--out" in sys.argv:
        Path(sys.argv[sys.argv.index("--out") + 1]).write_text(printed + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
