"""What is trained, how and on what, as plain numbers: plans that a spec yields and a backend carries out.

Nothing here trains. The plans check themselves when made, so a backend never meets an impossible number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Gt, Lt, doc

from nasir.options import Checked
from nasir.options.ranges import Count, EpochLength, Epochs, Positive, Rate, Share
from nasir.training.data import DataPlan as DataPlan
from nasir.training.data import ResizedCrop as ResizedCrop
from nasir.training.optimizers import OptimizerPlan as OptimizerPlan
from nasir.training.penalties import PenaltyPlan as PenaltyPlan

ScheduleKind = Literal["constant", "staircase", "cosine"]
Precision = Literal["auto", "fp32", "tf32", "bf16"]


@dataclass(frozen=True, slots=True)
class SchedulePlan(Checked):
    """The learning rate over a phase, as a factor on the base rate.

    `at`: where the staircase drops by `factor`, as fractions of the phase, or of the interval when `restart` is
    set. `floor`: where the cosine ends, as a fraction of the base rate. `restart`: epochs after which the shape
    begins anew. `warmup`: epochs at the start of the phase in which a ramp from `warmup_start` to 1 multiplies the
    shape; the shape itself is not displaced by it.
    """

    kind: ScheduleKind = "constant"
    at: tuple[Annotated[float, Gt(0), Lt(1)], ...] = ()
    factor: Positive = 0.1
    floor: Share = 0.0
    restart: Annotated[Epochs | None, doc("start over after so many epochs")] = None
    warmup: EpochLength = 0.0
    warmup_start: Share = 0.0

    def __post_init__(self) -> None:
        if list(self.at) != sorted(set(self.at)):
            raise ValueError(f"the steps {list(self.at)} do not rise; sort them, each once")
        if self.kind == "staircase" and not self.at:
            raise ValueError("a staircase has no steps; give at least one fraction as `at`, such as [0.5, 0.75]")

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        """By its kind."""
        return f"schedule {given.get('kind', 'constant')}"

    def multiplier(self, phase_step: int, steps_per_epoch: int, phase_epochs: int | None) -> float:
        """Factor on the base rate for the step number `phase_step` (0-based, counted from the phase's start).

        `phase_epochs` may be None (a phase that ends on a condition) only where the shape needs no end: a constant
        schedule, or one that restarts. Past the end of the phase the last value holds.
        """
        if phase_step < 0 or steps_per_epoch < 1:
            raise ValueError(
                f"schedule: step {phase_step} of a phase whose epochs have {steps_per_epoch}; steps count from 0, and "
                "an epoch has one or more"
            )
        return self._ramp(phase_step, steps_per_epoch) * self._shape(phase_step, steps_per_epoch, phase_epochs)

    def _ramp(self, phase_step: int, steps_per_epoch: int) -> float:
        length = self.warmup * steps_per_epoch
        if phase_step >= length:
            return 1.0
        return self.warmup_start + (1.0 - self.warmup_start) * phase_step / length

    def _shape(self, phase_step: int, steps_per_epoch: int, phase_epochs: int | None) -> float:
        if self.kind == "constant":
            return 1.0
        epochs = self.restart if self.restart is not None else phase_epochs
        if epochs is None:
            raise ValueError(
                f"schedule {self.kind}: the phase has no fixed length to spread over; "
                "give the phase `epochs:`, or the schedule `restart:`"
            )
        total = epochs * steps_per_epoch
        step = phase_step % total if self.restart is not None else min(phase_step, total)
        if self.kind == "staircase":
            # a fraction times an integer may land just above the integer it means (0.7 * 10)
            return self.factor ** sum(step >= fraction * total - 1e-6 for fraction in self.at)
        return self.floor + (1.0 - self.floor) * 0.5 * (1.0 + math.cos(math.pi * step / total))


@dataclass(frozen=True, slots=True)
class AdaptiveClip(Checked):
    """The gradient of each output unit is at most `factor` times as long as its weights (Brock et al. 2021).

    A unit is what a weight array has for one output: a filter of a convolution, a row of a linear layer; of biases, of
    scales and shifts, and of single numbers it is the whole array. Lengths are L2 norms.
    """

    factor: Positive = 0.01
    eps: Annotated[Positive, doc("weights count as at least this long, or those that are 0 would stay so")] = 1e-3
    head: Annotated[bool, doc("the last layer is clipped, too")] = False
    scalars: Annotated[bool, doc("learned numbers, as SkipInit's, are clipped, too")] = True

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        return "adaptive_clip"


@dataclass(frozen=True, slots=True)
class TrainPlan(Checked):
    """One phase of training. `gradient_clip` bounds the global L2 norm, or that of each branch that is trained
    separately, after `adaptive_clip` has bounded that of each unit. `ema_decay` is per step; with `ema_warmup` it is at
    most (1 + t) / (10 + t) after t steps of averaging.

    `precision`: `fp32` multiplies in full, `tf32` rounds the factors of products to TF32 (CUDA only), `bf16` is
    autocast; `auto` takes bf16 for conv nets where the device computes it natively, else fp32.
    `reset_optimizer`: begin the phase with an empty optimizer state. `freeze`: label prefixes below which nothing
    learns in the phase, beside what the network itself has frozen.
    """

    optimizer: OptimizerPlan = field(default_factory=OptimizerPlan)
    schedule: SchedulePlan = field(default_factory=SchedulePlan)
    batch_size: Count = 128
    gradient_clip: Annotated[Positive | None, doc("largest norm of the gradient")] = None
    label_smoothing: Rate = 0.0
    ema_decay: Rate | None = None
    precision: Precision = "auto"
    channels_last: Literal["auto", True, False] = "auto"
    reset_optimizer: Annotated[bool, doc("start the phase with an empty optimizer state")] = False
    freeze: Annotated[tuple[str, ...], doc("labels, or prefixes of them, that do not learn in the phase")] = ()
    penalties: tuple[PenaltyPlan, ...] = ()
    ema_warmup: bool = True
    adaptive_clip: Annotated[AdaptiveClip | None, doc("longest gradient of a unit beside its weights")] = None

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        return "training"

    def lr(self, phase_step: int, steps_per_epoch: int, phase_epochs: int | None) -> float:
        """Learning rate of one step: the base rate times the schedule's multiplier."""
        return self.optimizer.options.lr * self.schedule.multiplier(phase_step, steps_per_epoch, phase_epochs)
