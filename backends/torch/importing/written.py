"""Recorded calls as Python functions: what is the same at each call is worked out once."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

from nasir.backends.torch.importing.names import named
from nasir.backends.torch.importing.operands import decoded
from nasir.backends.torch.nested import tensors_in
from nasir.errors import NasirError
from nasir.importing.data import call_from_json
from nasir.importing.recording import SLICE, Batch, Call, Device, Ref, Structure, Switch, Tree
from nasir.importing.trees import leaves, parts_of, refs

Written = Callable[[tuple[Any, ...], bool, Callable[..., Any]], tuple[Any, ...]]
"""(inputs, training, what is called) -> the tensors that it gives."""


@lru_cache(4096)
def written(text: str, sized_by: int | None, rows: int) -> Written:
    """A function that makes the call of `call_to_json`. Its Batch is the length of the first axis of the input
    `sized_by`, divided by `rows`."""
    call = call_from_json(text)
    writer = _Writer()
    args = [writer.expression(part) for part in call.args]
    if call.in_place:
        args[0] = "first"
    args += [f"{name}={writer.expression(part)}" for name, part in call.kwargs.items()]
    lines = ["def run(x, training, f):"]
    if any(isinstance(leaf, Batch) for _, leaf in leaves((call.args, dict(call.kwargs)))):
        lines.append(f"    batch = x[{sized_by}].shape[0] // {rows}")
    if call.in_place:
        lines.append(f"    first = {writer.expression(call.args[0])}.clone()")
    around = [] if call.gradient else ["no_grad()"]
    if call.autocast is not None:
        around.append(f"autocast(x[0].device.type, {writer.constant(getattr(torch, call.autocast))})")
    if around:
        lines.append(f"    with {', '.join(around)}:")
    lines.append(f"    {'    ' if around else ''}made = f({', '.join(args)})")
    lines.append(f"    return {_results(call)}")
    scope: dict[str, Any] = {
        **writer.scope,
        **{"no_grad": torch.no_grad, "autocast": torch.autocast, "flat": _flat, "count": len(refs(call.result))},
        "operation": call.operation,
    }
    exec(compile("\n".join(lines), f"<{call.operation}>", "exec"), scope)
    run: Written = scope["run"]
    return run


def _results(call: Call) -> str:
    """The expression for the tuple of tensors that a call gives."""
    if call.in_place:
        return "(first,)"
    if isinstance(call.result, Ref):
        return "(made,)"
    return "flat(made, count, operation)"


def _flat(made: Any, count: int, operation: str) -> tuple[Any, ...]:
    tensors = tuple(tensors_in(made))
    if len(tensors) != count:
        raise NasirError(f"{operation} returned {len(tensors)} tensors, and {count} when it was imported")
    return tensors


class _Writer:
    """Expressions of operands; `scope` holds the constants in them by name."""

    def __init__(self) -> None:
        self.scope: dict[str, Any] = {}

    def constant(self, value: Any) -> str:
        name = f"c{len(self.scope)}"
        self.scope[name] = value
        return name

    def expression(self, tree: Tree) -> str:
        if isinstance(tree, Ref):
            return f"x[{tree.number}]"
        if isinstance(tree, Batch):
            return f"(batch * {tree.factor} + {tree.offset})"
        if isinstance(tree, Device) and tree.name is None:
            return "x[0].device"
        if isinstance(tree, Switch):
            return f"({self.expression(tree.train)} if training else {self.expression(tree.eval)})"
        parts = parts_of(tree)
        if parts is None or (not isinstance(tree, (list, dict)) and not _varies(tree)):
            return self.constant(decoded(tree, _no_tensor, torch.device("cpu"), 1, "eval"))
        inner = [self.expression(part) for _, part in parts]
        if isinstance(tree, Structure):
            kind = slice if tree.kind == SLICE else named(tree.kind)
            by_name = tree.kind != SLICE and not issubclass(kind, tuple)  # type: ignore[arg-type]
            given = [f"{name}={text}" if by_name else text for (name, _), text in zip(parts, inner, strict=True)]
            return f"{self.constant(kind)}({', '.join(given)})"
        if isinstance(tree, dict):
            return "{" + ", ".join([f"{key!r}: {text}" for key, text in zip(tree, inner, strict=True)]) + "}"
        return f"[{', '.join(inner)}]" if isinstance(tree, list) else f"({''.join([f'{text}, ' for text in inner])})"


def _varies(tree: Tree) -> bool:
    """Whether it is another object at each call: a container that may be written to, or something with a tensor, a
    batch size, a device or a mode in it."""
    if isinstance(tree, (Ref, Batch, Switch, list, dict)) or (isinstance(tree, Device) and tree.name is None):
        return True
    return any(_varies(part) for _, part in parts_of(tree) or ())


def _no_tensor(number: int) -> Any:
    raise AssertionError(number)
