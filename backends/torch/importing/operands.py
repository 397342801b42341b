"""Operands of calls as the data of a recording, and back: dtypes, devices, slices, dataclasses, containers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasir.backends.torch.importing.names import class_name, named
from nasir.backends.torch.nested import fields_of
from nasir.backends.torch.nested import tensors_in as tensors_in
from nasir.backends.torch.nested import with_tensors as with_tensors
from nasir.errors import NasirError
from nasir.importing.recording import SLICE, Batch, Device, Mode, Ref, Structure, Switch, Symbol, Tree

PLAIN = (type(None), bool, int, float, complex, str, type(Ellipsis))


def encoded(operand: Any, ref: Callable[[Tensor], Ref], home: torch.device, where: str) -> Tree:
    """The operand as a tree; `ref` gives the number of a tensor, `home` is the device of the inputs.

    Raises NasirError for what is no data, with its place `where`.
    """
    if isinstance(operand, Tensor):
        return ref(operand)
    if type(operand) in PLAIN:
        return operand
    parts = fields_of(operand)
    if parts is not None:
        kind = SLICE if isinstance(operand, slice) else class_name(type(operand))
        return Structure(kind, tuple([(name, encoded(part, ref, home, where)) for name, part in parts]))
    if isinstance(operand, (tuple, list)):
        inner = [encoded(part, ref, home, where) for part in operand]
        return inner if isinstance(operand, list) else tuple(inner)
    if isinstance(operand, Mapping) and all(isinstance(key, str) for key in operand):
        return {key: encoded(part, ref, home, where) for key, part in operand.items()}
    if isinstance(operand, torch.device):
        return Device(None if operand == home else str(operand))
    if isinstance(operand, (torch.dtype, torch.layout, torch.memory_format)):
        return Symbol(str(operand))
    if isinstance(operand, np.ndarray) and not operand.dtype.hasobject:
        return operand.copy()
    if isinstance(operand, np.generic):
        return operand.item()
    if isinstance(operand, PLAIN):  # an IntEnum, say: what torch sees is the number
        base: Any = next(kind for kind in PLAIN if isinstance(operand, kind))
        return base(operand)
    raise NasirError(
        f"record: {where}: a {class_name(type(operand))} is neither a tensor nor data (numbers, strings, sequences, "
        "dicts, dataclasses); pass what the module needs of it, for outputs by call=lambda module, *args: ..."
    )


def decoded(tree: Tree, tensor: Callable[[int], Tensor], home: torch.device, batch: int, mode: Mode) -> Any:
    """The operand that a tree stands for, at a batch size, in a mode, on a device."""
    match tree:
        case Ref():
            return tensor(tree.number)
        case Switch():
            return decoded(tree.of(mode), tensor, home, batch, mode)
        case Batch():
            return tree.at(batch)
        case Symbol():
            return named(tree.name)
        case Device():
            return home if tree.name is None else torch.device(tree.name)
        case Structure():
            parts = {name: decoded(part, tensor, home, batch, mode) for name, part in tree.parts}
            if tree.kind == SLICE:
                return slice(*parts.values())
            kind: Any = named(tree.kind)
            return kind(*parts.values()) if issubclass(kind, tuple) else kind(**parts)
        case tuple():
            return tuple([decoded(part, tensor, home, batch, mode) for part in tree])
        case list():
            return [decoded(part, tensor, home, batch, mode) for part in tree]
        case dict():
            return {key: decoded(part, tensor, home, batch, mode) for key, part in tree.items()}
    return tree
