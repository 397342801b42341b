"""Peak memory of rewrites, by the device's own allocator, and what many of them leave behind."""

from __future__ import annotations

from typing import Any

from benchmarks.accelerator.bench import Bench
from benchmarks.accelerator.growth import STAGE, grow
from benchmarks.common import cifar_resnet
from benchmarks.memory import CASES, changed_bytes, with_state
from nasir.backends.torch.device.meter import nbytes, tensors_of
from nasir.passes.remove_block import RemoveBlock
from nasir.training.plans import OptimizerPlan

TARGET = 1.1  # extra bytes at the peak for each byte that changes


def run(bench: Bench) -> None:
    _left_behind(bench)
    _peaks(bench)


def _peaks(bench: Bench) -> None:
    """A deep network with Adam's moments: bytes at the peak beside those of what comes out anew."""
    graph = bench.deep_net()
    for name, (rule, site) in CASES.items():
        model, optimizer = with_state(graph, channels_last=True, device=bench.device.device)
        rewrite = rule.attempt(model.graph, site)
        bench.device.collect()
        network = nbytes(tensors_of(model, [optimizer]))
        with bench.device.peak() as peak:
            model.apply(rewrite, optimizers=[optimizer])
            extra = peak()
        changed = changed_bytes(model, optimizer, rewrite)
        share = None if extra is None else round(extra / changed, 3)
        bench.emit(name, network_bytes=network, changed_bytes=changed, extra_bytes=extra, share=share, target=TARGET)


def _left_behind(bench: Bench) -> None:
    """The same network after each of several insertions and removals: bytes held must stay the same."""
    widths, depth = bench.first_net
    session = bench.session(cifar_resnet(widths, depth), optimizer=OptimizerPlan("adam", lr=1e-3), ema_decay=0.99)
    held: list[int | None] = []
    reserved: list[int | None] = []
    for turn in range(bench.sizes.growths):
        session.train(2 * turn, 2 * turn, None, lambda: True)
        bench.device.collect()
        held.append(bench.device.held())
        reserved.append(bench.device.reserved())
        grow(session)
        session.train(2 * turn + 1, 2 * turn + 1, None, lambda: True)
        session.propose(RemoveBlock().attempt(session.model.graph, STAGE))
        session.accept()
    session.close()
    figures: dict[str, Any] = {"held_bytes": held, "reserved_bytes": reserved, "cycles": bench.sizes.growths}
    first, last = held[1], held[-1]
    figures["left_behind_bytes"] = None if first is None or last is None else last - first
    bench.emit("left behind by insertions and removals", **figures)
