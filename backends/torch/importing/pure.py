"""Calls that write into their operand, as calls that make a new tensor."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nasir.backends.torch.importing.names import named
from nasir.errors import NasirError
from nasir.importing.recording import Call
from nasir.importing.trees import leaves

CATEGORIES = (bool, int, float, complex)  # torch widens from left to right
TELLING_APART = frozenset(
    "eq ne lt le gt ge not_equal less less_equal greater greater_equal logical_and logical_or logical_xor "
    "logical_not".split()
)
"""Functions that make a tensor of bools, while writing in place keeps the dtype."""


def says_in_place(call: Call) -> bool:
    """Whether a call is one that writes into its first operand, even if it found nothing to change there."""
    if call.module is not None:
        return call.attributes.get("inplace") is True
    return (call.operation.endswith("_") and not call.operation.endswith("__")) or _option(call) is not None


def functional(call: Call, target: Tensor, others: Iterable[str]) -> Call:
    """The call without its write where torch has such a function (relu for relu_); else `in_place`.

    `target`: its first operand, whose dtype the result of a write keeps; `others`: the dtypes of all its operands.
    """
    option = _option(call)
    if option is not None:
        args, kwargs = list(call.args), dict(call.kwargs)
        if option < len(args):
            args[option] = False
        else:
            kwargs["inplace"] = False
        return replace(call, args=tuple(args), kwargs=kwargs)
    twin = call.operation[:-1]
    fits = call.module is None and call.operation.endswith("_") and not call.operation.endswith("__")
    if fits and not call.random and _exists(twin) and _keeps_dtype(call, target, others):
        return replace(call, operation=twin)
    return replace(call, in_place=True)


def _option(call: Call) -> int | None:
    """The position of an argument `inplace` that is true; None without one."""
    if call.module is not None:
        return None
    if call.kwargs.get("inplace") is True:
        return len(call.args)
    if True not in [leaf for _, leaf in leaves(call.args) if isinstance(leaf, bool)]:
        return None
    names = _parameters(named(call.operation))
    position = names.index("inplace") if "inplace" in names else len(call.args)
    return position if position < len(call.args) and call.args[position] is True else None


def _parameters(function: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _exists(name: str) -> bool:
    try:
        named(name)
    except NasirError:
        return False
    return True


def _keeps_dtype(call: Call, target: Tensor, others: Iterable[str]) -> bool:
    """Whether the function that makes a new tensor gives it the dtype of the target, too: nothing widens it."""
    if call.operation.rpartition(".")[2].rstrip("_") in TELLING_APART and target.dtype is not torch.bool:
        return False
    own = _category(target.dtype)
    wide = [dtype for dtype in (getattr(torch, name) for name in others) if dtype is not target.dtype]
    numbers = [leaf for _, leaf in leaves((call.args, dict(call.kwargs))) if type(leaf) in CATEGORIES]
    return all(_category(dtype) < own for dtype in wide) and all(CATEGORIES.index(type(n)) <= own for n in numbers)


def _category(dtype: torch.dtype) -> int:
    """The position in CATEGORIES of what a dtype holds."""
    if dtype.is_complex or dtype.is_floating_point:
        return 3 if dtype.is_complex else 2
    return 0 if dtype is torch.bool else 1
