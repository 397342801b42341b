"""Deterministic training on CUDA is refused before it starts where torch would raise in a backward pass."""

from __future__ import annotations

import torch

from nasir.analysis.determinism import unordered
from nasir.errors import RunError
from nasir.ir import Graph


def refuse_unordered(graph: Graph, deterministic: bool, device: torch.device) -> None:
    """Raises RunError that names the nodes which cannot be trained on `device` as `deterministic` asks."""
    if not deterministic or device.type != "cuda":
        return
    faults = [f"deterministic: {text}; {remedy}" for _, text, remedy in unordered(graph)]
    if faults:
        raise RunError("\n".join(faults))
