"""`optimizer:`, and the items of `regularize:`: what a registry knows by name, with its options."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from nasir.errors import NasirError
from nasir.options import construct
from nasir.registry import Registry, optimizers, penalties
from nasir.spec.declared import as_json
from nasir.spec.fields import OneOf, Options, empty_if_none
from nasir.training.plans import OptimizerPlan, PenaltyPlan


class Registered(OneOf):
    """A name of a registry and its options.

    Those of what is installed have their defaults filled in. Of what only a plugin file knows they stay as written, as
    those of passes do: whether the plugin was imported before must not change what the spec says.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[Options, BeforeValidator(empty_if_none)]] = Field(init=False)
    registry: ClassVar[Registry]

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        return cls.registry.names()

    @model_validator(mode="after")
    def _filled(self) -> Registered:
        extra = self.__pydantic_extra__
        name = self.kind
        if self.registry.installed(name):
            try:
                made = construct(self.registry.get(name), extra[name], name)
            except (NasirError, TypeError):
                return self  # the check of names and options reports each fault at its place
            extra[name] = {key: value for key, value in as_json(asdict(made)).items() if value is not None}
        return self


class Optimizer(Registered):
    registry = optimizers

    def plan(self) -> OptimizerPlan:
        """The backend's form of it."""
        return OptimizerPlan(self.kind, options=self.chosen)


class Penalty(Registered):
    registry = penalties

    def plan(self) -> PenaltyPlan:
        """The backend's form of it."""
        return PenaltyPlan(self.kind, options=self.chosen)
