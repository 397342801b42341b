"""Leaf modules: those that are recorded as one call, whatever they do inside."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from nasir.backends.torch.importing.names import class_name
from nasir.importing import extending
from nasir.importing.recording import Structure

LEAVES = (
    "torchvision.ops.stochastic_depth.StochasticDepth",
    "torchvision.ops.misc.FrozenBatchNorm2d",
    "torchvision.models.convnext.LayerNorm2d",
    "timm.layers.activations.QuickGELU",
    "timm.layers.drop.DropPath",
    "timm.layers.drop.DropBlock2d",
    "timm.layers.norm_act.*BatchNorm*Act*",  # they count batches in train mode only, and hold dropout and activation
    "timm.layers.grn.GlobalResponseNorm",
    "timm.layers.norm.LayerNorm2d",
    "timm.layers.frozen_bn.FrozenBatchNorm*",
    "timm.layers.std_conv.*StdConv2d*",
    "transformers.activations.QuickGELUActivation",
    "transformers.models.*DropPath",
    "transformers.models.*DropPath1d",
)
"""Classes of other libraries, as patterns of module.Class, so that none is imported for the question."""

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
HAS_OWN_MODULES = (nn.MultiheadAttention,)  # of torch.nn, with modules in it that it does not call
HARMLESS = ("extra_repr", "reset_parameters", "_init_weights")
CALLING = ("__call__", "__getattr__", "__getattribute__")


def is_leaf(module: nn.Module, leaves: Collection[type[nn.Module]] = ()) -> bool:
    """Whether a module is recorded as one call: a class of torch.nn, one of LEAVES, or one of the given classes.

    A subclass counts as the class of torch.nn that it is made from unless it overrides some of its behaviour. Modules
    with hooks or parametrizations are no leaves, so that what those compute is recorded, too.
    """
    kind = type(module)
    if kind in leaves:
        return True
    if parametrize.is_parametrized(module) or module._forward_hooks or module._forward_pre_hooks:
        return False
    return _is_listed(kind) or _of_torch(module)


def operation_of(leaf: nn.Module, leaves: Collection[type[nn.Module]] = ()) -> str:
    """The class whose behaviour a leaf has, as module.Class: its own, or that of torch.nn which it is made from."""
    kind = type(leaf)
    own = kind in leaves or _is_listed(kind) or not _of_torch(leaf)
    return class_name(kind if own else _base(kind))


def _is_listed(kind: type[nn.Module]) -> bool:
    return _fits(class_name(kind), (*LEAVES, *extending.LEAVES))


@lru_cache(4096)
def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _base(kind: type[nn.Module]) -> type[nn.Module]:
    """The first class of torch.nn among a class and those above it; nn.Module where there is no other."""
    return next((each for each in kind.__mro__ if each.__module__.startswith("torch.nn.modules.")), nn.Module)


def _of_torch(module: nn.Module) -> bool:
    kinds, base = type(module).__mro__, _base(type(module))
    if base is nn.Module or issubclass(base, CONTAINERS) or "forward" in vars(module):
        return False
    if any(True for _ in module.children()) and not issubclass(base, HAS_OWN_MODULES):
        return False
    above = kinds[: kinds.index(base)]
    return not any(hasattr(base, name) and _matters(name) for kind in above for name in vars(kind))


def _matters(name: str) -> bool:
    """Whether a class that overrides this may compute something else."""
    return name in CALLING if name.startswith("__") else name not in HARMLESS


def attributes_of(module: nn.Module) -> dict[str, Any]:
    """The plain attributes of a module: numbers, strings, and tuples of them; `training` and private ones left out."""
    return {
        name: list(value) if isinstance(value, list) else value
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training" and _is_plain(value)
    }


def described(leaf: nn.Module) -> dict[str, Any]:
    """The plain attributes of a leaf, and the class and attributes of each module that it holds."""
    held = {
        name: Structure(class_name(type(inner)), tuple(described(inner).items()))
        for name, inner in leaf.named_children()
    }
    return held | attributes_of(leaf)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, (bool, int, float, str))
