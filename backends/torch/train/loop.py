"""One epoch of training, and evaluation: no wait for the device inside an epoch, resumable at any step bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from nasir.backends.torch.device.memory import ran_out
from nasir.backends.torch.device.names import computes_bf16, device_of
from nasir.backends.torch.lower.ensemble import cross_entropy, predicted
from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.optimizers import eager
from nasir.backends.torch.optimizers.groups import set_lr
from nasir.backends.torch.penalties.forward import ForwardPass, ForwardTerms, Teachers, forward_terms_of
from nasir.backends.torch.penalties.regularize import penalties_of
from nasir.backends.torch.train.clip import clipping
from nasir.backends.torch.train.ema import Ema
from nasir.errors import DataError, Diverged, RunError
from nasir.registry import code_of
from nasir.training.data import ExtraMetric
from nasir.training.plans import TrainPlan

_DROPOUT = 4  # purpose of the draw; see data.py for the others


class EpochData(Protocol):
    """What `train_epoch` needs of a data source."""

    @property
    def steps_per_epoch(self) -> int: ...

    def batches(self, epoch: int, start_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass(slots=True)
class Sums:
    """Running totals on the device: `loss` float64 summed over examples, `correct` and `count` int64 scalars.

    `penalty`: that of the weights, float64 summed over examples; None when nothing is penalized.
    """

    loss: Tensor
    correct: Tensor
    count: Tensor
    penalty: Tensor | None = None

    @classmethod
    def zero(cls, device: torch.device) -> Sums:
        """Totals of nothing, on `device`."""
        whole = [torch.zeros((), dtype=torch.int64, device=device) for _ in range(2)]
        return cls(torch.zeros((), dtype=torch.float64, device=device), *whole)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], device: torch.device) -> Sums:
        """What `to_json` wrote, on `device`."""
        sums = cls.zero(device)
        sums.loss.fill_(float(stored["loss"]))
        sums.correct.fill_(int(stored["correct"]))
        sums.count.fill_(int(stored["count"]))
        if "penalty" in stored:
            sums.penalty = torch.full_like(sums.loss, float(stored["penalty"]))
        return sums

    def to_json(self) -> dict[str, float | int]:
        """Totals as numbers, exact in JSON; waits for the device."""
        totals = {
            "loss": self.loss.item(),
            "correct": int(self.correct.item()),
            "count": int(self.count.item()),
        }
        return totals if self.penalty is None else {**totals, "penalty": self.penalty.item()}

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: mean `loss`, logits [n, classes], labels [n]."""
        self.loss += loss.detach().double() * len(labels)
        self.correct += (logits.detach().argmax(1) == labels).sum()
        self.count += len(labels)

    def add_penalty(self, penalty: Tensor, examples: int) -> None:
        """Add the penalty of a step, a float64 scalar, that trained on so many examples."""
        more = penalty * examples
        self.penalty = more if self.penalty is None else self.penalty + more

    def metrics(self) -> dict[str, float]:
        """Mean loss and accuracy (0..1), and the mean penalty if there is one; waits for the device."""
        totals = self.to_json()
        means = {"loss": totals["loss"] / totals["count"], "accuracy": totals["correct"] / totals["count"]}
        return means if "penalty" not in totals else {**means, "penalty": totals["penalty"] / totals["count"]}


@dataclass(frozen=True, slots=True)
class EpochResult:
    """`metrics`: train.loss and train.accuracy (0..1) over the steps done so far in the epoch, with augmentation, and
    train.penalty when the plan has penalties; the loss is the cross-entropy alone, weighted by class where the data say
    so.

    `steps_done` counts from the epoch's start; `finished` is false when `stop` ended it early, and then
    `train_epoch(start_step=steps_done, sums=sums)` goes on as if nothing had happened.
    """

    metrics: dict[str, float]
    steps_done: int
    finished: bool
    sums: Sums
    lr: float


def is_convolutional(model: nn.Module) -> bool:
    """Whether the model has a convolution weight (four axes): such nets gain from bf16 and channels-last."""
    return any(parameter.ndim == 4 for parameter in model.parameters())


def wants_bf16(plan: TrainPlan, model: nn.Module, device: torch.device) -> bool:
    """The plan's precision, with `auto` resolved for this model and device."""
    if plan.precision == "auto":
        return is_convolutional(model) and computes_bf16(device)
    return plan.precision == "bf16"


def wants_channels_last(plan: TrainPlan, model: nn.Module) -> bool:
    """The plan's memory layout, with `auto` resolved: channels last for convolutional nets."""
    return is_convolutional(model) if plan.channels_last == "auto" else plan.channels_last


def prepare(model: nn.Module, plan: TrainPlan) -> None:
    """Lay convolution weights out as the plan wants, in place: the Parameter objects stay the same."""
    wanted = torch.channels_last if wants_channels_last(plan, model) else torch.contiguous_format
    for parameter in model.parameters():
        if parameter.ndim == 4 and not parameter.is_contiguous(memory_format=wanted):
            parameter.data = parameter.data.contiguous(memory_format=wanted)


def train_epoch(
    model: nn.Module,
    optimizer: Optimizer,
    source: EpochData,
    plan: TrainPlan,
    *,
    seed: int,
    epoch: int,
    phase_epoch: int,
    phase_epochs: int | None,
    start_step: int = 0,
    sums: Sums | None = None,
    ema: Ema | None = None,
    trainable: Collection[str] | None = None,
    class_weights: Tensor | None = None,
    teachers: Teachers = MappingProxyType({}),
    stop: Callable[[], bool] = lambda: False,
) -> EpochResult:
    """Train from `start_step` to the end of the epoch, or to the first step after which `stop()` is true.

    `epoch` and `phase_epoch` are 0-based: epochs done before this one, in the run and in the phase. `trainable`
    names the parameters that change (None: all); batch statistics move all the same. `class_weights` [C]: of the labels
    in the loss. `teachers`: networks in evaluation that terms of the loss ask, by name. Every step seeds torch's
    global generator from (seed, epoch, step), so dropout needs no saved state. `sums` is added to in place.
    Diverged when the loss is not finite.
    """
    device = device_of(model)
    prepare(model, plan)
    model.train()
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise RunError("train: every weight is frozen, so nothing can learn; unfreeze a part, or shorten `freeze:`")
    totals = Sums.zero(device) if sums is None else sums
    bf16, steps = wants_bf16(plan, model, device), source.steps_per_epoch
    step, lr = start_step, plan.lr(phase_epoch * steps + start_step, steps, phase_epochs)
    penalize = penalties_of(model, plan.penalties)
    seeing = forward_terms_of(model, plan.penalties)
    clip = clipping(model, plan)
    follow = None if ema is None else ema.follower(model)
    with _only(model, trainable):
        try:
            for x, y in source.batches(epoch, start_step):
                lr = plan.lr(phase_epoch * steps + step, steps, phase_epochs)
                set_lr(optimizer, lr)
                seed_step(seed, epoch, step, device)
                _step(model, optimizer, plan, x, y, bf16, totals, penalize, clip, class_weights, seeing, teachers)
                if follow is not None:
                    follow()
                step += 1
                if stop():
                    break
        finally:  # after a failure too: gradients take the memory of a network
            eager.clear_gradients(optimizer)
    metrics = _checked(totals, lr, epoch, plan)
    return EpochResult(metrics, step, step >= steps, totals, lr)


def _step(
    model: nn.Module,
    optimizer: Optimizer,
    plan: TrainPlan,
    x: Tensor,
    y: Tensor,
    bf16: bool,
    totals: Sums,
    penalize: Callable[[], Tensor] | None = None,
    clip: Callable[[], None] | None = None,
    class_weights: Tensor | None = None,
    seeing: ForwardTerms | None = None,
    teachers: Teachers = MappingProxyType({}),
) -> None:
    eager.clear_gradients(optimizer)
    computing = torch.autocast(x.device.type, torch.bfloat16, enabled=bf16)
    with computing, nullcontext() if seeing is None else seeing.watching(cast(LoweredModule, model)):
        logits = model(x)
    logits = logits.float()  # the loss in fp32: bf16 has 8 bits, too few for a log-sum-exp
    loss = cross_entropy(logits, y, plan.label_smoothing, class_weights)
    whole = loss
    if seeing is not None:
        more = seeing.loss(ForwardPass(x, y, logits, teachers, computing))
        if more is not None:
            whole = loss + more
            totals.add_penalty(more.detach().double(), len(y))
    whole.backward()  # type: ignore[no-untyped-call]
    if penalize is not None:
        totals.add_penalty(penalize(), len(y))
    if clip is not None:
        clip()
    try:
        eager.step(optimizer)
    except Exception as error:  # told here, and not by a block around the step, which would cost every step
        if ran_out(error):
            raise
        with code_of(type(plan.optimizer.options), f"optimizer {plan.optimizer.kind}", "mend its `step`"):
            raise
    totals.add(*predicted(model, logits, loss), y)


def step_seed(seed: int, epoch: int, step: int) -> int:
    """63-bit seed of torch's generators for one step."""
    words = np.random.SeedSequence((seed, _DROPOUT, epoch, step)).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def seed_step(seed: int, epoch: int, step: int, device: torch.device) -> None:
    """Seed torch's generators of the CPU and of `device` for one step: dropout then needs no saved state.

    As `torch.manual_seed` does, without its visit to all devices of all kinds, which takes a hundred times as long.
    """
    number = step_seed(seed, epoch, step)
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(number)


@contextmanager
def _only(model: nn.Module, trainable: Collection[str] | None) -> Iterator[None]:
    """Let only the named parameters have gradients; an optimizer leaves one without gradient as it is."""
    if trainable is None:
        yield
        return
    named = dict(model.named_parameters())
    unknown = sorted(set(trainable) - set(named))
    if unknown or not trainable:
        raise RunError(
            f"train: no parameter called {', '.join(unknown) or '(none named)'}; "
            f"the model has {len(named)}, such as {', '.join(list(named)[:3])}"
        )
    before = {name: parameter.requires_grad for name, parameter in named.items()}
    for name, parameter in named.items():
        parameter.requires_grad_(before[name] and name in trainable)
    try:
        yield
    finally:
        for name, parameter in named.items():
            parameter.requires_grad_(before[name])


def _checked(totals: Sums, lr: float, epoch: int, plan: TrainPlan) -> dict[str, float]:
    metrics = {f"train.{name}": value for name, value in totals.metrics().items()}
    if not math.isfinite(metrics["train.loss"]):
        clip = "" if plan.gradient_clip is not None or plan.adaptive_clip is not None else ", set `gradient_clip: 1.0`"
        raise Diverged(
            f"training diverged: the loss of epoch {epoch + 1} is {metrics['train.loss']} at learning rate {lr:g}; "
            f"lower `lr`, add `warmup: 1 epochs`{clip}, or start a new block near the identity (init: zero)",
            metrics,
        )
    return metrics


def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    plan: TrainPlan,
    metrics: Collection[ExtraMetric] = (),
    answers: list[tuple[Tensor, Tensor]] | None = None,
) -> dict[str, float]:
    """Loss (mean cross-entropy, neither smoothed nor weighted), accuracy (0..1) and further `metrics` in eval mode;
    train flags are put back.

    (labels, predicted classes) of each batch are appended to `answers`.
    """
    device = device_of(model)
    bf16, totals = wants_bf16(plan, model, device), Sums.zero(device)
    extra = {name: torch.zeros((), dtype=torch.int64, device=device) for name in metrics}
    seen = False
    with evaluating(model), torch.no_grad():
        for x, y in batches:
            seen = True
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = model(x)
            logits = logits.float()
            totals.add(functional.cross_entropy(logits, y), logits, y)
            if answers is not None:
                answers.append((y, logits.argmax(1)))
            for name, right in extra.items():
                right += within(logits, y, RANKS[name]).sum()
    if not seen:
        raise DataError("evaluate: there are no examples; give `data:` a `validation:` share")
    count = int(totals.count)
    return {**totals.metrics(), **{name: int(right) / count for name, right in extra.items()}}


RANKS: Mapping[ExtraMetric, int] = {"top5": 5}


def within(logits: Tensor, labels: Tensor, rank: int) -> Tensor:
    """Which samples have fewer than `rank` logits above that of their label: bool [N]. NaN counts as above."""
    own = logits.gather(1, labels.unsqueeze(1))
    return (~(logits <= own)).sum(1) < rank


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for the length of a `with`; then each module's own train flag again (frozen norms stay frozen)."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag
