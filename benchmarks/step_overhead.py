"""What a training step costs the host beside its arithmetic, old way and new by turns: seeds, averages, checkpoints.

    python -m benchmarks.step_overhead --out benchmarks/results/step_overhead.json

On a device a step is launched by the host, which is what bounds small networks there; these parts need no device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.common import cifar_resnet, imagenet_resnet, interleaved, report, summary
from nasir.backends.torch.model import Model
from nasir.backends.torch.train.ema import Ema
from nasir.backends.torch.train.loop import seed_step, step_seed
from nasir.backends.torch.weights.arena import Arena

CPU = torch.device("cpu")


def compared(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Any]:
    """Milliseconds of each, and how many times as long the first takes as the last."""
    seconds = interleaved(functions, repeats, warmup=5)
    rows: dict[str, Any] = {name: summary(times) for name, times in seconds.items()}
    first, *_, last = rows.values()
    rows["ratio"] = round(first["median_ms"] / last["median_ms"], 2)
    return rows


def seeds() -> dict[str, Any]:
    """Seeding torch's generators for a step: all devices of all kinds, or the CPU and the device trained on."""
    number = iter(range(10**9))
    return compared(
        {
            "torch.manual_seed": lambda: torch.manual_seed(step_seed(0, 1, next(number))),
            "seed_step": lambda: seed_step(0, 1, next(number), CPU),
        },
        400,
    )


def averages(model: Model) -> dict[str, Any]:
    """Moving the average of a network's weights: tensors found anew each time, or once an epoch."""
    ema = Ema(model, 0.999)
    return compared({"update": lambda: ema.update(model), "follower": ema.follower(model)}, 200)


def checkpoints(model: Model) -> dict[str, Any]:
    """Copying weights, averages and two moments for a checkpoint: into fresh memory, or into memory used before."""
    tensors = [tensor.detach() for tensor in model.state_dict().values()] * 4
    arena = Arena()

    def fresh() -> list[torch.Tensor]:
        return [tensor.clone(memory_format=torch.contiguous_format) for tensor in tensors]

    return compared({"clones": fresh, "arena": lambda: arena.copy(tensors)}, 30)


def main() -> None:
    small, large = Model.from_graph(cifar_resnet((16, 32, 64), 3)), Model.from_graph(imagenet_resnet("resnet50"))
    figures: dict[str, Any] = {"seeds": seeds()}
    for name, model in (("resnet20", small), ("resnet50", large)):
        figures[name] = {"averages": averages(model), "checkpoints": checkpoints(model)}
    report("host overhead of a step", figures)


if __name__ == "__main__":
    main()
