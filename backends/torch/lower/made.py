"""A module as its lowering gave it, and what was changed on it by hand since: kept when it is made anew, or refused.

A layer that is made anew takes over hooks, attributes (`momentum`, `eps`, `p`) and the class of a module with the same
weights, such as SyncBatchNorm; any other module in its place is a UsageError, which names the layer and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Any

from torch import Tensor, nn

from nasir.errors import UsageError

REGISTRIES = frozenset(nn.Module().__dict__) - {"training"}
HOOKS = tuple(name for name, value in nn.Module().__dict__.items() if "hooks" in name and isinstance(value, dict))
# which kind of backward hooks there are goes with them; a block made anew is not compiled
UNSEEN = frozenset({"training", "_compiled_call_impl"})
_MISSING = object()


@dataclass(frozen=True, slots=True)
class Made:
    """A module as its lowering gave it: its class, its attributes, and the names of its weights."""

    kind: type[nn.Module]
    attributes: dict[str, Any]
    names: tuple[str, ...]

    @classmethod
    def of(cls, module: nn.Module) -> Made:
        return cls(type(module), module.__dict__.copy(), _names(module))

    def holding(self, module: nn.Module) -> Made:
        """The same, of a module made elsewhere, which has registries of its own."""
        return Made(self.kind, self.attributes | {name: module.__dict__[name] for name in REGISTRIES}, self.names)


def _names(module: nn.Module) -> tuple[str, ...]:
    return (*module._parameters, *module._buffers, *module._modules)


def fits(module: nn.Module, slots: Mapping[str, Any]) -> bool:
    """Whether a module holds just the weights that an op declares, in their shapes."""
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return held.keys() == slots.keys() and all(tuple(held[name].shape) == slots[name].shape for name in held)


def refuse(label: str, module: object, why: str) -> UsageError:
    """The error about a module of the user's in the place of a layer."""
    return UsageError(
        f"'{label}': {type(module).__name__} was put there by hand, and {why}; put back a module with the weights of "
        "this layer (merge adapters, remove parametrizations), rewrite, and replace it again"
    )


def by_hand(module: nn.Module, made: Made) -> dict[str, Any]:
    """Attributes of a module that differ from those it was made with; not its weights, children and hooks."""
    return {
        name: value
        for name, value in module.__dict__.items()
        if name not in REGISTRIES and name not in UNSEEN and not _same(value, made.attributes.get(name, _MISSING))
    }


def _same(value: Any, other: Any) -> bool:
    if value is other:
        return True
    try:
        return type(value) is type(other) and bool(value == other)
    except (RuntimeError, ValueError, TypeError):  # tensors and arrays compare element by element
        return False


def is_changed(module: nn.Module, made: Made) -> bool:
    """Whether `module` is not simply as it was made: another one, other attributes or weights, or hooks."""
    attributes = module.__dict__
    made.attributes["training"] = module.training
    try:
        same = attributes == made.attributes  # weights and hooks by identity of their registries, which is quick
    except RuntimeError:  # a tensor in the place of something else
        same = False
    if not same or type(module) is not made.kind or _names(module) != made.names:
        return True
    return any([attributes[name] for name in HOOKS])


def taken_over(
    fresh: nn.Module, made: Made, was: nn.Module, before: Made, slots: Mapping[str, Any], label: str
) -> nn.Module:
    """`fresh`, or a module of its weights, with what was changed by hand on the module `was` that it replaces.

    `made`, `before`: what the two were made as; `slots`: the weights of `was` by its op. UsageError where that cannot
    be done.
    """
    if not is_changed(was, before):
        return fresh
    if not fits(was, slots):
        raise refuse(label, was, "this rewrite makes the layer anew")
    changed = by_hand(was, before)
    if type(was) is not before.kind:
        if made.kind is not before.kind:
            raise refuse(label, was, f"this rewrite puts a {made.kind.__name__} in the place of {before.kind.__name__}")
        module: nn.Module = object.__new__(type(was))
        module.__dict__.update(fresh.__dict__)
        fresh = module
    for name, value in changed.items():
        if not _same(made.attributes.get(name, _MISSING), before.attributes.get(name, _MISSING)):
            raise UsageError(
                f"'{label}': {name} was set to {value!r:.80} by hand, and this rewrite changes it, too; set it back to "
                f"{before.attributes.get(name)!r:.80}"
            )
        check_movable(label, name, value)
        fresh.__dict__[name] = value
    move_hooks(was, fresh)
    return fresh


def move_hooks(was: nn.Module, fresh: nn.Module) -> None:
    """Give `fresh` the hooks of `was`: the same registries, so that their handles still remove them."""
    for name in HOOKS:
        if was.__dict__[name]:
            fresh.__dict__[name] = was.__dict__[name]
            fresh._is_full_backward_hook = was._is_full_backward_hook


def check_movable(label: str, name: str, value: Any) -> None:
    """UsageError for what may belong to the old module alone: its methods, functions that hold it, its tensors."""
    plain = isinstance(value, FunctionType | BuiltinFunctionType | type) and name != "forward"
    if isinstance(value, Tensor) or (callable(value) and not plain):
        raise UsageError(
            f"'{label}': its attribute {name!r} ({type(value).__name__}) was set by hand, and this rewrite makes the "
            f"layer anew; remove the attribute, rewrite, and set it again"
        )


def check_hooks(label: str, parameter: Tensor) -> None:
    """UsageError for a parameter with hooks of its own, which a rewrite is about to replace."""
    if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
        raise UsageError(
            f"'{label}' has hooks on its gradient, and this rewrite changes its shape; remove them, rewrite, and "
            "register them again"
        )
