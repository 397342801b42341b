"""The parameters of a module in the order of `module.parameters()`, and groups of optimizers put into it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def parameters_of(module: nn.Module) -> dict[int, nn.Parameter]:
    """The parameters by identity, in the order of `module.parameters()`.

    nn.Module's own walk makes names on the way, which takes several times as long.
    """
    parameters: dict[int, nn.Parameter] = {}
    parts: list[nn.Module | None] = [module]
    while parts:
        part = parts.pop()
        if part is None:
            continue
        for parameter in part._parameters.values():
            if parameter is not None:
                parameters.setdefault(id(parameter), parameter)
        if part._modules:
            parts.extend(reversed(part._modules.values()))
    return parameters


def positions(module: nn.Module) -> dict[int, int]:
    """Place of each parameter, by identity, in the order of `module.parameters()`."""
    return {key: place for place, key in enumerate(parameters_of(module))}


def in_order(members: list[Tensor], place: Mapping[int, int]) -> list[Tensor]:
    """The members with a place sorted by it, where the first of them stood; the others in order around them."""
    mine = sorted((p for p in members if id(p) in place), key=lambda p: place[id(p)])
    first = next((index for index, p in enumerate(members) if id(p) in place), len(members))
    return [*members[:first], *mine, *(p for p in members[first:] if id(p) not in place)]
