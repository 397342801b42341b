"""Peak memory that rewrites of a ResNet-50 with Adam take on top, beside the size of what they change."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import torch

from benchmarks.common import imagenet_resnet, report
from nasir.analysis.uniform import uniform_spaces
from nasir.backends.torch import Model
from nasir.backends.torch.device.meter import Meter, nbytes, tensors_of
from nasir.ir import Draft, Graph
from nasir.passes.grow_kernel import GrowKernel
from nasir.passes.insert_block import InsertBlock
from nasir.passes.widen import Widen
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import WHOLE, Pass, Rewrite

MIB = 2**20


class Halve(Pass):
    """Every second unit of all spaces."""

    name = "halve"

    def options(self) -> dict[str, Any]:  # type: ignore[misc]
        return {}

    def sites(self, graph: Graph) -> list[str]:
        return [WHOLE]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        assert draft.base is not None
        for space in uniform_spaces(draft.base):
            draft.select(space, np.arange(0, space.size, 2))


CASES: dict[str, tuple[Pass, str]] = {
    "prune half of all channels": (Halve(), WHOLE),
    "widen by copies with noise": (Widen(factor=1.5, noise=0.01), WHOLE),
    "widen by fresh units": (Widen(factor=1.25, how="fresh"), WHOLE),
    "widen by pairs": (Widen(factor=1.25, how="paired"), WHOLE),
    "kernels 3 to 5": (GrowKernel(), "layer4"),
    "insert a block": (InsertBlock(init="zero"), "layer4"),
}


def with_state(
    graph: Graph, channels_last: bool = False, device: torch.device | str = "cpu"
) -> tuple[Model, torch.optim.Optimizer]:
    """A model and an Adam that has seen a gradient for every weight."""
    model = Model.from_graph(graph, channels_last=channels_last, device=device)
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        moments = {name: torch.full_like(parameter, 1e-3, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {"step": torch.tensor(5.0), **moments}
    return model, optimizer


def measure(model: Model, optimizer: torch.optim.Optimizer, rewrite: Rewrite) -> dict[str, int]:
    """Bytes: `extra` at the peak of the rewrite, weights and moments together, and `changed`, what came out anew."""
    gc.collect()
    with Meter(tensors_of(model, [optimizer])) as meter:
        model.apply(rewrite, optimizers=[optimizer])
    return {"extra": meter.extra, "changed": changed_bytes(model, optimizer, rewrite)}


def changed_bytes(model: Model, optimizer: torch.optim.Optimizer, rewrite: Rewrite) -> int:
    """Bytes of the weights that the last rewrite made anew, and of their moments."""
    changed = 0
    for key in rewrite.plan.sources:
        tensor = model.tensor(key)
        state = optimizer.state.get(tensor, {}).values()
        changed += nbytes([tensor, *(value for value in state if value.shape == tensor.shape)])
    return changed


def main() -> None:
    graph = imagenet_resnet("resnet50")
    figures: dict[str, Any] = {"target": "extra <= 1.1 * changed"}
    for name, (rule, site) in CASES.items():
        for channels_last in (False, True):
            model, optimizer = with_state(graph, channels_last)
            sizes = measure(model, optimizer, rule.attempt(model.graph, site))
            figures[f"{name}{', channels last' if channels_last else ''}"] = {
                "network_mib": round(nbytes(tensors_of(model, [optimizer])) / MIB, 1),
                "changed_mib": round(sizes["changed"] / MIB, 1),
                "extra_mib": round(sizes["extra"] / MIB, 1),
                "extra_of_changed": round(sizes["extra"] / sizes["changed"], 3),
            }
    report("peak extra memory of rewrites of a ResNet-50 with Adam", figures)


if __name__ == "__main__":
    main()
