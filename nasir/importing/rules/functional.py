"""Functions of torch that take the weights of a layer as operands: they are what the rule of that layer says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from nasir.importing.recording import Ref, Switch, Tree
from nasir.importing.rules.place import RULES, Place, Typed, is_number, rule
from nasir.ir import ValueType

Given: TypeAlias = Mapping[str, Tree]  # operands by name
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]  # of the weights that are given, by name
Attributes: TypeAlias = Callable[[Given, Shapes], Mapping[str, Any] | None]


def layer(function: str, like: str, weights: tuple[str, ...], **operands: Tree) -> Callable[[Attributes], Attributes]:
    """A function that computes what a layer of the class `like` does, with the weights that it is given.

    `operands`: those behind the input, in their order, with their defaults; `weights`: which of them are weights, which
    the op of the layer calls by the same names. What is decorated gives the attributes of such a layer; None: there is
    none.
    """

    def add(attributes: Attributes) -> Attributes:
        @rule(function)
        def take(place: Place, x: int, value: ValueType) -> Typed | None:
            given = {
                name: place.given(number, name, default) for number, (name, default) in enumerate(operands.items(), 1)
            }
            held = {name: given[name] for name in weights if given[name] is not None}
            if not all(isinstance(weight, Ref) for weight in held.values()):
                return None
            numbers = {name: weight.number for name, weight in held.items()}
            made = attributes(given, {name: place.types(number).shape for name, number in numbers.items()})
            if made is None or like not in RULES:
                return None
            call = replace(place.call, operation=like, attributes=made, args=(Ref(x),), kwargs={})
            found = RULES[like](Place(call, place.types, frozenset(numbers)), x, value)
            return None if found is None else replace(found, weights=numbers)

        return attributes

    return add


AFFINE = ("weight", "bias")
F = "torch.nn.functional"
NN = "torch.nn.modules"


def _sizes(value: Tree, count: int) -> Tree:
    """A size for each axis of a window, as layers keep it."""
    if not isinstance(value, tuple | list):
        return (value,) * count if isinstance(value, int) else value
    return tuple(value) * count if len(value) == 1 else tuple(value)


def _convolution(axes: int, transposed: bool) -> Attributes:
    def attributes(given: Given, shapes: Shapes) -> Mapping[str, Any] | None:
        if "weight" not in shapes:
            return None
        first, second, *kernel = shapes["weight"]
        groups = given["groups"]
        read, written = (first, second * groups) if transposed else (second * groups, first)
        sizes = {name: _sizes(given.get(name, 0), axes) for name in ("stride", "padding", "dilation", "output_padding")}
        channels = {"in_channels": read, "out_channels": written, "kernel_size": tuple(kernel), "groups": groups}
        return {**sizes, **channels, "padding_mode": "zeros", "transposed": transposed}

    return attributes


for _axes in (1, 2, 3):
    _window = {"stride": 1, "padding": 0}
    layer(
        f"{F}.conv{_axes}d", f"{NN}.conv.Conv{_axes}d", AFFINE, weight=None, bias=None, **_window, dilation=1, groups=1
    )(_convolution(_axes, transposed=False))
    _window["output_padding"] = 0
    layer(
        f"{F}.conv_transpose{_axes}d",
        f"{NN}.conv.ConvTranspose{_axes}d",
        AFFINE,
        weight=None,
        bias=None,
        **_window,
        groups=1,
        dilation=1,
    )(_convolution(_axes, transposed=True))


@layer(f"{F}.linear", f"{NN}.linear.Linear", AFFINE, weight=None, bias=None)
def _linear(given: Given, shapes: Shapes) -> Mapping[str, Any] | None:
    weight = shapes.get("weight", ())
    return {"out_features": weight[0], "in_features": weight[1]} if len(weight) == 2 else None


@layer(
    f"{F}.layer_norm", f"{NN}.normalization.LayerNorm", AFFINE, normalized_shape=(), weight=None, bias=None, eps=1e-5
)
def _layer_norm(given: Given, shapes: Shapes) -> Mapping[str, Any] | None:
    return {"normalized_shape": tuple(given["normalized_shape"]), "eps": given["eps"]}


@layer(f"{F}.rms_norm", f"{NN}.normalization.RMSNorm", ("weight",), normalized_shape=(), weight=None, eps=None)
def _rms_norm(given: Given, shapes: Shapes) -> Mapping[str, Any] | None:
    return {"normalized_shape": tuple(given["normalized_shape"]), "eps": given["eps"]}


@layer(f"{F}.group_norm", f"{NN}.normalization.GroupNorm", AFFINE, num_groups=0, weight=None, bias=None, eps=1e-5)
def _group_norm(given: Given, shapes: Shapes) -> Mapping[str, Any] | None:
    return {"num_groups": given["num_groups"], "eps": given["eps"]}


@layer(
    f"{F}.batch_norm",
    f"{NN}.batchnorm.BatchNorm2d",
    ("running_mean", "running_var", *AFFINE),
    running_mean=None,
    running_var=None,
    weight=None,
    bias=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
)
def _batch_norm(given: Given, shapes: Shapes) -> Mapping[str, Any] | None:
    # by the statistics of the batch in training alone, or where it has no others at all times
    at_times = Switch(False, True) if "running_mean" in shapes else True
    if given["training"] != at_times or not is_number(given["momentum"]):
        return None
    return {"eps": given["eps"], "momentum": given["momentum"]}


@layer(
    f"{F}.instance_norm",
    f"{NN}.instancenorm._InstanceNorm",
    AFFINE,
    running_mean=None,
    running_var=None,
    weight=None,
    bias=None,
    use_input_stats=True,
    momentum=0.1,
    eps=1e-5,
)
def _instance_norm(given: Given, shapes: Shapes) -> Mapping[str, Any] | None:
    if given["running_mean"] is not None or given["running_var"] is not None or given["use_input_stats"] is not True:
        return None
    return {"eps": given["eps"], "momentum": given["momentum"]}


@layer(
    f"{F}.embedding",
    f"{NN}.sparse.Embedding",
    ("weight",),
    weight=None,
    padding_idx=None,
    max_norm=None,
    norm_type=2.0,
    scale_grad_by_freq=False,
    sparse=False,
)
def _embedding(given: Given, shapes: Shapes) -> Mapping[str, Any] | None:
    if len(shapes.get("weight", ())) != 2:
        return None
    count, channels = shapes["weight"]
    padding = given["padding_idx"]
    sizes = {"num_embeddings": count, "embedding_dim": channels}
    sizes |= {"padding_idx": padding + count if padding is not None and padding < 0 else padding}
    return {**sizes, **{name: given[name] for name in ("max_norm", "scale_grad_by_freq", "sparse")}}


@layer(f"{F}.prelu", f"{NN}.activation.PReLU", ("weight",), weight=None)
def _prelu(given: Given, shapes: Shapes) -> Mapping[str, Any] | None:
    weight = shapes.get("weight", ())
    return {"num_parameters": weight[0]} if len(weight) == 1 else None
