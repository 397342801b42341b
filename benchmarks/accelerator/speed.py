"""Images a second in training: nasir and a hand-written tight loop in one process, epochs by turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.accelerator.bench import Bench
from benchmarks.common import HandResNet, cifar_resnet

TARGET = 0.95  # of the hand-written loop's images a second


def run(bench: Bench, mode: str) -> None:
    bench.device.choose_kernels()
    for name, (widths, depth) in bench.sizes.nets.items():
        bench.emit(name, **_compared(bench, widths, depth, mode == "compiled"))


def _compared(bench: Bench, widths: tuple[int, ...], depth: int, compiled: bool) -> dict[str, Any]:
    session = bench.session(cifar_resnet(widths, depth), compiled=compiled)
    hand = hand_loop(bench, widths, depth, compiled)
    # the first epochs choose kernels, allocate and compile
    first = [bench.device.seconds(lambda: bench.epoch(session, 0)), bench.device.seconds(hand)]
    ours: list[float] = []
    theirs: list[float] = []
    fewest, most = bench.sizes.turns
    started = time.monotonic()
    while len(ours) < fewest or (len(ours) < most and time.monotonic() - started < bench.sizes.seconds):
        number = len(ours) + 1
        ours.append(bench.device.seconds(lambda number=number: bench.epoch(session, number)))  # type: ignore[misc]
        theirs.append(bench.device.seconds(hand))
    session.close()
    done = bench.sizes.images // bench.sizes.batch * bench.sizes.batch
    return {
        "nasir_images_per_s": round(done / statistics.median(ours)),
        "hand_images_per_s": round(done / statistics.median(theirs)),
        "ratio": round(statistics.median(b / a for a, b in zip(ours, theirs, strict=True)), 4),
        "target_ratio": TARGET,
        "turns": len(ours),
        "spread": [round(max(times) / min(times), 3) for times in (ours, theirs)],
        "nasir_first_epoch_s": round(first[0], 2),
        "hand_first_epoch_s": round(first[1], 2),
        "compiled_graphs": session.compilation.compiler.graphs if session.compilation.compiler else None,
    }


def hand_loop(bench: Bench, widths: tuple[int, ...], depth: int, compiled: bool) -> Callable[[], None]:
    """One epoch of the same training by hand: data resident, crop and flip on the device, no synchronization."""
    device, batch_size, images = bench.device.device, bench.sizes.batch, bench.sizes.images
    net: Any = HandResNet(widths, depth).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    x = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8, device=device)
    y = torch.randint(0, 10, (images,), device=device)
    forward = torch.compile(net, dynamic=False, backend=bench.sizes.compiler) if compiled else net
    offsets = torch.arange(32, device=device)

    def epoch() -> None:
        order = torch.randperm(images, device=device)
        loss_sum = torch.zeros((), device=device)
        for start in range(0, images - batch_size + 1, batch_size):
            index = order[start : start + batch_size]
            batch = F.pad(x[index].float().mul_(1 / 128).sub_(1), (4, 4, 4, 4))
            top, left = torch.randint(0, 9, (2, batch_size, 1), device=device)
            rows, columns = (top + offsets)[:, None, :, None], (left + offsets)[:, None, None, :]
            batch = batch[
                torch.arange(batch_size, device=device)[:, None, None, None],
                torch.arange(3, device=device)[None, :, None, None],
                rows,
                columns,
            ]
            flip = torch.rand(batch_size, 1, 1, 1, device=device) < 0.5
            batch = torch.where(flip, batch.flip(3), batch).contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16):
                loss = F.cross_entropy(forward(batch), y[index])
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach()

    return epoch
