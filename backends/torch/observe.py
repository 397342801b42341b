"""Evidence from a live network: statistics per unit of every resizable space, on probe images."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nasir.backends.torch.model import Model
from nasir.backends.torch.train import evaluating
from nasir.evidence import Evidence, Need
from nasir.ir import Atom, Graph, Port
from nasir.ir.space import resolve

Values = dict[str, NDArray[np.float64]]


def observe(model: Model, needs: Iterable[Need], images: Tensor) -> Evidence:
    """Measure what `needs` ask for; the network is run in eval mode and left as it was."""
    kinds: dict[str, Callable[[], Values]] = {
        "activation_mean": lambda: _activation_mean(model, images),
        "weight_norm": lambda: _weight_norm(model),
    }
    return Evidence({need.kind: kinds[need.kind]() for need in needs})


def _writers(graph: Graph) -> dict[Atom, list[int]]:
    """Nodes with weights whose output runs over exactly one atom, by atom."""
    found: dict[Atom, list[int]] = {}
    for node_id in graph.order:
        slots = graph.infer.slots[node_id]
        space = resolve(graph.infer.types[Port(node_id)].axes[0])
        if isinstance(space, Atom) and any(axis.role == "write" for slot in slots.values() for axis in slot.axes):
            found.setdefault(space, []).append(node_id)
    return found


def _measured(graph: Graph, writer: int) -> int:
    """The norm right behind a writer, where there is one, else the writer."""
    users = graph.users(writer)
    if len(users) == 1 and graph.nodes[users[0]].op.endswith("_norm"):
        return users[0]
    return writer


def _activation_mean(model: Model, images: Tensor) -> Values:
    graph = model.graph
    sums: dict[str, list[Tensor]] = {}
    handles = []
    for atom, writers in _writers(graph).items():
        for writer in writers:
            leaf = model.leaf(_measured(graph, writer))
            if leaf is not None:
                handles.append(leaf.register_forward_hook(_collector(sums.setdefault(atom.name, []))))
    try:
        with evaluating(model), torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.stack(parts).mean(0).cpu().numpy() for name, parts in sums.items()}


def _collector(parts: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        axes = [axis for axis in range(output.dim()) if axis != 1]
        parts.append(output.detach().abs().to(torch.float64).mean(dim=axes))

    return hook


def _weight_norm(model: Model) -> Values:
    graph = model.graph
    found: Values = {}
    for atom, writers in _writers(graph).items():
        squares = []
        for writer in writers:
            leaf = model.leaf(writer)
            assert leaf is not None
            weight = leaf.get_parameter("weight").detach().to(torch.float64)
            squares.append(weight.square().mean(dim=tuple(range(1, weight.dim()))))
        found[atom.name] = torch.stack(squares).mean(0).sqrt().cpu().numpy()
    return found
