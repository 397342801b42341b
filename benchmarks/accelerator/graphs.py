"""A whole training step captured as a CUDA graph between rewrites: what it brings, and what capturing anew costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.accelerator.bench import Bench
from benchmarks.accelerator.growth import grow
from benchmarks.common import cifar_resnet
from nasir.backends.torch.session import TorchSession

WARM = 3  # steps before a capture: kernels are chosen and momentum made, neither of which may happen within it
TURNS = 3


class Step:
    """A training step on one batch that stays where it is in memory, as it would be filled before each replay.

    The learning rate is part of a captured step: a schedule needs a fused kernel that reads it from the device.
    """

    def __init__(self, session: TorchSession, x: Tensor, y: Tensor) -> None:
        self.session, self.x, self.y = session, x, y
        self.on_cuda = x.is_cuda
        self.loss = torch.zeros((), device=x.device)
        session.model.train()

    def __call__(self) -> None:
        optimizer = self.session.optimizer
        assert optimizer is not None
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.x.device.type, torch.bfloat16):
            logits = self.session.model(self.x)
        loss = F.cross_entropy(logits.float(), self.y)
        loss.backward()
        optimizer.step()
        self.loss.copy_(loss.detach())


def warm(step: Step) -> None:
    """The steps before a capture, on a stream beside the usual one, as capturing asks for."""
    if not step.on_cuda:
        for _ in range(WARM):
            step()
        return
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM):
            step()
    torch.cuda.current_stream().wait_stream(side)


def capture(step: Step) -> Callable[[], None]:
    """The step as one replay; on a CPU, which has no graphs, the step itself."""
    if not step.on_cuda:
        return step
    assert step.session.optimizer is not None
    step.session.optimizer.zero_grad(set_to_none=True)  # so that the gradients belong to the graph
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def run(bench: Bench) -> None:
    bench.device.choose_kernels()
    place = bench.device.device
    with torch.cuda.device(place) if place.type == "cuda" else nullcontext():  # streams and graphs name no device
        for batch in bench.sizes.captured:
            bench.emit(f"batch {batch}", **_measured(bench, batch))


def _measured(bench: Bench, batch: int) -> dict[str, Any]:
    widths, depth = bench.first_net
    random = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, 32, 32, generator=random).to(bench.device.device, memory_format=torch.channels_last)
    y = torch.randint(0, 10, (batch,), generator=random).to(bench.device.device)
    eager, captured = (Step(bench.session(cifar_resnet(widths, depth), batch=batch), x, y) for _ in range(2))
    for step in (eager, captured):
        warm(step)
    replay, first = _captured(bench, captured)
    times: dict[str, list[float]] = {"eager": [], "replay": []}
    for _ in range(TURNS):
        times["eager"].append(bench.device.seconds(lambda: _repeat(eager, bench.sizes.steps)))
        times["replay"].append(bench.device.seconds(lambda: _repeat(replay, bench.sizes.steps)))
    losses = [float(step.loss) for step in (eager, captured)]  # both took the same steps from the same weights

    del replay  # its memory is free again before the next one is captured
    growth = 1e3 * bench.device.seconds(lambda: grow(captured.session))
    warming = 1e3 * bench.device.seconds(lambda: warm(captured))
    replay, again = _captured(bench, captured)
    after = bench.device.seconds(lambda: _repeat(replay, bench.sizes.steps))
    for step in (eager, captured):
        step.session.close()
    ms = {name: 1e3 * statistics.median(values) / bench.sizes.steps for name, values in times.items()}
    gain = ms["eager"] - ms["replay"]
    return {
        "eager_step_ms": round(ms["eager"], 3),
        "replayed_step_ms": round(ms["replay"], 3),
        "speedup": round(ms["eager"] / ms["replay"], 3),
        "images_per_s": [round(1e3 * batch / ms[name]) for name in ("eager", "replay")],
        "first_capture_ms": round(first, 2),
        "growth_ms": round(growth, 2),
        "warm_up_ms": round(warming, 2),
        "recapture_ms": round(again, 2),
        "grown_replayed_step_ms": round(1e3 * after / bench.sizes.steps, 3),
        # warm-up steps train, so only the capture is lost
        "steps_until_it_pays": round(again / gain, 1) if gain > 0 else None,
        "losses": losses,
    }


def _captured(bench: Bench, step: Step) -> tuple[Callable[[], None], float]:
    """A captured step, and the milliseconds that capturing took."""
    bench.device.wait()
    started = time.perf_counter()
    replay = capture(step)
    bench.device.wait()
    return replay, 1e3 * (time.perf_counter() - started)


def _repeat(function: Callable[[], None], count: int) -> None:
    for _ in range(count):
        function()
