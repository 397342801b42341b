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
from nasir.training.optimizers import OptimizerPlan as OptimizerPlan
from nasir.training.penalties import PenaltyPlan as PenaltyPlan

ScheduleKind = Literal["constant", "staircase", "cosine"]
Precision = Literal["auto", "fp32", "tf32", "bf16"]
AUGMENTATIONS = ("pad_crop", "random_resized_crop", "hflip")


def _require(ok: bool, place: str, value: object, remedy: str) -> None:
    if not ok:
        raise ValueError(f"{place}: {value!r} is not usable; {remedy}")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _within(value: Any, low: float, high: float, open_high: bool = False) -> bool:
    return _number(value) and low <= value and (value < high if open_high else value <= high)


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
        _require(_count(phase_step, 0), "schedule: phase_step", phase_step, "steps count from 0")
        _require(
            _count(steps_per_epoch),
            "schedule: steps_per_epoch",
            steps_per_epoch,
            "an epoch has a step or more",
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
class TrainPlan(Checked):
    """One phase of training. `gradient_clip` bounds the global L2 norm; `ema_decay` is per step; with
    `ema_warmup` it is at most (1 + t) / (10 + t) after t steps of averaging.

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

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        return "training"

    def lr(self, phase_step: int, steps_per_epoch: int, phase_epochs: int | None) -> float:
        """Learning rate of one step: the base rate times the schedule's multiplier."""
        return self.optimizer.options.lr * self.schedule.multiplier(phase_step, steps_per_epoch, phase_epochs)


@dataclass(frozen=True, slots=True)
class ResizedCrop:
    """A random part of an image, resized: `scale` bounds its share of the area, `ratio` its width over its height.

    `size`: side of the result in pixels; None: the size that the data set's images have.
    """

    size: int | None = None
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        place = "data: augment: random_resized_crop"
        ok = self.size is None or _count(self.size)
        _require(ok, f"{place}: size", self.size, "give a whole number of pixels, 1 or more")
        ok = _range(self.scale) and self.scale[1] <= 1
        _require(ok, f"{place}: scale", self.scale, "give two shares of the area, 0 < least <= most <= 1")
        _require(_range(self.ratio), f"{place}: ratio", self.ratio, "give two ratios, 0 < least <= most")


def _range(pair: Any) -> bool:
    return len(pair) == 2 and all(_number(value) for value in pair) and 0 < pair[0] <= pair[1]


@dataclass(frozen=True, slots=True)
class DataPlan:
    """A data set by registered name, and how its training part is split, ordered and augmented.

    `validation`: images (int) or fraction (float, 0 <= f < 1) taken from the training data, stratified by class.
    `subset`: fraction of what remains that is trained on. `augment`: `pad_crop`, `random_resized_crop`, `hflip`, or a
    one-key mapping with options, `{"pad_crop": {"pad": 4}}`; the two crops exclude each other. `normalize`: `auto`
    subtracts the mean and divides by the standard deviation of each channel, which the data set gives or which are
    measured on the training part (on a sample of it when images are streamed); None only scales uint8 to 0..1.
    `classes`: names of those to use, which become labels 0, 1, ... in this order; None: all.
    `options` go to the data set; the key `pad_to` is taken by the backend and pads images with zeros to that side
    length (28 -> 32).
    """

    dataset: str
    options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 128
    eval_batch_size: int = 512
    augment: tuple[str | Mapping[str, Any], ...] = ()
    validation: int | float = 0
    subset: float = 1.0
    normalize: Literal["auto"] | None = "auto"
    seed: int = 0
    drop_last: bool = False
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.classes is not None:
            ok = len(set(self.classes)) == len(self.classes) > 1
            _require(ok, "classes", self.classes, "give two names or more, each once")
        _require(isinstance(self.dataset, str) and bool(self.dataset), "data: dataset", self.dataset, "give a name")
        for name in ("batch_size", "eval_batch_size"):
            value = getattr(self, name)
            _require(_count(value), f"data: {name}", value, "give a whole number, 1 or more")
        held = self.validation
        ok = _count(held, 0) or (isinstance(held, float) and _within(held, 0, 1, True))
        _require(ok, "data: validation", held, "give a whole number of examples, or a fraction 0 <= f < 1")
        ok = _within(self.subset, 0, 1) and self.subset > 0
        _require(ok, "data: subset", self.subset, "give a fraction, 0 < f <= 1")
        _require(self.normalize in ("auto", None), "data: normalize", self.normalize, "use auto or null")
        ok = _count(self.seed, 0) and self.seed < 2**63
        _require(ok, "data: seed", self.seed, "give a whole number, 0 or more and below 2**63")
        pad, crop = self.pad, self.resized_crop
        _require(not pad or crop is None, "data: augment", self.augment, "keep one of pad_crop and random_resized_crop")
        _ = self.flips

    @property
    def pad(self) -> int:
        """Pixels of zero padding on each side before the random crop; 0 without `pad_crop`."""
        options = self._augmentation("pad_crop", ("pad",))
        if options is None:
            return 0
        pad = options.get("pad", 4)
        _require(_count(pad), "data: augment: pad_crop: pad", pad, "give a whole number of pixels, 1 or more")
        return int(pad)

    @property
    def resized_crop(self) -> ResizedCrop | None:
        """The random part of each image that is resized and trained on; None without `random_resized_crop`."""
        options = self._augmentation("random_resized_crop", ("size", "scale", "ratio"))
        if options is None:
            return None
        given = dict(options)
        for name in ("scale", "ratio"):
            pair = given.get(name)
            if name in given:
                ok = isinstance(pair, list | tuple)
                _require(ok, f"data: augment: random_resized_crop: {name}", pair, "give a list of two numbers")
                given[name] = tuple(given[name])
        return ResizedCrop(**given)

    @property
    def flips(self) -> bool:
        """Whether images are mirrored left to right with probability 1/2."""
        return self._augmentation("hflip", ()) is not None

    def _augmentation(self, wanted: str, keys: tuple[str, ...]) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = None
        for entry in self.augment:
            items = {entry: {}} if isinstance(entry, str) else entry
            ok = isinstance(items, Mapping) and len(items) == 1 and next(iter(items)) in AUGMENTATIONS
            _require(ok, "data: augment", entry, f"use one of {', '.join(AUGMENTATIONS)}, with or without options")
            options = items.get(wanted)
            if wanted not in items:
                continue
            _require(found is None, "data: augment", self.augment, f"name {wanted} once")
            found = {} if options is None else options
            ok = isinstance(found, Mapping) and set(found) <= set(keys)
            _require(ok, f"data: augment: {wanted}", options, f"its options are: {', '.join(keys) or 'none'}")
        return found
