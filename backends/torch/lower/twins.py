"""Second copies of modules that users wrote, for new nodes that do what an old one does."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn

from nasir.backends.torch.lower.parts import LoweredParts
from nasir.errors import UsageError
from nasir.ir import Node


def twin_of(old: LoweredParts, node: Node) -> nn.Module | None:
    """A copy of the module of a node of `old` that makes the same call as `node`; None where the call is no module's.

    Raises UsageError for a module that cannot be copied.
    """
    if node.facts.family != "opaque" or not node.attrs["live"]:
        return None
    for node_id, other in old.graph.nodes.items():
        module = old._lowered.get(node_id)
        if other.op == node.op and other.attrs == node.attrs and isinstance(module, nn.Module):
            try:
                twin = deepcopy(module)
            except Exception as error:
                raise UsageError(
                    f"'{other.label}' ({node.attrs['runs']}) cannot be copied for '{node.label}' "
                    f"({type(error).__name__}: {error}); let copy.deepcopy of it work, or give the new block a template"
                ) from error
            twin.train(old.training)
            return twin
    return None


def take_values(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Write new values into the weights of a module, which keep being the same tensors: modules may hold on to them."""
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in tensors)
