"""Tensors in containers: sequences, mappings, dataclasses, named tuples."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor


def fields_of(operand: Any) -> list[tuple[str, Any]] | None:
    """Named parts of slices, dataclasses, named tuples and ordered dicts."""
    if isinstance(operand, slice):
        return [("start", operand.start), ("stop", operand.stop), ("step", operand.step)]
    if dataclasses.is_dataclass(operand) and not isinstance(operand, type):
        return [(field.name, getattr(operand, field.name, None)) for field in dataclasses.fields(operand)]
    if type(operand) is OrderedDict and all(isinstance(key, str) for key in operand):
        return list(operand.items())
    if isinstance(operand, tuple) and hasattr(operand, "_fields"):
        return list(zip(operand._fields, operand, strict=True))
    return None


def tensors_in(operand: Any) -> Iterator[Tensor]:
    """Every tensor in an operand or result, in the order of `encoded`."""
    if isinstance(operand, Tensor):
        yield operand
    elif (parts := fields_of(operand)) is not None:
        for _, part in parts:
            yield from tensors_in(part)
    elif isinstance(operand, (tuple, list)):
        for part in operand:
            yield from tensors_in(part)
    elif isinstance(operand, Mapping):
        for part in operand.values():
            yield from tensors_in(part)


def with_tensors(operand: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The operand with other tensors in it; containers without tensors stay the same objects."""
    if isinstance(operand, Tensor):
        return change(operand)
    if next(tensors_in(operand), None) is None:
        return operand
    parts = fields_of(operand)
    if parts is not None:
        changed = {name: with_tensors(part, change) for name, part in parts}
        return type(operand)(*changed.values()) if isinstance(operand, tuple) else type(operand)(**changed)
    if isinstance(operand, Mapping):
        return {key: with_tensors(part, change) for key, part in operand.items()}
    inner = [with_tensors(part, change) for part in operand]
    if isinstance(operand, list) or type(operand) is tuple:
        return type(operand)(inner)
    return type(operand)(tuple(inner))  # what torch.max returns
