"""On one CUDA device: training speed against a hand-written tight loop, a growth step, memory of a rewrite.

    python -m benchmarks.cuda --out benchmarks/results/cuda.json

CIFAR-10-sized random images, batch 512, bf16, channels last, SGD with momentum; the loops are run by turns.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.common import HandResNet, cifar_resnet, report
from nasir.backend import Setup
from nasir.backends.torch.backend import TorchSession
from nasir.ir import Graph
from nasir.passes.insert_block import InsertBlock
from nasir.training import DataPlan, OptimizerPlan, TrainPlan
from nasir.transfer import Key, TransferPlan

BATCH, IMAGES = 512, 50_000
NETS = {"resnet20": ((16, 32, 64), 3), "basic4resnet_2_2_2_2": ((64, 128, 256, 512), 2)}


def images(folder: Path) -> Path:
    """CIFAR-10-sized random images as an npz file."""
    rng = np.random.default_rng(0)
    path = folder / "images.npz"
    np.savez(
        path,
        x_train=rng.integers(0, 256, (IMAGES, 3, 32, 32), dtype=np.uint8),
        y_train=rng.integers(0, 10, IMAGES),
        x_test=rng.integers(0, 256, (1000, 3, 32, 32), dtype=np.uint8),
        y_test=rng.integers(0, 10, 1000),
    )
    return path


def open_session(data: Path, graph: Graph, compiled: bool) -> TorchSession:
    """A session in its first phase."""
    plan = DataPlan("npz", {"path": str(data)}, batch_size=BATCH, augment=("pad_crop", "hflip"), drop_last=True)
    session = TorchSession(
        Setup(plan, data.parent, 0, device="cuda", precision="bf16", compile="blocks" if compiled else False)
    )
    sources = {Key(n, name): slot.init for n, slots in graph.infer.slots.items() for name, slot in slots.items()}
    session.build(graph, TransferPlan(sources))
    training = TrainPlan(optimizer=OptimizerPlan("sgd", lr=0.1, weight_decay=5e-4), batch_size=BATCH, precision="bf16")
    session.begin_phase(training, 100, False)
    return session


def hand_loop(widths: tuple[int, ...], depth: int, compiled: bool) -> Callable[[], None]:
    """One epoch of the same training by hand: data resident, crop and flip on the device, no synchronization."""
    net: Any = HandResNet(widths, depth).cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    x = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, device="cuda")
    y = torch.randint(0, 10, (IMAGES,), device="cuda")
    forward = torch.compile(net, dynamic=False) if compiled else net
    offsets = torch.arange(32, device="cuda")

    def epoch() -> None:
        order = torch.randperm(IMAGES, device="cuda")
        loss_sum = torch.zeros((), device="cuda")
        for start in range(0, IMAGES - BATCH + 1, BATCH):
            index = order[start : start + BATCH]
            batch = F.pad(x[index].float().mul_(1 / 128).sub_(1), (4, 4, 4, 4))
            top, left = torch.randint(0, 9, (2, BATCH, 1), device="cuda")
            rows, columns = (top + offsets)[:, None, :, None], (left + offsets)[:, None, None, :]
            batch = batch[
                torch.arange(BATCH, device="cuda")[:, None, None, None],
                torch.arange(3, device="cuda")[None, :, None, None],
                rows,
                columns,
            ]
            flip = torch.rand(BATCH, 1, 1, 1, device="cuda") < 0.5
            batch = torch.where(flip, batch.flip(3), batch).contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.bfloat16):
                loss = F.cross_entropy(forward(batch), y[index])
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach()

    return epoch


def timed(function: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    started = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def speed(data: Path, widths: tuple[int, ...], depth: int, compiled: bool) -> dict[str, Any]:
    """Images per second of nasir and of the hand-written loop, epochs by turns."""
    session = open_session(data, cifar_resnet(widths, depth), compiled)
    hand = hand_loop(widths, depth, compiled)
    epoch = iter(range(1000))
    ours, theirs = [], []
    for turn in range(6):
        number = next(epoch)
        a = timed(lambda number=number: session.train(number, number, None, lambda: False))  # type: ignore[misc]
        b = timed(hand)
        if turn > 0:
            ours.append(a)
            theirs.append(b)
    done = IMAGES // BATCH * BATCH
    return {
        "nasir_images_per_s": round(done / statistics.median(ours)),
        "hand_images_per_s": round(done / statistics.median(theirs)),
        "ratio": round(statistics.median(b / a for a, b in zip(ours, theirs, strict=True)), 4),
        "target_ratio": 0.95,
    }


def growth(data: Path, compiled: bool) -> dict[str, Any]:
    """Cost of growth steps of a known shape on a training ResNet-20, and the memory they need."""
    session = open_session(data, cifar_resnet((16, 32, 64), 3), compiled)
    session.train(0, 0, None, lambda: False)
    costs, peaks, before = [], [], session.compiler.graphs if session.compiler else 0
    for turn in range(8):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()

        def grow() -> None:
            rewrite = InsertBlock(init="gaussian").attempt(session.model.graph, "s2")
            session.propose(rewrite)
            session.accept()

        costs.append(1e3 * timed(grow))
        peaks.append(torch.cuda.max_memory_allocated() - held)
        session.train(turn + 1, turn + 1, None, lambda: False)
    return {
        "median_ms": round(statistics.median(costs[1:]), 2),
        "target_ms": 20,
        "peak_extra_bytes": max(peaks[1:]),
        "block_parameters_bytes": 4 * 18_560,
        "new_compiled_graphs": (session.compiler.graphs - before) if session.compiler else None,
    }


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("benchmarks/cuda.py needs a CUDA device; torch sees none")
    torch.backends.cudnn.benchmark = True
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = images(Path(folder))
        for name, (widths, depth) in NETS.items():
            figures[name] = {mode: speed(data, widths, depth, mode == "compiled") for mode in ("eager", "compiled")}
        figures["growth_step"] = {mode: growth(data, mode == "compiled") for mode in ("eager", "compiled")}
    report("CUDA training and growth", figures)


if __name__ == "__main__":
    main()
