"""Running statistics of norms brought up to date: forward passes over augmented training data, no gradients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nasir.analysis.statistics import keeps_statistics
from nasir.backends.torch.data.batches import BatchSource
from nasir.backends.torch.device.names import device_of
from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.train.loop import seed_step, wants_bf16
from nasir.rewriting.rewrite import Refresh
from nasir.training.plans import TrainPlan


def moving_norms(model: LoweredModule, refresh: Refresh) -> dict[str, nn.Module]:
    """The modules whose statistics a refresh moves, by label."""
    norms = {}
    for node_id in model.graph.order:
        node = model.graph.nodes[node_id]
        module = model.leaf(node_id) if keeps_statistics(model.graph, node_id) else None
        if module is None:
            continue
        chosen = not refresh.paths or model.graph.below(node_id, refresh.paths)
        if chosen and (refresh.frozen or not model.is_held(node_id)):
            norms[node.label] = module
    return norms


def refresh_norms(
    model: LoweredModule,
    source: BatchSource,
    plan: TrainPlan,
    refresh: Refresh,
    *,
    seed: int,
    epoch: int,
    stop: Callable[[], bool],
) -> dict[str, Any] | None:
    """Carry `refresh` out on batches of epoch `epoch` and those after it; None when `stop()` ended it.

    Norms that do not move are in eval mode, everything else is in train mode. Returns {"batches", "norms"}.
    """
    norms = moving_norms(model, refresh)
    device = device_of(model)
    steps = source.steps_per_epoch
    wanted = refresh.batches or refresh.epochs * steps
    done = 0
    if not norms:
        return {"batches": 0, "norms": 0}
    with _moving(model, norms), torch.no_grad():
        if refresh.cumulative:
            _start_anew(norms)
        bf16 = wants_bf16(plan, model, device)
        while done < wanted:
            part = epoch + done // steps
            for step, (x, _) in enumerate(source.batches(part)):
                seed_step(seed, part, step, device)
                if refresh.cumulative:
                    _weigh(norms, done)
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    model(x)
                done += 1
                if stop():
                    return None
                if done == wanted:
                    break
    return {"batches": done, "norms": len(norms)}


@contextmanager
def _moving(model: LoweredModule, norms: dict[str, nn.Module]) -> Iterator[None]:
    """Train mode in which only `norms` among the norms move; afterwards their momentum is as it was."""
    momenta = {label: module.momentum for label, module in norms.items()}
    model.train()
    for module in model.modules():
        if "running_mean" in module._buffers:
            module.eval()
    for module in norms.values():
        module.train()
    try:
        yield
    finally:
        for label, module in norms.items():
            module.momentum = momenta[label]
        model.train()


def _start_anew(norms: dict[str, nn.Module]) -> None:
    """As torch's `reset_running_stats`, which needs the number of batches, that not all norms count."""
    for module in norms.values():
        for name, start in (("running_mean", 0.0), ("running_var", 1.0), ("num_batches_tracked", 0)):
            buffer = module._buffers.get(name)
            if buffer is not None:
                buffer.fill_(start)


def _weigh(norms: dict[str, nn.Module], done: int) -> None:
    """Set how much the next batch counts, after so many. A momentum of None averages alike, but reads a counter off the
    device for each norm and batch. Norms that share their statistics each add to them, one after another."""
    calls: dict[int, int] = {}
    uses = Counter(id(module.running_mean) for module in norms.values())
    for module in norms.values():
        shared = id(module.running_mean)
        before = done * uses[shared] + calls.setdefault(shared, 0)
        calls[shared] += 1
        module.momentum = 1.0 / (before + 1)  # type: ignore[assignment]


def statistics(norms: dict[str, nn.Module]) -> dict[str, Tensor]:
    """The buffers of norms by state_dict name."""
    return {
        f"{label}.{name}": buffer
        for label, module in norms.items()
        for name, buffer in module._buffers.items()
        if buffer is not None
    }
