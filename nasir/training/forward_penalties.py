"""The shipped terms of the loss that see the forward pass; the torch backend has what computes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Lt, MinLen, doc

from nasir.options.ranges import Positive
from nasir.registry import penalties
from nasir.training.penalties import INITIAL, PREVIOUS, Penalty


@penalties.register("distill")
@dataclass(frozen=True, kw_only=True)
class Distill(Penalty):
    """Divergence from the predictions of a teacher, times temperature ** 2 (Hinton et al. 2015)."""

    term = "nasir.backends.torch.penalties.distill:Distillation"
    sees = "forward"

    teacher: Annotated[
        str,
        MinLen(1),
        doc(
            f"{PREVIOUS}: the network as it was when the phase began; {INITIAL}: as it was when the run began; or the "
            "directory of a run"
        ),
    ] = PREVIOUS
    temperature: Annotated[Positive, doc("logits of both are divided by it")] = 4.0


@penalties.register("expected-macs")
@dataclass(frozen=True, kw_only=True)
class ExpectedMacs(Penalty):
    """What the routes of a batch cost in the mean, as a share of the MACs of a sample that runs through all blocks."""

    term = "nasir.backends.torch.penalties.expected_macs:ExpectedMacsTerm"
    sees = "forward"

    target: Annotated[
        Annotated[float, Gt(0), Lt(1)] | None, doc("the square of the distance from this share is penalized instead")
    ] = None
