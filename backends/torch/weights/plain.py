"""State dicts as JSON beside named tensors, without pickle: what was stored comes back with its types."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasir.errors import CheckpointError, UsageError
from nasir.ir import JSON

_MAPPINGS: dict[str, type[Any]] = {"dict": dict, "OrderedDict": OrderedDict, "Counter": Counter}
_SEQUENCES: dict[str, type[Any]] = {"tuple": tuple, "set": set}


def packed(value: Any, tensors: dict[str, Tensor], path: str) -> JSON:
    """JSON of a value of numbers, texts, None, tensors, and lists, tuples, sets and dicts of these.

    Tensors go into `tensors` under names that begin with `path`. UsageError, naming the place, for anything else.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"type": "float", "value": repr(float(value))}
    if isinstance(value, torch.dtype):
        return {"type": "dtype", "value": str(value).removeprefix("torch.")}
    if isinstance(value, Tensor):
        if value.layout != torch.strided:
            raise UsageError(f"{path}: a tensor of layout {value.layout} cannot be stored; make it dense")
        tensors[path] = value
        return {"type": "tensor", "value": path}
    if type(value) is list:
        return [packed(item, tensors, f"{path}/{index}") for index, item in enumerate(value)]
    for name, kind in _SEQUENCES.items():
        if type(value) is kind or (kind is tuple and type(value) is torch.Size):
            items = [packed(item, tensors, f"{path}/{index}") for index, item in enumerate(value)]
            return {"type": name, "value": items}
    for name, kind in _MAPPINGS.items():
        if type(value) is kind:
            pairs = [
                [packed(key, tensors, f"{path} key"), packed(v, tensors, f"{path}/{key}")] for key, v in value.items()
            ]
            return {"type": name, "value": pairs}
    raise UsageError(
        f"{path}: {type(value).__name__} cannot be stored; numbers, texts, None, tensors, and lists, tuples, sets and "
        "dicts of these can"
    )


def unpacked(data: JSON, tensors: Mapping[str, Tensor]) -> Any:
    """Inverse of `packed`; CheckpointError for what it never wrote."""
    if isinstance(data, list):
        return [unpacked(item, tensors) for item in data]
    if not isinstance(data, dict):
        return data
    kind, value = data.get("type"), data.get("value")
    if kind == "float" and isinstance(value, str):
        return float(value)
    if kind == "dtype" and isinstance(found := getattr(torch, str(value), None), torch.dtype):
        return found
    if kind == "tensor" and value in tensors:
        return tensors[str(value)]
    if kind in _SEQUENCES and isinstance(value, list):
        return _SEQUENCES[str(kind)](unpacked(item, tensors) for item in value)
    if kind in _MAPPINGS and isinstance(value, list):
        return _MAPPINGS[str(kind)]({unpacked(key, tensors): unpacked(item, tensors) for key, item in value})
    raise CheckpointError(f"not a stored value: {data!r:.80}")
