"""The spec: one pydantic model of the whole file, with its digest and the places its values were written at."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path as File
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, PrivateAttr

from nasir.errors import SpecError
from nasir.options import Path, options_of
from nasir.options.ranges import Count, Positive, Rate
from nasir.policy.plans import RULES, PhasePlan
from nasir.spec.declared import declared
from nasir.spec.dump import dump
from nasir.spec.fields import DEVICE, INITIALIZER, NAME, Epochs, Strict, empty_if_none, fault
from nasir.spec.model_data import Data
from nasir.spec.model_network import Input, Network, Step
from nasir.spec.model_phase import (
    AdaptiveClipping,
    Budget,
    Condition,
    Ema,
    Names,
    PolicyChoice,
    Rule,
    Schedule,
    Until,
    Warmup,
    as_warmup,
)
from nasir.spec.model_registered import Optimizer, Penalty
from nasir.spec.model_search import Search
from nasir.spec.model_source import PATHS
from nasir.spec.problems import Place, Problem, SpecProblems
from nasir.spec.tree import Tree, locate
from nasir.training.backend import DEFAULT_BACKEND
from nasir.training.plans import OptimizerPlan, Precision, ScheduleKind, SchedulePlan, TrainPlan
from nasir.training.teachers import name_of


class Phase(Strict):
    """A stretch of training with one optimizer and schedule, and the rules that act in it."""

    name: str = Field(pattern=NAME)
    epochs: Epochs | None = None
    optimizer: Optimizer | None = Field(default=None, description="default: that of the phase before")
    schedule: Schedule = Schedule.model_validate("constant")
    warmup: Annotated[Warmup, BeforeValidator(as_warmup)] | None = None
    gradient_clip: Positive | None = declared(TrainPlan, "gradient_clip")
    adaptive_clip: AdaptiveClipping | None = declared(TrainPlan, "adaptive_clip")
    label_smoothing: Rate = declared(TrainPlan, "label_smoothing")
    ema: Annotated[Ema, BeforeValidator(empty_if_none)] | None = None
    regularize: Annotated[tuple[Penalty, ...], Field(strict=False)] = Field(
        default=(), description="further terms of the loss"
    )
    reset_optimizer: bool = declared(TrainPlan, "reset_optimizer")
    freeze: Names | None = Field(default=None, description=options_of(TrainPlan)["freeze"].about)
    policy: PolicyChoice | None = Field(default=None, description="decides what is rewritten when; default: rules")
    rules: Annotated[tuple[Rule, ...], Field(strict=False)] = ()
    until: Until | None = None
    budget: Budget | None = None

    def plan(self) -> PhasePlan:
        """The policy's form of it."""
        until = self.until.plan() if isinstance(self.until, Condition) else self.until
        return PhasePlan(
            name=self.name,
            epochs=self.epochs,
            rules=tuple(rule.plan(f"{self.name}.rules.{index}") for index, rule in enumerate(self.rules)),
            until=until,
            budget=self.budget,
            policy=self.policy_name,
            policy_options=self.policy[self.policy_name] if self.policy else {},
        )

    @property
    def policy_name(self) -> str:
        """The name of the policy."""
        return next(iter(self.policy)) if self.policy else RULES

    def training(self, spec: Spec) -> TrainPlan:
        """The backend's form of it; precision, layout and batch size are those of the whole spec."""
        return TrainPlan(
            optimizer=self.optimizer_plan(),
            schedule=self.schedule_plan(),
            batch_size=spec.data.batch_size,
            gradient_clip=self.gradient_clip,
            adaptive_clip=self.adaptive_clip,
            label_smoothing=self.label_smoothing,
            ema_decay=self.ema.decay if self.ema else None,
            ema_warmup=self.ema.warmup if self.ema else True,
            precision=spec.precision,
            channels_last=spec.channels_last,
            reset_optimizer=self.reset_optimizer,
            penalties=tuple(penalty.plan() for penalty in self.regularize),
            freeze=self.freeze or (),
        )

    def optimizer_plan(self) -> OptimizerPlan:
        """Raises SpecError if neither this phase nor one before names an optimizer."""
        if self.optimizer is None:
            raise SpecError(f"phase {self.name!r}: no optimizer; add `optimizer: {{sgd: {{lr: 0.1}}}}`")
        return self.optimizer.plan()

    def schedule_plan(self) -> SchedulePlan:
        """Factors on the learning rate over the phase."""
        warmup: dict[str, Any] = (
            {"warmup": self.warmup.epochs, "warmup_start": self.warmup.start} if self.warmup else {}
        )
        return SchedulePlan(kind=cast(ScheduleKind, self.schedule.kind), **dict(self.schedule.chosen), **warmup)


class Checkpoint(Strict):
    every: Epochs = 1
    keep: Count = Field(default=2, description="newest checkpoints kept")


def _version(value: Any) -> Any:
    if value != 1 or not isinstance(value, int) or isinstance(value, bool):
        raise fault(f"unknown version {value!r} of the spec language", "this nasir reads `nasir: 1`")
    return value


UNSAID: Mapping[str, Mapping[str, Any]] = {
    "data": {"class_weights": None},
    "ema": {"warmup": False},
    "rules": {"decline": "stop"},
    "plateau": {"early": "code", "since": None},
}
"""Options by the key that they lie below, each with the value that a spec which does not know it stands for."""


def _said(value: Any, below: str = "") -> Any:
    """Data of a spec without what is unsaid."""
    if isinstance(value, list | tuple):
        return [_said(item, below) for item in value]
    if not isinstance(value, dict):
        return value
    unsaid = UNSAID.get(below, {})
    return {key: _said(item, key) for key, item in value.items() if key not in unsaid or item != unsaid[key]}


class Spec(Strict):
    """A nasir spec; see `nasir schema` for an editor's view of it."""

    nasir: Annotated[
        int,
        BeforeValidator(_version),
        Field(description="language version", json_schema_extra={"const": 1}),
    ]
    name: str = Field(default="run", pattern=NAME, description="default: name of the file")
    seed: Annotated[int, Field(ge=0)] = 0
    input: Input
    blocks: Annotated[dict[str, Any], BeforeValidator(empty_if_none)] = Field(
        default={}, description="templates of blocks"
    )
    network: Network
    init: str = Field(default="default", pattern=INITIALIZER, description="initializer of weights")
    data: Data
    backend: str = Field(default=DEFAULT_BACKEND, min_length=1, description="what trains: a registered backend")
    device: str = Field(default="auto", pattern=DEVICE, description="auto, cpu, cuda or cuda:N")
    precision: Precision = "auto"
    channels_last: Literal["auto", True, False] = "auto"
    compile: Literal[False, "blocks", "auto"] = False
    deterministic: bool = False
    checkpoint: Checkpoint = Checkpoint()
    probe: Count = Field(default=64, description="samples whose change of logits measures a rewrite")
    plugins: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        default=(), description="Python files to import for a run"
    )
    phases: Annotated[tuple[Phase, ...], Field(min_length=1, strict=False)]
    search: Annotated[Search, BeforeValidator(empty_if_none)] | None = Field(
        default=None, description="how `nasir search` chooses; a plain run reads past it"
    )

    _tree: Tree | None = PrivateAttr(None)
    _source: str = PrivateAttr("<spec>")
    _notes: tuple[str, ...] = PrivateAttr(())

    def __repr__(self) -> str:
        """One line: its name, its file and how many phases it has."""
        return f"<Spec: {self.name}, {len(self.phases)} phases, from {self._source}, digest {self.digest[:12]}>"

    def __str__(self) -> str:
        """The resolved spec as YAML text."""
        return self.to_yaml().removesuffix("\n")

    @property
    def source(self) -> File:
        """The file the spec was read from."""
        return File(self._source)

    @property
    def tree(self) -> Tree | None:
        """The values as written, with their places; None for a spec that was not read from text."""
        return self._tree

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks of the check that are not errors, such as names that only a plugin can know."""
        return self._notes

    def resolved(self) -> dict[str, Any]:
        """Everything the spec says, defaults and extended files included, as data that YAML dumps and loads back.

        The default backend goes without saying: digests are those of specs that could not name one.
        """
        data = self.plain()
        if self.backend == DEFAULT_BACKEND:
            del data["backend"]
        return data

    def to_yaml(self) -> str:
        """The resolved spec as YAML text, which loads back to an equal spec."""
        return dump(self.resolved())

    def identity(self) -> dict[str, Any]:
        """The resolved spec with only the names of plugins, runs and other files, not the folders they lie in.

        What there was no other of once goes without saying (`UNSAID`), so that runs and studies from before keep their
        digests.
        """
        data: dict[str, Any] = _said(self.resolved())
        data["plugins"] = [File(plugin).name for plugin in self.plugins]
        if not isinstance(self.network, tuple):
            data["network"] |= {key: File(data["network"][key]).name for key in PATHS if key in data["network"]}
        for term in [term for phase in data["phases"] for term in phase.get("regularize", ())]:
            for options in term.values():
                if isinstance(options.get("teacher"), str):
                    options["teacher"] = name_of(options["teacher"])
        return data

    @property
    def digest(self) -> str:
        """SHA-256 of what the spec says, the folders of its files and runs aside."""
        text = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of the network, none if it is imported."""
        return self.network if isinstance(self.network, tuple) else ()

    def locate(self, path: Path) -> str:
        """`file:line:column` of the deepest written part of a path such as `("network", 3, "stage", "out")`."""
        return str(locate(self._tree, path) if self._tree is not None else Place(self._source))

    def problem(self, path: Path, message: str, remedy: str = "") -> SpecProblems:
        """The error to raise about the value at `path`."""
        place = locate(self._tree, path) if self._tree is not None else Place(self._source)
        return SpecProblems([Problem(place, path, message, remedy)])
