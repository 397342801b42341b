"""Optimizers: what each declares in one place, and the plan of a phase that names one.

An optimizer is a frozen dataclass that `nasir.registry.optimizers` knows by name: its fields are its options, `factory`
makes it, and `state` says what it keeps for each parameter, so that a rewrite of the network can carry that along.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar

from annotated_types import Len, doc

from nasir.options import Checked, construct
from nasir.options.ranges import NotNegative, Positive, Rate
from nasir.registry import optimizers
from nasir.training.states import STATE_KINDS, StateKind

Betas = Annotated[tuple[Rate, ...], Len(2, 2)]
"""Shares of the old value that two moving averages keep."""
_DECAY = ("weight_decay", "decay_norms", "decay_biases")


@dataclass(frozen=True, kw_only=True)
class Optimizer(Checked):
    """Base of an optimizer: subclass it as a frozen dataclass, and register that.

    `factory`: the class of the optimizer, a function that makes one, or "module:name" of either; it is called
    with the groups of parameters, `lr` and the options that the subclass adds, by name. `state`: the kind of every key
    that it keeps for a parameter.
    """

    name: ClassVar[str] = ""
    factory: ClassVar[Any] = None
    state: ClassVar[Mapping[str, StateKind]] = {}

    lr: Annotated[Positive, doc("learning rate, which the schedule multiplies")]
    weight_decay: NotNegative = 0.0
    decay_norms: Annotated[bool, doc("weight decay also acts on the scales and shifts of norms")] = True
    decay_biases: Annotated[bool, doc("weight decay also acts on biases")] = True

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        """By its name."""
        return f"optimizer {cls.name}"

    def held(self) -> Mapping[str, StateKind]:
        """The part of `state` that it keeps with these options."""
        return self.state

    def make(self, groups: list[dict[str, Any]], fused: bool) -> Any:
        """The optimizer over groups of parameters, each with its own `weight_decay`; the rate is that of `lr`.

        `fused`: all parameters are on one CUDA device, and a fused kernel is wanted if there is one.
        """
        factory = loaded(type(self).factory)  # of the class: a plain function is no method
        options = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _DECAY}
        if fused and "fused" in inspect.signature(factory).parameters:
            options["fused"] = True
        return factory(groups, **options)


def loaded(thing: Any) -> Callable[..., Any]:
    """`thing` itself, or what "module:name" stands for."""
    if isinstance(thing, str):
        module, _, name = thing.partition(":")
        thing = getattr(importlib.import_module(module), name)
    made: Callable[..., Any] = thing
    return made


def given_over(options: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a dataclass or a mapping, with those that are given in their place."""
    if not isinstance(options, Mapping):
        options = {field.name: getattr(options, field.name) for field in fields(options)}
    return {**options, **given}


def optimizer_named(name: str) -> type[Optimizer]:
    """The definition of an optimizer; raises UnknownName, or UsageError where it is not one."""
    return optimizers.subclass(name, Optimizer, _fault)


def _fault(made: type[Optimizer]) -> str:
    if made.factory is None and made.make is Optimizer.make:
        return "has neither `factory` nor a `make` of its own"
    odd = {key: kind for key, kind in made.state.items() if kind not in STATE_KINDS}
    return f"has a state of unknown kind, {odd}; the kinds are {', '.join(STATE_KINDS)}" if odd else ""


_RATE: Mapping[str, Any] = {"lr": 0.1}
_COMMON = {"momentum": 0.9, "nesterov": False, "betas": (0.9, 0.999), "eps": 1e-8}


@dataclass(frozen=True, slots=True, init=False)
class OptimizerPlan:
    """An optimizer by name and its options, which are attributes of the plan too.

    Raises UnknownName for a name that nothing is registered by, OptionError for options that are unknown or do not fit.
    """

    kind: str
    options: Optimizer

    def __init__(
        self,
        kind: str = "sgd",
        lr: float | None = None,
        *,
        options: Optimizer | Mapping[str, Any] = _RATE,
        **given: Any,
    ) -> None:
        """Options by name, over those of a mapping or of another plan: `dataclasses.replace` changes single ones."""
        options = given_over(options, given if lr is None else {"lr": lr, **given})
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "options", construct(optimizer_named(kind), options, f"optimizer {kind}"))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "options":
            raise AttributeError(name)
        return getattr(self.options, name)

    def identity(self) -> dict[str, Any]:
        """As data, for digests: with the options that all optimizers had in common before each had its own."""
        own = {field.name: getattr(self.options, field.name) for field in fields(self.options)}
        return {**_COMMON, **own, "kind": self.kind}
