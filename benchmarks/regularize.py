"""What penalties add to a training step: ResNet-20, batch 128, the trainer's own step, with and without each term.

    python -m benchmarks.regularize --out benchmarks/results/regularize.json

Every variant has its own network; they train by turns on the same random images (32x32), SGD with momentum. On the CPU
with two threads unless OMP_NUM_THREADS says otherwise.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.common import cifar_resnet, interleaved, report, summary
from nasir.backends.torch.model import Model
from nasir.backends.torch.optimizers.groups import build_optimizer
from nasir.backends.torch.penalties.regularize import Penalties, penalties_of
from nasir.backends.torch.train.loop import Sums, _step, prepare, wants_bf16
from nasir.ir import Graph
from nasir.training.plans import OptimizerPlan, PenaltyPlan, TrainPlan

BATCH, TURNS = 128, 40
TERMS: dict[str, tuple[PenaltyPlan, ...]] = {
    "none": (),
    "l1": (PenaltyPlan("l1", 1e-8),),
    "l2": (PenaltyPlan("l2", 1e-5),),
    "layer-lasso": (PenaltyPlan("layer-lasso", 1e-8),),
    "group-lasso flops": (PenaltyPlan("group-lasso", 1e-9),),
    "group-lasso latency": (PenaltyPlan("group-lasso", 1e-3, resource="latency", profile="V100"),),
    "gamma flops": (PenaltyPlan("gamma", 1e-9),),
    "resbuilder": (PenaltyPlan("group-lasso", 1e-9), PenaltyPlan("layer-lasso", 1e-8), PenaltyPlan("l2", 1e-5)),
}


def stepper(graph: Graph, penalties: tuple[PenaltyPlan, ...]) -> Callable[[], None]:
    """One step of training."""
    model = Model.from_graph(graph)
    plan = TrainPlan(OptimizerPlan("sgd", lr=0.01), penalties=penalties)
    prepare(model, plan)
    model.train()
    tagged = ((name, parameter, frozenset({"decay"})) for name, parameter in model.named_parameters())
    optimizer = build_optimizer(tagged, plan.optimizer)
    x = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (BATCH,))
    cpu = torch.device("cpu")
    bf16, totals, penalize = wants_bf16(plan, model, cpu), Sums.zero(cpu), penalties_of(model, penalties)
    return lambda: _step(model, optimizer, plan, x, y, bf16, totals, penalize)


def alone(graph: Graph, penalties: tuple[PenaltyPlan, ...], repeats: int = 200) -> float:
    """Median milliseconds of the penalties alone: gradients and value."""
    model = Model.from_graph(graph)
    terms = Penalties(graph, penalties, torch.device("cpu"))
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        terms.add_gradients(model)
        seconds.append(time.perf_counter() - started)
    return round(1e3 * statistics.median(seconds), 4)


def tables(graph: Graph) -> float:
    """Milliseconds that the tables of group-lasso take, once for each graph."""
    started = time.perf_counter()
    Penalties(graph, TERMS["group-lasso flops"], torch.device("cpu"))
    return round(1e3 * (time.perf_counter() - started), 2)


def main() -> None:
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(2)
    torch.manual_seed(0)
    graph = cifar_resnet((16, 32, 64), 3)
    seconds = interleaved({name: stepper(graph, penalties) for name, penalties in TERMS.items()}, TURNS, warmup=3)
    steps: dict[str, dict[str, float]] = {name: summary(times) for name, times in seconds.items()}
    base = seconds["none"]
    for name, times in seconds.items():
        # turn by turn: what slows the machine down for a while slows both
        steps[name]["ratio_of_medians"] = round(statistics.median(times) / statistics.median(base), 4)
        steps[name]["median_ratio"] = round(statistics.median(a / b for a, b in zip(times, base, strict=True)), 4)
        steps[name]["penalty_alone_ms"] = alone(graph, TERMS[name])
    report("regularize", {"network": "ResNet-20", "batch": BATCH, "steps": steps, "tables_ms": tables(graph)})


if __name__ == "__main__":
    main()
