"""Terms of one's own that see the forward pass: trained with, told of, and refused where they are none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from small_runs import HEAD

import nasir.api
from nasir.errors import NasirError, UsageError
from nasir.records import EpochRecord
from nasir.registry import penalties
from nasir.training import Penalty
from nasir.training.penalties import penalty_named

PHASE = """\
phases:
  - name: train
    epochs: 1
    optimizer: {sgd: {lr: 0.05}}
    regularize: [{TERM: {strength: 0.5}}]
"""


class Confidence:
    """How sure the network is; it watches how often the network ran."""

    runs: ClassVar[int] = 0

    def __init__(self, graph: Any, penalty: Any, device: torch.device) -> None:
        self.strength = penalty.strength

    @contextmanager
    def watching(self, model: Any) -> Iterator[None]:
        yield
        type(self).runs += 1

    def loss(self, forward: Any) -> torch.Tensor:
        return self.strength * forward.logits.softmax(-1).amax(-1).mean()  # type: ignore[no-any-return]


class Vector(Confidence):
    """Gives one number for each sample."""

    def loss(self, forward: Any) -> torch.Tensor:
        return forward.logits.amax(-1)  # type: ignore[no-any-return]


class Broken(Confidence):
    """Raises."""

    def loss(self, forward: Any) -> torch.Tensor:
        raise KeyError("mine")


@penalties.register("own-confidence")
@dataclass(frozen=True, kw_only=True)
class OwnConfidence(Penalty):
    """The largest probability."""

    sees = "forward"
    term = Confidence


@penalties.register("own-vector")
@dataclass(frozen=True, kw_only=True)
class OwnVector(OwnConfidence):
    """No number."""

    term = Vector


@penalties.register("own-broken-forward")
@dataclass(frozen=True, kw_only=True)
class OwnBroken(OwnConfidence):
    """Broken code."""

    term = Broken


def test_a_term_of_ones_own_is_trained_with_and_told(tmp_path: Path) -> None:
    Confidence.runs = 0
    run = nasir.api.run(HEAD + PHASE.replace("TERM", "own-confidence"), tmp_path / "run")
    (epoch,) = [record for record in run.journal if isinstance(record, EpochRecord)]
    assert 0.5 / 3 < epoch.metrics["train.penalty"] < 0.5
    assert Confidence.runs == 72 // 16 + 1  # once a step


@pytest.mark.parametrize(
    ("term", "says"),
    [
        ("own-vector", r"penalty own-vector: `loss` gave a tensor of shape \(\d+,\); it gives a tensor of one number"),
        ("own-broken-forward", "penalty own-broken-forward.*KeyError.*mine.*mend its `loss`"),
    ],
)
def test_a_term_that_is_wrong_is_told_with_its_name(term: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(NasirError, match=says):
        nasir.api.run(HEAD + PHASE.replace("TERM", term), tmp_path / "run")


def test_what_sees_the_forward_pass_has_a_term() -> None:
    @penalties.register("bad-forward")
    @dataclass(frozen=True, kw_only=True)
    class Bad(Penalty):
        """Without a term."""

        sees = "forward"

    with pytest.raises(UsageError, match="sees the forward pass, but has no `term` that computes it"):
        penalty_named("bad-forward")
