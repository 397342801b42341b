"""The exporter of weights: those of a run's newest checkpoint, as one safetensors file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors.torch
from torch import Tensor

from nasir.backends.torch.lower.naming import give_names
from nasir.backends.torch.weights import checkpoint
from nasir.errors import UsageError
from nasir.files import write_atomically
from nasir.registry import exporters
from nasir.training.exporter import Exportable, Exporter


@exporters.register("safetensors")
@dataclass(frozen=True, kw_only=True)
class Weights(Exporter):
    """The weights of a run's newest checkpoint by name, as torch loads them; `average`: their moving average."""

    weights: Literal["last", "average"] = "last"

    def write(self, source: Exportable, path: Path) -> None:
        write_atomically(path, safetensors.torch.save(self.tensors(source), metadata={"format": "pt"}))

    def tensors(self, source: Exportable) -> dict[str, Tensor]:
        """By the names of a state_dict, on the host; UsageError where the run has no checkpoint, or no average."""
        newest, _ = checkpoint.latest(self.needed(source, "checkpoints"))
        if newest is None:
            raise UsageError(f"{source.name}: the run has no checkpoint yet; wait for its first one")
        group = {"last": "model", "average": "ema"}[self.weights]
        if group not in newest.tensors:
            raise UsageError(
                f"{source.name}: the newest checkpoint has no moving average; export the last weights, or give the "
                "phase `ema`"
            )
        tensors = dict(newest.tensors[group])
        for node_id, slots in source.graph.infer.slots.items():
            for name in [name for name, slot in slots.items() if not slot.stored]:
                tensors.pop(f"{source.graph.nodes[node_id].label}.{name}", None)
        give_names(tensors, source.graph)
        return {name: tensor.clone() for name, tensor in tensors.items()}
