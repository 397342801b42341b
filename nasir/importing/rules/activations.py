"""Functions of one number, element by element, and softmax."""

from __future__ import annotations

from nasir.importing.rules.place import Operand, Place, Typed, is_number, plain, rule
from nasir.ir import ValueType


def named(*functions: str, kind: str = "") -> tuple[str, ...]:
    """Names of operations: the class `kind` of torch.nn, and functions as `torch.nn.functional` ("F.x"), `torch` and
    methods of tensors ("x") have them."""
    found = [f"torch.nn.modules.activation.{kind}"] if kind else []
    for function in functions:
        if function.startswith("F."):
            found.append(f"torch.nn.functional.{function[2:]}")
        else:
            found += [f"torch.{function}", f"torch.Tensor.{function}"]
    return tuple(found)


plain("relu", *named("F.relu", "relu", kind="ReLU"))
plain("relu6", *named("F.relu6", kind="ReLU6"))
plain("leaky_relu", *named("F.leaky_relu", kind="LeakyReLU"), slope=Operand(1, "negative_slope", 0.01))
plain("elu", *named("F.elu", kind="ELU"), alpha=Operand(1, "alpha", 1.0))
plain("celu", *named("F.celu", "celu", kind="CELU"), alpha=Operand(1, "alpha", 1.0))
plain("selu", *named("F.selu", "selu", kind="SELU"))
plain(
    "hardtanh",
    *named("F.hardtanh", kind="Hardtanh"),
    low=Operand(1, "min_val", -1.0),
    high=Operand(2, "max_val", 1.0),
)
plain("clamp", *named("clamp", "clip"), low=Operand(1, "min"), high=Operand(2, "max"))
plain("clamp", *named("clamp_min"), low=Operand(1, "min"))
plain("clamp", *named("clamp_max"), high=Operand(1, "max"))
plain("abs", *named("abs", "absolute", "__abs__"))
plain(
    "gelu", *named("F.gelu", kind="GELU"), "timm.layers.activations.GELU", approximate=Operand(1, "approximate", "none")
)
plain("quick_gelu", "timm.layers.activations.QuickGELU", "transformers.activations.QuickGELUActivation")
plain("sigmoid", *named("sigmoid", "F.sigmoid", kind="Sigmoid"))
plain("logsigmoid", *named("F.logsigmoid", kind="LogSigmoid"))
plain("silu", *named("F.silu", kind="SiLU"))
plain("mish", *named("F.mish", kind="Mish"))
plain("hardsigmoid", *named("F.hardsigmoid", kind="Hardsigmoid"))
plain("hardswish", *named("F.hardswish", kind="Hardswish"))
plain(
    "softplus",
    *named("F.softplus", kind="Softplus"),
    beta=Operand(1, "beta", 1.0),
    threshold=Operand(2, "threshold", 20.0),
)
plain("softsign", *named("F.softsign", kind="Softsign"))
plain("tanh", *named("tanh", "F.tanh", kind="Tanh"))
plain("exp", *named("exp"))
plain("log", *named("log"))
plain("sqrt", *named("sqrt"))
plain("rsqrt", *named("rsqrt"))
plain("reciprocal", *named("reciprocal"))
plain("sin", *named("sin"))
plain("cos", *named("cos"))
plain("erf", *named("erf"))
plain("identity", "torch.nn.modules.linear.Identity")


@rule("timm.layers.activations.GELUTanh")
def _gelu_by_tanh(place: Place, x: int, value: ValueType) -> Typed | None:
    return Typed("gelu", (x,), {"approximate": "tanh"})


@rule(*named("pow", "__pow__", "__ipow__"))
def _pow(place: Place, x: int, value: ValueType) -> Typed | None:
    exponent = place.given(1, "exponent", None)
    return Typed("pow", (x,), {"exponent": float(exponent)}) if is_number(exponent) else None


@rule(*named("square"))
def _square(place: Place, x: int, value: ValueType) -> Typed | None:
    return Typed("pow", (x,), {"exponent": 2.0})


@rule("torch.nn.modules.activation.PReLU")
def _prelu(place: Place, x: int, value: ValueType) -> Typed | None:
    several = place.call.attributes["num_parameters"] > 1
    if several and value.channel_axis != 0:
        return None
    return Typed("prelu", (x,), {"per_channel": several})


@rule(*named("softmax", "F.softmax", kind="Softmax"))
def _softmax(place: Place, x: int, value: ValueType) -> Typed | None:
    return _shares("softmax", place, x, value)


@rule(*named("log_softmax", "F.log_softmax", kind="LogSoftmax"))
def _log_softmax(place: Place, x: int, value: ValueType) -> Typed | None:
    return _shares("log_softmax", place, x, value)


def _shares(op: str, place: Place, x: int, value: ValueType) -> Typed | None:
    """Over an axis that is not the batch; `dtype` would make other numbers of the input first."""
    axis = Operand(1, "dim").of(place)
    typed = place.call.kwargs.get("dtype") is not None or len(place.call.args) > 2
    if typed or type(axis) is not int or not axis % (len(value.shape) + 1):
        return None
    number = axis % (len(value.shape) + 1) - 1
    return Typed(op, (x,), {"axis": None if number == value.channel_axis else number})


@rule("torch.nn.modules.activation.Softmax2d")
def _softmax_of_images(place: Place, x: int, value: ValueType) -> Typed | None:
    return Typed("softmax", (x,), {"axis": None if value.channel_axis == 0 else 0}) if len(value.shape) == 3 else None
