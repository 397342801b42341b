"""Calls of functions that nasir has no rule for, and the weights that they use, as modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import get_overridable_functions

from nasir.backends.torch.importing.names import named
from nasir.backends.torch.importing.replaying import carry_out
from nasir.backends.torch.lower.ops import Lowered, lowering
from nasir.errors import RunError
from nasir.importing.data import call_from_json
from nasir.importing.recording import Call as Recorded
from nasir.importing.trees import refs
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
    """One recorded call of a function, in the mode of this module; a batch of any size."""

    def __init__(self, call: Recorded, inputs: tuple[ValueType, ...], check: bool = True) -> None:
        super().__init__()
        if check and call.operation not in ALLOWED and not _computes(call.operation):
            raise RunError(
                f"{call.operation}: no function of torch that computes with tensors, and it was not recorded in this "
                "process; import the network again from the module that it was made of"
            )
        self.call = call
        self.results = refs(call.result)
        batched = [(number, value) for number, value in enumerate(inputs) if value.batch]
        self.first: int | None = batched[0][0] if batched else None
        self.rows = batched[0][1].batch if batched else 1
        self.leaf: nn.Module | None = None

    @classmethod
    def of_leaf(cls, call: Recorded, inputs: tuple[ValueType, ...], leaf: nn.Module) -> OpaqueCall:
        """A call of a module, whose parameters, buffers and modules are this one's, under their names."""
        made = cls(replace(call, module=""), inputs, check=False)
        made.__dict__.update({name: leaf.__dict__[name] for name in ("_parameters", "_buffers", "_modules")})
        made.__dict__["leaf"] = leaf  # no child: it would be there twice
        made.training = leaf.training
        return made

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        tensors = dict(enumerate(inputs))
        if self.leaf is not None:
            self.leaf.training = self.training
        batch = 1 if self.first is None else inputs[self.first].shape[0] // self.rows
        home = inputs[0].device if inputs else torch.device("cpu")
        carry_out(self.call, tensors, home, batch, "train" if self.training else "eval", self.leaf)
        return tuple([tensors[number] for number in self.results])

    def extra_repr(self) -> str:
        return self.call.operation


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
    call: Any = call_from_json(a["call"])
    if call.module is not None:
        raise RunError(f"{a['runs']}: a module of yours, which is not at hand; import the network again from it")
    return OpaqueCall(replace(call, module=None), x)
