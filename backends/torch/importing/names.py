"""Names of what a recording calls: functions and methods of torch, ops of libraries, autograd functions."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import torch

from nasir.errors import NasirError

PLACES = (
    "torch.nn.functional",
    "torch",
    "torch.Tensor",
    "torch.linalg",
    "torch.fft",
    "torch.special",
    "torch._C._nn",
    "torch.functional",
)
"""Where functions are looked for, the best name first: one function often has several."""


@functools.cache
def _index() -> dict[int, tuple[Any, str]]:
    """Names of the functions of torch by the identity of the object; the object is held, so that it keeps its own."""
    found: dict[int, tuple[Any, str]] = {}
    for place in PLACES:
        owner = named(place)
        for name in dir(owner):
            thing = getattr(owner, name, None)
            if callable(thing) and not isinstance(thing, type):
                found.setdefault(id(thing), (thing, f"{place}.{name}"))
    return found


def name_of(function: Any) -> str:
    """The name by which `named` finds this very function; raises NasirError for one that has none."""
    known = _index().get(id(function))
    if known is not None and known[0] is function:
        return known[1]
    for name in _guesses(function):
        try:
            if _same(named(name), function):
                return name
        except NasirError:
            continue
    raise NasirError(
        f"record: {function!r:.80} cannot be found again by name; move it to the top level of a module that can be "
        "imported"
    )


def _guesses(function: Any) -> list[str]:
    owner = getattr(function, "__self__", None)
    own = getattr(function, "__name__", "")
    if type(owner).__name__ in ("getset_descriptor", "property") or isinstance(owner, property):
        attribute = getattr(owner, "__name__", None) or getattr(getattr(owner, "fget", None), "__name__", "")
        return [f"torch.Tensor.{attribute}.{own}"]
    if isinstance(function, torch._ops.OpOverload):
        return [f"torch.ops.{function!s}"]
    if isinstance(function, torch._ops.OpOverloadPacket):
        return [f"torch.ops.{str(function).replace('::', '.')}"]
    module = getattr(function, "__module__", None)
    qualified = getattr(function, "__qualname__", own)
    return [f"torch.Tensor.{own}", f"{module}.{qualified}"] if module else [f"torch.Tensor.{own}"]


def _same(one: Any, other: Any) -> bool:
    return bool(one is other or one == other)


@functools.cache
def named(name: str) -> Callable[..., Any]:
    """What a dotted name stands for; raises NasirError where there is nothing."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        try:
            found: Callable[..., Any] = functools.reduce(getattr, parts[length:], thing)
            return found
        except AttributeError:
            break
    raise NasirError(f"replay: nothing is called {name}; import the module that defines it first")


def class_name(kind: type) -> str:
    """`module.Class` of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"
