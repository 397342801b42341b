"""Calls of functions that nasir has no rule for, and the weights that they use, as modules."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import get_overridable_functions

from nasir.backends.torch.importing.names import named
from nasir.backends.torch.importing.written import written
from nasir.backends.torch.lower.ops import Lowered, lowering
from nasir.errors import RunError
from nasir.importing.data import call_from_json
from nasir.importing.recording import Call as Recorded
from nasir.importing.trees import names_in
from nasir.ir import JSON, ValueType

ALLOWED: set[str] = set()
"""Functions that were recorded in this process; of others only those of torch that compute with tensors are called."""


class Weight(nn.Module):
    """A weight as a value."""

    def __init__(self, tensor: Tensor, learned: bool, stored: bool) -> None:
        super().__init__()
        if learned:
            self.register_parameter("value", tensor)  # type: ignore[arg-type]
        else:
            self.register_buffer("value", tensor, persistent=stored)

    def forward(self) -> Tensor:
        return self.value  # type: ignore[return-value]


class OpaqueCall(nn.Module):
    """One recorded call, in the mode of this module; a batch of any size.

    `attrs`: those of an opaque node, `inputs`: the types of its inputs. With a `leaf`, it is a call of that module,
    whose parameters, buffers and modules are this one's, under their names.
    """

    def __init__(self, attrs: Mapping[str, JSON], inputs: tuple[ValueType, ...], leaf: nn.Module | None = None) -> None:
        super().__init__()
        call, sized_by = call_from_json(attrs["call"]), attrs["sized_by"]
        if leaf is None:
            _check(call)
        self.how = (attrs["call"], sized_by, 1 if sized_by is None else inputs[sized_by].batch)
        self.operation = call.operation
        self.target = named(call.operation) if leaf is None else None
        self.leaf: nn.Module | None = None
        if leaf is not None:
            self.__dict__.update({name: leaf.__dict__[name] for name in ("_parameters", "_buffers", "_modules")})
            self.__dict__["leaf"] = leaf  # no child: it would be there twice
            self.training = leaf.training
        self.run = written(*self.how)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "run"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.run = written(*self.how)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        leaf = self.leaf
        if leaf is None:
            return self.run(inputs, self.training, self.target)  # type: ignore[arg-type]
        leaf.training = self.training
        return self.run(inputs, self.training, leaf.forward)

    def extra_repr(self) -> str:
        return self.operation


def _check(call: Recorded) -> None:
    """RunError for a call that names anything but what computes with tensors: a graph may come from a file."""
    named_in = [call.operation, *names_in((call.args, dict(call.kwargs)))]
    for position, name in enumerate(named_in):
        if name not in ALLOWED and not (_computes(name) if position == 0 else _is_data(name)):
            raise RunError(
                f"{name}: no function of torch that computes with tensors, and it was not recorded in this process; "
                "import the network again from the module that it was made of"
            )


def _is_data(name: str) -> bool:
    return name.startswith("torch.") and isinstance(named(name), (torch.dtype, torch.layout, torch.memory_format))


@cache
def _functions() -> frozenset[int]:
    return frozenset(id(function) for functions in get_overridable_functions().values() for function in functions)


def _computes(name: str) -> bool:
    return name.startswith("torch.") and id(named(name)) in _functions()


@lowering("parameter")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    empty = torch.empty(a["shape"], dtype=getattr(torch, a["dtype"]))
    value = nn.Parameter(empty, empty.is_floating_point()) if a["learned"] else empty
    return Weight(value, a["learned"], a["stored"])


@lowering("opaque")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    if a["live"]:
        raise RunError(
            f"{a['runs']}: a module of yours, which is not at hand; import it again (from_module, or --import)"
        )
    return OpaqueCall(a, x)
