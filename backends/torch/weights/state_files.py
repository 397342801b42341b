"""State dicts in files: safetensors, or what `torch.save` writes, read without running any code in them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from nasir.errors import WeightsError

UNREADABLE = (SafetensorError, RuntimeError, ValueError, EOFError, KeyError, TypeError, pickle.UnpicklingError)


def read_state(place: str, file: Path) -> Mapping[str, Tensor]:
    """The tensors of a file by name, on the CPU; raises WeightsError, which begins with `place`, for anything else."""
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        stored = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"{place}: cannot be read ({error.strerror or error}); correct the path") from error
    except UNREADABLE as error:
        remedy = "write it with torch.save(model.state_dict(), FILE), or safetensors.torch.save_file"
        raise WeightsError(f"{place}: holds no state_dict ({_first_line(error)}); {remedy}") from error
    if not names_tensors(stored):
        held = ", ".join(map(repr, list(stored)[:4])) if isinstance(stored, Mapping) else f"a {type(stored).__name__}"
        raise WeightsError(f"{place}: holds {held}, not tensors by name; store the state_dict alone")
    return stored  # type: ignore[no-any-return]


def names_tensors(state: Any) -> bool:
    """Whether it is a mapping of names to tensors."""
    return isinstance(state, Mapping) and all(isinstance(n, str) and isinstance(t, Tensor) for n, t in state.items())


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]:.200}"
