"""The optimizers that ship, and some as a third party writes them, owe what the contract asks; a wrong one is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from own_optimizers import ADAFACTOR, FORGETFUL, LION, RADAM, imported

from nasir.errors import UsageError
from nasir.registry import optimizers
from nasir.testing import OptimizerContract
from nasir.training import Optimizer

imported(RADAM, LION, FORGETFUL, ADAFACTOR)


@optimizers.register("shuffled")
@dataclass(frozen=True)
class Shuffled(Optimizer):
    """SGD that takes its momentum for a number."""

    factory = torch.optim.SGD
    state = {"momentum_buffer": "scalar"}  # noqa: RUF012

    momentum: float = 0.9


class TestSgd(OptimizerContract):
    kind = "sgd"
    options = {"lr": 0.05, "nesterov": True, "weight_decay": 1e-3}  # noqa: RUF012


class TestAdam(OptimizerContract):
    kind = "adam"


class TestAdamW(OptimizerContract):
    kind = "adamw"
    options = {"lr": 0.01, "weight_decay": 0.1}  # noqa: RUF012


class TestRAdam(OptimizerContract):
    kind = "radam"
    options = {"lr": 0.05}  # noqa: RUF012


class TestLion(OptimizerContract):
    kind = "lion"
    options = {"lr": 0.001, "weight_decay": 0.1}  # noqa: RUF012


class TestAdafactor(OptimizerContract):
    kind = "adafactor"
    dead_is_dead = False


def test_a_state_of_the_wrong_kind_is_noticed(tmp_path: Path) -> None:
    class Wrong(OptimizerContract):
        kind = "shuffled"
        options = {"lr": 0.05}  # noqa: RUF012

    with pytest.raises(
        UsageError, match=r"its state 'momentum_buffer' is a Tensor .* of kind 'scalar' it has to be one"
    ):
        Wrong().test_dead_units_that_come_and_go_leave_no_trace(tmp_path)


def test_a_key_that_nothing_says_the_kind_of_is_refused(tmp_path: Path) -> None:
    class Wrong(OptimizerContract):
        kind = "forgetful"

    with pytest.raises(UsageError, match=r"optimizer forgetful: nothing says what its state 'ema' holds"):
        Wrong().test_every_key_of_the_state_says_what_it_is(tmp_path)
