"""What the guards of a rewrite cost: `apply` on a live ResNet-152 with and without them, and a training step after it.

    OMP_NUM_THREADS=1 python -m benchmarks.guards --out benchmarks/results/guards.json

The guards look for optimizers that were forgotten, modules that were changed by hand and optimizers that cannot go on.
Times are those of the CPU, of one thread, by turns: the machine may do other things.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.optim import optimizer as base

from benchmarks.common import imagenet_resnet, report
from nasir.backends.torch import Model
from nasir.backends.torch import model as applying
from nasir.backends.torch.lower import attached, module
from nasir.backends.torch.optimizers import forgotten, state, transfer
from nasir.backends.torch.optimizers.kinds import Kinds, check_state, kinds_of
from nasir.backends.torch.optimizers.refusals import check_held_elsewhere
from nasir.passes import InsertBlock, RemoveBlock

TARGET_MS = 1.0
BLOCK = {"block": "bottleneck", "options": {"out": 256}, "init": "default"}
GUARDS: tuple[tuple[Any, str, Any], ...] = (
    (forgotten, "learning", {}),
    (forgotten, "held_by", {}),
    (forgotten, "note", None),
    (applying, "refuse_wrapped", None),
    (module.attached, "changes", attached.Changes()),
    (transfer, "check_state", None),
    (transfer, "check_groups_shared", None),
    (transfer, "check_held_elsewhere", None),
    (transfer, "check_matrices", None),
    (transfer, "check_new_group", None),
    (state, "check_value", None),
    (Kinds, "check_joining", None),
    (Kinds, "check_sure", None),
)


@contextmanager
def unguarded() -> Iterator[None]:
    """Nothing is looked at."""
    with ExitStack() as stack:
        for owner, name, result in GUARDS:
            stack.enter_context(patch.object(owner, name, lambda *a, _result=result, **k: _result))
        yield


@contextmanager
def guarded() -> Iterator[None]:
    """As it is."""
    yield


def cpu_ms(function: Callable[[], Any]) -> float:
    """Of this thread."""
    started = time.thread_time()
    function()
    return 1e3 * (time.thread_time() - started)


def live(make: Callable[[Model], torch.optim.Optimizer]) -> tuple[Model, torch.optim.Optimizer]:
    """ResNet-152 and an optimizer with all its state."""
    model = Model.from_graph(imagenet_resnet("resnet152"))
    optimizer = make(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def rewrites(make: Callable[[Model], torch.optim.Optimizer], repeats: int) -> dict[str, Any]:
    """A bottleneck inserted and removed again, with and without the guards by turns."""
    model, optimizer = live(make)
    insert = InsertBlock(init="zero", block=BLOCK)
    times: dict[str, dict[str, list[float]]] = {"insert": {}, "remove": {}}
    modes: Mapping[str, Any] = {"guarded": guarded, "unguarded": unguarded}
    for turn in range(repeats + 2):
        gc.collect()
        for mode in sorted(modes, reverse=bool(turn % 2)):
            for what, change, site in (("insert", insert, "layer3"), ("remove", RemoveBlock(), "layer3")):
                rewrite = change.attempt(model.graph, site)
                with modes[mode]():
                    taken = cpu_ms(lambda rewrite=rewrite: model.apply(rewrite, optimizers=[optimizer]))
                if turn >= 2:
                    times[what].setdefault(mode, []).append(taken)
    rows: dict[str, Any] = {}
    for what, by_mode in times.items():
        medians = {mode: round(statistics.median(taken), 3) for mode, taken in by_mode.items()}
        pairs = [a - b for a, b in zip(by_mode["guarded"], by_mode["unguarded"], strict=True)]
        rows[what] = {
            "cpu_ms": medians,
            "guards_cpu_ms": round(medians["guarded"] - medians["unguarded"], 3),
            "guards_cpu_ms_by_pairs": round(statistics.median(pairs), 3),
        }
    return rows


def parts(make: Callable[[Model], torch.optim.Optimizer], repeats: int) -> dict[str, float]:
    """Median CPU milliseconds of the guards that look at the whole network or all state, one by one."""
    model, optimizer = live(make)
    gone = list(model.parameters())[:3]
    before, held = forgotten.learning(model), forgotten.held_by([optimizer])
    looks: Mapping[str, Callable[[], Any]] = {
        "modules changed by hand": lambda: attached.changes(model),
        "what learns, and what is held": lambda: (forgotten.learning(model), forgotten.held_by([optimizer])),
        "forgotten optimizers": lambda: forgotten.note(model, before, held, [optimizer], "x"),
        "state of known kinds": lambda: check_state(optimizer, kinds_of(optimizer)),
        "parameters held elsewhere": lambda: check_held_elsewhere(optimizer, gone, "x"),
    }
    return {name: round(statistics.median(cpu_ms(look) for _ in range(repeats)), 3) for name, look in looks.items()}


def steps(make: Callable[[Model], torch.optim.Optimizer]) -> dict[str, Any]:
    """What runs at a step that did not before there was a rewrite: hooks of the optimizer, of all, of the network."""

    def hooks() -> dict[str, int]:
        return {
            "of the optimizer": len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks),
            "of all optimizers": len(base._global_optimizer_pre_hooks) + len(base._global_optimizer_post_hooks),
            "of modules": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()),
            "of parameters": sum(len(p._backward_hooks or ()) for p in model.parameters()),
        }

    model, optimizer = live(make)
    before = hooks()
    model.apply(InsertBlock(init="zero", block=BLOCK), "layer3", optimizers=[optimizer])
    model.apply(RemoveBlock(), "layer3", optimizers=[optimizer])
    return {"hooks_before": before, "hooks_after": hooks(), "nothing_added": before == hooks()}


def main() -> None:
    torch.set_num_threads(1)
    gc.disable()  # the garbage of others is not the guards'
    makers: Mapping[str, Callable[[Model], torch.optim.Optimizer]] = {
        "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3),
    }
    figures: dict[str, Any] = {"target_ms": TARGET_MS}
    for name, make in makers.items():
        figures[name] = {"apply": rewrites(make, 12), "parts_cpu_ms": parts(make, 12), "step": steps(make)}
    report("guards of a rewrite on a live ResNet-152", figures)


if __name__ == "__main__":
    main()
