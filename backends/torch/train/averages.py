"""Averages of a model's weights in a loop of one's own, through the rewrites of the model.

An average is an `Ema`, or a wrapper with a copy of the model as its `module` (torch's `AveragedModel`, timm's
`ModelEmaV3`) or `ema` (timm's `ModelEma`), which follows the weights of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor, nn

from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.train.ema import Ema, carried_averages
from nasir.errors import UsageError
from nasir.rewriting.rewrite import Rewrite

Average: TypeAlias = Any  # what has no common base


def checked_averages(averages: Iterable[Average], model: LoweredModule) -> list[Average]:
    """The averages; UsageError for what is none, or follows a network that is not the model's."""
    if not isinstance(averages, Iterable) or isinstance(averages, Ema | nn.Module):
        raise UsageError("apply: `averages` is a list of averages; write averages=[ema]")
    listed = list(averages)
    for index, average in enumerate(listed):
        place = f"apply: averages[{index}] ({type(average).__name__})"
        if isinstance(average, Ema):
            follows = average.tensors.keys() == model.tensors(hidden=False).keys()
        elif (inner := _copy_in(average)) is not None:
            follows = inner is not model and inner.graph == model.graph
        else:
            raise UsageError(f"{place} has no `module` that is a copy of the model, as AveragedModel(model) has")
        if not follows:
            raise UsageError(
                f"{place} is not of the network that the model has now: give it to every rewrite, or make it anew"
            )
    return listed


def _copy_in(average: Average) -> LoweredModule | None:
    held = (getattr(average, name, None) for name in ("module", "ema"))
    return next((copy for copy in held if isinstance(copy, LoweredModule)), None)


def moved_averages(
    averages: Iterable[Average], model: LoweredModule, new: LoweredModule, rewrite: Rewrite
) -> list[Callable[[], None]]:
    """What is to be called to have the averages follow the `rewrite` from `model` to `new`: until then nothing changes.

    They go through the plan like the weights; what is new starts as it does in `new`.
    """
    ready: list[Callable[[], None]] = []
    for average in averages:
        if isinstance(average, Ema):
            ready.append(partial(_replace, average, carried_averages(average.tensors, rewrite, model, new)))
        else:
            inner = _copy_in(average)
            assert inner is not None  # it was checked
            inner.seed, inner.ordinal = model.seed, model.ordinal  # the key of random values
            ready.append(partial(inner.become, inner.rewritten(rewrite)))
    return ready


def _replace(average: Ema, tensors: dict[str, Tensor]) -> None:
    average.tensors = tensors
