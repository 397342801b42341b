"""Which recorded calls are ops of nasir: a rule for each operation gives the node's op and attributes, or None.

A rule is asked for calls whose tensors all have the batch as their first axis. What no rule takes becomes an opaque
node, so a rule refuses (None) whatever it does not say exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from nasir.importing.recording import Batch, Call, Ref, Switch, Tree
from nasir.ir import JSON, ValueType


@dataclass(frozen=True, slots=True)
class Typed:
    """The op that a call is, its attributes, and which of its operands are the inputs, by number of the value."""

    op: str
    inputs: tuple[int, ...]
    attrs: Mapping[str, JSON]


@dataclass(frozen=True, slots=True)
class Place:
    """What a rule sees: the call, the types of values so far, and the names of the leaf's parameters and buffers."""

    call: Call
    types: Callable[[int], ValueType]
    weights: frozenset[str]

    @property
    def first(self) -> int | None:
        """Number of the first operand, if that is a tensor."""
        operand = self.call.args[0] if self.call.args else self.call.kwargs.get("input")
        return operand.number if isinstance(operand, Ref) else None

    def given(self, position: int, name: str, default: Tree) -> Tree:
        """An operand by its position or name."""
        args = self.call.args
        return args[position] if len(args) > position else self.call.kwargs.get(name, default)


Rule: TypeAlias = Callable[[Place, int, ValueType], Typed | None]
RULES: dict[str, Rule] = {}


def rule(*operations: str) -> Callable[[Rule], Rule]:
    """Register `function(place, x, type)` for operations with one tensor `x` as their first operand."""

    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(operations, function))
        return function

    return add


def typed(place: Place) -> Typed | None:
    """The op of a call; None where no rule takes it."""
    found = RULES.get(place.call.operation)
    first = place.first
    if found is None or first is None or not place.call.gradient or place.call.autocast is not None:
        return None
    return found(place, first, place.types(first))


def _plain(op: str, *operations: str) -> None:
    """Operations that are an op without attributes; another operand than `inplace` makes it something else."""

    @rule(*operations)
    def take(place: Place, x: int, value: ValueType) -> Typed | None:
        odd = len(place.call.args) > 1 or place.call.kwargs.keys() - {"input", "inplace"}
        return None if odd else Typed(op, (x,), {})


_plain("relu", "torch.nn.modules.activation.ReLU", "torch.nn.functional.relu", "torch.relu", "torch.Tensor.relu")
_plain("silu", "torch.nn.modules.activation.SiLU", "torch.nn.functional.silu")
_plain("sigmoid", "torch.nn.modules.activation.Sigmoid", "torch.sigmoid", "torch.Tensor.sigmoid")
_plain("hardswish", "torch.nn.modules.activation.Hardswish", "torch.nn.functional.hardswish")
_plain("hardsigmoid", "torch.nn.modules.activation.Hardsigmoid", "torch.nn.functional.hardsigmoid")
_plain("identity", "torch.nn.modules.linear.Identity", "torch.Tensor.contiguous")


@rule("torch.nn.modules.activation.GELU", "torch.nn.functional.gelu")
def _gelu(place: Place, x: int, value: ValueType) -> Typed | None:
    how = place.call.attributes.get("approximate", place.given(1, "approximate", "none"))
    return Typed("gelu", (x,), {}) if how == "none" else None


@rule("torch.nn.modules.conv.Conv2d")
def _conv2d(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    if not value.is_image or a["padding_mode"] != "zeros":
        return None
    padding = a["padding"]
    if padding == "valid":
        padding = (0, 0)
    elif padding == "same":
        spans = [step * (size - 1) for step, size in zip(a["dilation"], a["kernel_size"], strict=True)]
        if any(span % 2 for span in spans):
            return None
        padding = tuple([span // 2 for span in spans])
    attrs = {
        "out": a["out_channels"],
        "kernel": a["kernel_size"],
        "stride": a["stride"],
        "padding": padding,
        "dilation": a["dilation"],
        "groups": a["groups"],
        "bias": "bias" in place.weights,
    }
    return Typed("conv2d", (x,), attrs)


@rule("torch.nn.modules.linear.Linear")
def _linear(place: Place, x: int, value: ValueType) -> Typed | None:
    if not value.channels_last:
        return None
    return Typed("linear", (x,), {"out": place.call.attributes["out_features"], "bias": "bias" in place.weights})


BATCH_NORMS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


@rule(*[f"torch.nn.modules.batchnorm.BatchNorm{n}d" for n in (1, 2, 3)])
def _batch_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    if value.channel_axis != 0 or place.weights != set(BATCH_NORMS):
        return None
    a = place.call.attributes
    return Typed("batch_norm", (x,), {"eps": a["eps"], "momentum": a["momentum"]})


@rule("torch.nn.modules.normalization.LayerNorm")
def _layer_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    if not value.channels_last or len(a["normalized_shape"]) != 1 or place.weights != {"weight", "bias"}:
        return None
    return Typed("layer_norm", (x,), {"eps": a["eps"]})


@rule("torch.nn.modules.normalization.GroupNorm")
def _group_norm(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    if value.channel_axis != 0 or place.weights != {"weight", "bias"}:
        return None
    return Typed("group_norm", (x,), {"groups": a["num_groups"], "eps": a["eps"]})


@rule("torch.nn.modules.dropout.Dropout")
def _dropout(place: Place, x: int, value: ValueType) -> Typed | None:
    p = place.call.attributes["p"]
    return Typed("dropout", (x,), {"p": p}) if p < 1 else None


@rule("torch.nn.functional.dropout")
def _functional_dropout(place: Place, x: int, value: ValueType) -> Typed | None:
    p, training = place.given(1, "p", 0.5), place.given(2, "training", True)
    if training != Switch(False, True) or not isinstance(p, float | int) or p >= 1:
        return None
    return Typed("dropout", (x,), {"p": p})


@rule("torchvision.ops.stochastic_depth.StochasticDepth")
def _stochastic_depth(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    return Typed("stochastic_depth", (x,), {"p": a["p"], "mode": a["mode"]})


@rule("torch.nn.modules.pooling.MaxPool2d")
def _max_pool(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    if not value.is_image or a["ceil_mode"] or a["return_indices"] or _pair(a["dilation"]) != (1, 1):
        return None
    return _pool("max_pool", a, x)


@rule("torch.nn.modules.pooling.AvgPool2d")
def _avg_pool(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    uncounted = not a["count_include_pad"] and _pair(a["padding"]) != (0, 0)
    if not value.is_image or a["ceil_mode"] or uncounted or a["divisor_override"] is not None:
        return None
    return _pool("avg_pool", a, x)


def _pool(op: str, a: Mapping[str, Any], x: int) -> Typed:
    attrs = {"kernel": a["kernel_size"], "stride": a["stride"], "padding": a["padding"]}
    return Typed(op, (x,), attrs)


@rule("torch.nn.modules.pooling.AdaptiveAvgPool2d", "torch.nn.functional.adaptive_avg_pool2d")
def _adaptive_avg_pool(place: Place, x: int, value: ValueType) -> Typed | None:
    size = place.call.attributes.get("output_size", place.given(1, "output_size", None))
    if not value.is_image or size is None:
        return None
    wanted = [whole if part is None else part for part, whole in zip(_pair(size), value.shape[1:], strict=True)]
    return Typed("adaptive_avg_pool", (x,), {"size": wanted})


@rule("torch.nn.modules.flatten.Flatten")
def _flatten_module(place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.call.attributes
    return Typed("flatten", (x,), {}) if a["start_dim"] == 1 and a["end_dim"] in (-1, len(value.shape)) else None


@rule("torch.flatten", "torch.Tensor.flatten")
def _flatten(place: Place, x: int, value: ValueType) -> Typed | None:
    start, end = place.given(1, "start_dim", 0), place.given(2, "end_dim", -1)
    return Typed("flatten", (x,), {}) if start == 1 and end in (-1, len(value.shape)) else None


@rule("torch.Tensor.view", "torch.Tensor.reshape", "torch.reshape")
def _flattened(place: Place, x: int, value: ValueType) -> Typed | None:
    """A view of each sample as one row; other ones have no op that says exactly what they do."""
    sizes = place.call.args[1:]
    if len(sizes) == 1 and isinstance(sizes[0], tuple | list):
        sizes = tuple(sizes[0])
    return Typed("flatten", (x,), {}) if len(sizes) == 2 and sizes[0] == Batch(1) and value.batch == 1 else None


@rule("torch.Tensor.mean", "torch.mean")
def _mean(place: Place, x: int, value: ValueType) -> Typed | None:
    axes = place.given(1, "dim", None)
    if not value.is_image or place.given(2, "keepdim", False) or "dtype" in place.call.kwargs:
        return None
    wanted = sorted(axis % 4 for axis in axes) if isinstance(axes, tuple | list) else None
    return Typed("global_avg_pool", (x,), {}) if wanted == [2, 3] else None


@rule("torch.Tensor.permute", "torch.permute")
def _permute(place: Place, x: int, value: ValueType) -> Typed | None:
    axes = place.call.args[1:] or (place.call.kwargs.get("dims", ()),)
    order = list(axes[0]) if len(axes) == 1 and isinstance(axes[0], tuple | list) else list(axes)
    return _ordered(x, value, [axis % (len(value.shape) + 1) for axis in order])


@rule("torch.transpose", "torch.Tensor.transpose", "torch.Tensor.swapaxes", "torch.swapaxes")
def _transpose(place: Place, x: int, value: ValueType) -> Typed | None:
    count = len(value.shape) + 1
    order = list(range(count))
    a, b = place.given(1, "dim0", None), place.given(2, "dim1", None)
    if not isinstance(a, int) or not isinstance(b, int):
        return None
    order[a % count], order[b % count] = order[b % count], order[a % count]
    return _ordered(x, value, order)


def _ordered(x: int, value: ValueType, order: list[int]) -> Typed | None:
    if order[:1] != [0] or len(order) != len(value.shape) + 1:
        return None
    return Typed("permute", (x,), {"order": [axis - 1 for axis in order[1:]]})


@rule("torch.chunk", "torch.Tensor.chunk")
def _chunk(place: Place, x: int, value: ValueType) -> Typed | None:
    count, axis = place.given(1, "chunks", None), place.given(2, "dim", 0)
    if not isinstance(count, int) or not _is_channels(axis, value):
        return None
    size = value.shape[value.channel_axis]
    part = -(-size // count)
    return _split(x, [part] * (size // part) + ([size % part] if size % part else []))


@rule("torch.split", "torch.Tensor.split", "torch.functional.split")
def _parts(place: Place, x: int, value: ValueType) -> Typed | None:
    sizes, axis = (
        place.given(1, "split_size_or_sections", place.call.kwargs.get("split_size")),
        place.given(2, "dim", 0),
    )
    if not _is_channels(axis, value):
        return None
    if isinstance(sizes, int):
        size = value.shape[value.channel_axis]
        sizes = [sizes] * (size // sizes) + ([size % sizes] if size % sizes else [])
    return _split(x, list(sizes)) if isinstance(sizes, tuple | list) and all(type(n) is int for n in sizes) else None


def _split(x: int, sizes: list[int]) -> Typed | None:
    return Typed("split", (x,), {"sizes": sizes}) if min(sizes) > 0 else None


def _is_channels(axis: Tree, value: ValueType) -> bool:
    return isinstance(axis, int) and axis % (len(value.shape) + 1) == value.channel_axis + 1


CONCATENATIONS = ("torch.cat", "torch.concat", "torch.concatenate")


def joined(place: Place) -> Typed | None:
    """A concatenation along the channels."""
    if place.call.operation not in CONCATENATIONS:  # whose first operand is a list
        return None
    parts, axis = place.given(0, "tensors", ()), place.given(1, "dim", 0)
    if not isinstance(parts, tuple | list) or not all(isinstance(part, Ref) for part in parts) or not parts:
        return None
    types = [place.types(part.number) for part in parts]
    first = types[0]
    dims = len(first.shape) + 1
    alike = all(len(t.shape) + 1 == dims and t.channel_axis == first.channel_axis for t in types)
    if not alike or not isinstance(axis, int) or axis % dims != first.channel_axis + 1:
        return None
    return Typed("concat", tuple([part.number for part in parts]), {})


@rule("torch.Tensor.add", "torch.add", "operator.add")
def _add(place: Place, x: int, value: ValueType) -> Typed | None:
    return _of_two("add", place, x, value)


@rule("torch.Tensor.mul", "torch.mul", "operator.mul")
def _mul(place: Place, x: int, value: ValueType) -> Typed | None:
    return _of_two("mul", place, x, value)


def _of_two(op: str, place: Place, x: int, value: ValueType) -> Typed | None:
    other = place.given(1, "other", None)
    if not isinstance(other, Ref) or len(place.call.args) > 2 or place.call.kwargs.keys() - {"other"}:
        return None
    second = place.types(other.number)
    fits = len(second.shape) == len(value.shape) and second.channel_axis == value.channel_axis
    if not fits or any(a != b and 1 not in (a, b) for a, b in zip(value.shape, second.shape, strict=True)):
        return None
    return Typed(op, (x, other.number), {})


def _pair(value: Any) -> tuple[Any, Any]:
    first, second = value if isinstance(value, tuple | list) else (value, value)
    return first, second
