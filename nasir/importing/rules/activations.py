"""Activations."""

from __future__ import annotations

from nasir.importing.rules.place import Place, Typed, plain, rule
from nasir.ir import ValueType

plain("relu", "torch.nn.modules.activation.ReLU", "torch.nn.functional.relu", "torch.relu", "torch.Tensor.relu")
plain("silu", "torch.nn.modules.activation.SiLU", "torch.nn.functional.silu")
plain("sigmoid", "torch.nn.modules.activation.Sigmoid", "torch.sigmoid", "torch.Tensor.sigmoid")
plain("hardswish", "torch.nn.modules.activation.Hardswish", "torch.nn.functional.hardswish")
plain("hardsigmoid", "torch.nn.modules.activation.Hardsigmoid", "torch.nn.functional.hardsigmoid")
plain("identity", "torch.nn.modules.linear.Identity", "torch.Tensor.contiguous")


@rule("torch.nn.modules.activation.GELU", "torch.nn.functional.gelu")
def _gelu(place: Place, x: int, value: ValueType) -> Typed | None:
    how = place.call.attributes.get("approximate", place.given(1, "approximate", "none"))
    return Typed("gelu", (x,), {}) if how == "none" else None
