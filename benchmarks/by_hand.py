"""What it costs a rewrite of a live ResNet-152 to look for changes by hand, and to have optimizers accounted for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.common import imagenet_resnet, report, summary
from nasir.backends.torch import Model
from nasir.backends.torch.lower import attached
from nasir.backends.torch.lower.build import filled_places
from nasir.backends.torch.lower.made import is_changed
from nasir.backends.torch.optimizers import forgotten
from nasir.backends.torch.optimizers.gradients import moved_gradients
from nasir.backends.torch.optimizers.order import in_order, positions
from nasir.passes.insert_block import InsertBlock

ROUNDS = 200


def timed(work: Callable[[], object]) -> list[float]:
    """Seconds of processor time of each round: other processes do not count."""
    taken = []
    for _ in range(ROUNDS):
        started = time.process_time()
        work()
        taken.append(time.process_time() - started)
    return taken


def main() -> None:
    model = Model.from_graph(imagenet_resnet("resnet152"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    rewrite = InsertBlock(init="zero").attempt(model.graph, "layer3")
    new = model.rewritten(rewrite)
    leaves = [(module, model._made[node]) for node, module in model._lowered.items() if node in model._made]

    def layers_made_anew() -> None:
        for module, made in leaves:
            is_changed(module, made)  # type: ignore[arg-type]

    def accounting() -> None:
        before, held = forgotten.learning(model), forgotten.held_by([optimizer])
        forgotten.note(model, before, held, [optimizer], "nothing")

    def order() -> None:
        place = positions(new)
        for group in optimizer.param_groups:
            in_order(group["params"], place)

    every: dict[str, Callable[[], object]] = {
        "changes_looked_for": lambda: attached.changes(model),
        "places_filled_anew": lambda: filled_places(new, model),
        "carried_over": lambda: attached.carry(model, new, []),
        "all_311_layers_compared": layers_made_anew,
        "optimizers_accounted_for": accounting,
        "gradients_looked_for": lambda: moved_gradients(model, new, rewrite.plan),
        "parameters_put_in_order": order,
    }
    figures: dict[str, Any] = {"target_ms_in_all": 1, "layers": len(leaves)}
    figures |= {name: summary(timed(work)) for name, work in every.items()}
    figures["insertion_in_all_ms"] = round(
        sum(figures[name]["median_ms"] for name in every if name != "all_311_layers_compared"), 3
    )
    report("changes by hand and optimizers at a rewrite of a live ResNet-152", figures)


if __name__ == "__main__":
    main()
