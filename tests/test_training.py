"""Schedules have golden values; plans refuse what cannot be trained."""

from __future__ import annotations

import math
from typing import Any

import pytest

from nasir.errors import UnknownName
from nasir.training.plans import DataPlan, OptimizerPlan, ResizedCrop, SchedulePlan, TrainPlan


def _by_epoch(plan: SchedulePlan, epochs: int, phase_epochs: int | None, steps: int = 10) -> list[float]:
    return [plan.multiplier(epoch * steps, steps, phase_epochs) for epoch in range(epochs)]


def test_constant_needs_no_length() -> None:
    assert _by_epoch(SchedulePlan(), 4, None) == [1.0] * 4


def test_staircase_drops_at_fractions_of_the_phase() -> None:
    plan = SchedulePlan("staircase", at=(0.5, 0.75), factor=0.1)
    golden = [1.0] * 100 + [0.1] * 50 + [0.1**2] * 50
    assert _by_epoch(plan, 200, 200, steps=391) == golden


def test_staircase_drops_on_the_exact_step_in_spite_of_rounding() -> None:
    plan = SchedulePlan("staircase", at=(0.7,), factor=0.5)  # 0.7 * 10 is 7.000000000000001 in some orders
    assert [plan.multiplier(step, 1, 10) for step in range(10)] == [1.0] * 7 + [0.5] * 3


def test_staircase_restarts_as_the_cyclic_growth_schedule_does() -> None:
    plan = SchedulePlan("staircase", at=(0.5, 0.75), factor=0.1, restart=4)
    assert _by_epoch(plan, 8, None) == [1.0, 1.0, 0.1, 0.1**2] * 2


def test_cosine_goes_from_one_to_the_floor_per_step() -> None:
    plan = SchedulePlan("cosine", floor=0.2)
    assert plan.multiplier(0, 10, 4) == 1.0
    assert plan.multiplier(10, 10, 4) == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert plan.multiplier(20, 10, 4) == pytest.approx(0.6)
    assert plan.multiplier(40, 10, 4) == pytest.approx(0.2)
    assert plan.multiplier(99, 10, 4) == pytest.approx(0.2)


def test_cosine_restarts() -> None:
    plan = SchedulePlan("cosine", restart=2)
    assert _by_epoch(plan, 4, None) == pytest.approx([1.0, 0.5, 1.0, 0.5])


def test_warm_up_multiplies_the_shape_at_the_start_of_the_phase_only() -> None:
    plan = SchedulePlan("constant", warmup=2, warmup_start=0.1)
    assert [plan.multiplier(step, 2, None) for step in range(6)] == pytest.approx([0.1, 0.325, 0.55, 0.775, 1, 1])
    cyclic = SchedulePlan("cosine", restart=2, warmup=1)
    assert _by_epoch(cyclic, 4, None) == pytest.approx([0.0, 0.5, 1.0, 0.5])


def test_a_shape_without_end_names_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"schedule cosine: .*`epochs:`, or the schedule `restart:`"):
        SchedulePlan("cosine").multiplier(0, 10, None)


def test_lr_is_the_base_rate_times_the_multiplier() -> None:
    plan = TrainPlan(optimizer=OptimizerPlan(lr=0.4), schedule=SchedulePlan("staircase", at=(0.5,)))
    assert plan.lr(7, 1, 10) == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("make", "values", "place"),
    [
        (OptimizerPlan, {"kind": "lamb"}, "unknown optimizer 'lamb'"),
        (OptimizerPlan, {"lr": 0.0}, "optimizer sgd: lr: must be above 0, found 0.0"),
        (OptimizerPlan, {"lr": math.nan}, "optimizer sgd: lr: expected a finite number, found nan"),
        (OptimizerPlan, {"momentum": 1.0}, "optimizer sgd: momentum: must be below 1, found 1.0"),
        (OptimizerPlan, {"kind": "adam", "betas": (0.9, 1.5)}, "optimizer adam: betas.1: must be below 1, found 1.5"),
        (OptimizerPlan, {"weight_decay": -1.0}, "optimizer sgd: weight_decay: must be at least 0, found -1.0"),
        (OptimizerPlan, {"kind": "adam", "nesterov": True}, "optimizer adam: nesterov: unknown option"),
        (SchedulePlan, {"kind": "linear"}, "schedule linear: kind: unknown value 'linear'; known: constant, staircase"),
        (SchedulePlan, {"kind": "staircase"}, "a staircase has no steps; give at least one fraction as `at`"),
        (
            SchedulePlan,
            {"kind": "staircase", "at": (0.75, 0.5)},
            "do not rise; sort them, each once",
        ),
        (SchedulePlan, {"kind": "staircase", "at": (100.0,)}, "at.0: must be below 1, found 100.0"),
        (SchedulePlan, {"restart": 0}, "restart: must be at least 1, found 0"),
        (SchedulePlan, {"floor": 2.0}, "floor: must be at most 1, found 2.0"),
        (SchedulePlan, {"warmup": -1}, "warmup: must be at least 0, found -1"),
        (TrainPlan, {"batch_size": 0}, "batch_size: must be at least 1, found 0"),
        (TrainPlan, {"batch_size": True}, "batch_size: expected a whole number, found true"),
        (TrainPlan, {"gradient_clip": 0.0}, "gradient_clip: must be above 0, found 0.0"),
        (TrainPlan, {"label_smoothing": 1.0}, "label_smoothing: must be below 1, found 1.0"),
        (TrainPlan, {"ema_decay": 1.0}, "ema_decay: must be below 1, found 1.0"),
        (TrainPlan, {"precision": "fp16"}, "precision: unknown value 'fp16'"),
        (TrainPlan, {"channels_last": "yes"}, "channels_last: unknown value 'yes'"),
        (DataPlan, {"dataset": ""}, "data: dataset: expected text, found none; write it out"),
        (
            DataPlan,
            {"dataset": "x", "validation": 1.0},
            "validation: 1.0 is neither a number of samples nor a fraction below 1",
        ),
        (
            DataPlan,
            {"dataset": "x", "validation": -1},
            "validation: -1 is neither a number of samples nor a fraction below 1",
        ),
        (DataPlan, {"dataset": "x", "subset": 0.0}, "subset: must be above 0, found 0.0"),
        (DataPlan, {"dataset": "x", "seed": -1}, "seed: must be at least 0, found -1"),
        (
            DataPlan,
            {"dataset": "x", "augment": ("rotate",)},
            "augment.0: unknown value 'rotate'; known: pad_crop, random_resized_crop, hflip",
        ),
        (
            DataPlan,
            {"dataset": "x", "augment": ("hflip", "hflip")},
            "augment.1: the augmentation 'hflip' is named already; name each once",
        ),
        (
            DataPlan,
            {"dataset": "x", "augment": ({"pad_crop": {"pad": 0}},)},
            "augment.0.pad_crop.pad: must be at least 1, found 0",
        ),
        (
            DataPlan,
            {"dataset": "x", "augment": ({"pad_crop": {"pax": 1}},)},
            "augment.0.pad_crop.pax: unknown option; did you mean 'pad'?",
        ),
        (
            DataPlan,
            {"dataset": "x", "augment": ("pad_crop", "random_resized_crop")},
            "augment: two crops exclude each other; keep one of pad_crop and random_resized_crop",
        ),
        (
            DataPlan,
            {"dataset": "x", "augment": ({"random_resized_crop": {"size": 0}},)},
            "augment.0.random_resized_crop.size: must be at least 1, found 0",
        ),
        (
            DataPlan,
            {"dataset": "x", "augment": ({"random_resized_crop": {"scale": [0.5, 2]}},)},
            "augment.0.random_resized_crop.scale: scale reaches 2 times the area",
        ),
        (
            DataPlan,
            {"dataset": "x", "augment": ({"random_resized_crop": {"ratio": [2, 1]}},)},
            "ratio: ratio goes from 2 down to 1; write the smaller number first",
        ),
        (
            DataPlan,
            {"dataset": "x", "augment": ({"random_resized_crop": {"ratio": 1}},)},
            "ratio: expected a list, found 1",
        ),
    ],
)
def test_plans_refuse_impossible_numbers(make: Any, values: dict[str, Any], place: str) -> None:
    with pytest.raises((ValueError, UnknownName)) as caught:
        make(**values)
    assert place in str(caught.value)


def test_augmentations_are_read_from_names_and_mappings() -> None:
    plain = DataPlan("x", augment=("pad_crop", "hflip"))
    assert (plain.pad, plain.flips) == (4, True)
    given = DataPlan("x", augment=({"pad_crop": {"pad": 2}},))
    assert (given.pad, given.flips) == (2, False)
    assert (DataPlan("x").pad, DataPlan("x").flips) == (0, False)
    assert plain.resized_crop is None and DataPlan("x", augment=("random_resized_crop",)).resized_crop == ResizedCrop()
    given = DataPlan("x", augment=({"random_resized_crop": {"size": 9, "scale": [0.5, 1]}},))
    assert given.resized_crop == ResizedCrop(9, (0.5, 1)) and not given.pad
