"""What all sources of batches share: how data are split, drawn for an epoch and normalised, and their interface."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasir.backends.torch.data.rawdata import Found
from nasir.datasets.moments import normalisation
from nasir.datasets.options import Constants
from nasir.datasets.summary import counted, summarize
from nasir.datasets.weights import class_weights
from nasir.errors import DataError
from nasir.records.data import DataSummary
from nasir.training.plans import DataPlan

Batches = Iterator[tuple[Tensor, Tensor]]
_Array = np.ndarray[Any, Any]
_ORDER = 3  # purposes of a draw: no two share a random stream (1, 2, 6: splits, in `datasets`; 4: dropout, in `train`)
RESIZED = 5


@dataclass(frozen=True, slots=True)
class EpochDraw:
    """An epoch's order [n] of the training part, and for each of its places [n] the offsets of a crop and mirroring."""

    order: _Array
    top: _Array
    left: _Array
    mirrored: _Array


class BatchSource(ABC):
    """Training, validation and, on explicit demand, test batches of one data set on one device.

    Batches are (x, y): x float32 [n, C, H, W] (in channels-last memory if asked) or [n, D], y int64 [n]. `class_names`
    and `shape` (one example, without batch) are what a network must fit. `class_weights`: float32 [C] that the loss
    weighs examples with by their class, None: all alike. `fused`: whether batches are made by few
    operations, each for several purposes, instead of those that a CPU does quickly; None: unless the device is a CPU.
    Either way they have the same bits.
    """

    def __init__(
        self,
        plan: DataPlan,
        device: torch.device,
        class_names: tuple[str, ...],
        channels_last: bool = False,
        fused: bool | None = None,
    ) -> None:
        self.plan = plan
        self.device = device
        self.class_names = class_names
        self.channels_last = channels_last
        self.fused = device.type != "cpu" if fused is None else fused
        self._scale: Tensor
        self._shift: Tensor
        self._mean: _Array = np.zeros(0)  # what is normalised away, for values in 0..1
        self._deviation: _Array = np.zeros(0)
        self._counts: dict[str, tuple[int, ...]] = {}
        self._found = Found()
        self.class_weights: Tensor | None = None

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one example without batch: (C, H, W) or (D,)."""

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of the training and validation parts; of files their paths, sizes and times of change."""

    @property
    @abstractmethod
    def train_size(self) -> int:
        """Examples trained on, after the validation split and `subset`."""

    @property
    @abstractmethod
    def validation_size(self) -> int:
        """Examples held out of the training data."""

    @property
    def steps_per_epoch(self) -> int:
        """Training batches in an epoch; a last batch of one example is left out (batch norm cannot use it)."""
        full, rest = divmod(self.train_size, self.plan.batch_size)
        # with a batch size of 1 there is no rest; a whole set of one example stays trainable
        extra = rest > 0 and not self.plan.drop_last and (rest > 1 or full == 0)
        return max(full + extra, 1)

    @abstractmethod
    def batches(self, epoch: int, start_step: int = 0) -> Batches:
        """Training batches of `epoch` (0-based) from `start_step` on; the same for the same (seed, epoch, step)."""

    @abstractmethod
    def validation(self) -> Batches:
        """Validation batches in fixed order, without augmentation."""

    @abstractmethod
    def train_plain(self) -> Batches:
        """The training part in fixed order, without augmentation, in batches for evaluation."""

    @abstractmethod
    def probe(self, count: int) -> Tensor:
        """The first `count` training examples, neither shuffled nor augmented: what rewrites are measured on."""

    @abstractmethod
    def labelled(self, count: int) -> tuple[Tensor, Tensor]:
        """(x, y) of `count` training examples, spread evenly over the training part and not augmented."""

    def _spread(self, count: int) -> _Array:
        """Positions of `count` examples, evenly spread: files of one class often lie together."""
        count = min(count, self.train_size)
        return np.arange(count) * self.train_size // max(count, 1)

    @abstractmethod
    def test(self) -> Batches:
        """Test batches; nothing else reads the test part."""

    def _normalise(
        self, shape: tuple[int, ...], unit: float, constants: Constants | None, parts: Iterable[Tensor]
    ) -> None:
        """Set factor and offset [H, W, C] (or [D]) that make x * factor + offset zero-mean and unit-variance.

        `shape` is that of an example, `unit` the value that stands for 1; `parts` ([n, C, H, W] or [n, D]) are
        measured if the plan wants normalisation and the data set gives no `constants`.
        """
        channels = shape[0]
        mean, deviation = np.zeros(channels), np.full(channels, unit)
        if self.plan.normalize is None and constants is not None:
            raise DataError(
                f"data set {self.plan.dataset!r} is given mean and std, and `normalize: none`; remove one of the two"
            )
        if constants is not None:
            mean, deviation = np.array(constants.mean) * unit, np.array(constants.deviation) * unit
        elif self.plan.normalize is not None:
            mean, deviation = normalisation((part.numpy() for part in parts), unit)
        if constants is not None or self.plan.normalize is not None:
            self._mean, self._deviation = mean / unit, deviation / unit
        # full-size factors, not one number a channel: broadcasting along a last axis of 3 costs four times as much
        size = (*shape[1:], channels)
        for name, values in (("_scale", 1.0 / deviation), ("_shift", -mean / deviation)):
            factor = torch.from_numpy(values.astype(np.float32)).expand(size).contiguous()
            setattr(self, name, factor.to(self.device))

    def _count(self, found: Found, train: _Array, validation: _Array, test: _Array) -> None:
        """Note what was found, and how many examples of each class the labels of the parts say there are."""
        self._found = found
        self._counts = {
            part: counted(labels, len(self.class_names))
            for part, labels in (("train", train), ("validation", validation), ("test", test))
        }
        weights = class_weights(self.plan, self.class_names, self._counts["train"])
        if weights is not None:
            self.class_weights = torch.from_numpy(weights.astype(np.float32)).to(self.device)

    def summary(self) -> DataSummary:
        """The data as they are trained on; of the test part only the labels are counted."""
        return summarize(
            self.plan,
            self.class_names,
            self._counts,
            self.shape,
            sizes=self._found.sizes,
            mean=self._mean.tolist(),
            std=self._deviation.tolist(),
            skipped=self._found.skipped,
            notes=self._found.notes,
        )

    def _digest(self, parts: Iterable[bytes | memoryview]) -> str:
        """SHA-256 of `parts`, names of classes and normalisation."""
        total = hashlib.sha256(repr((self.class_names, self.shape)).encode())
        for part in (*parts, self._scale.cpu().numpy().data, self._shift.cpu().numpy().data):
            total.update(part)
        return total.hexdigest()

    def _finish(self, values: Tensor) -> Tensor:
        """Stored values on the device, [n, H, W, C] or [n, D], as a batch."""
        if self.fused:
            return self._finish_fused(values)
        x = values.to(torch.float32, copy=True).mul_(self._scale).add_(self._shift)
        if x.ndim == 2:
            return x
        x = x.permute(0, 3, 1, 2)
        return x if self.channels_last else x.contiguous()

    def _finish_fused(self, values: Tensor) -> Tensor:
        """One product, which also converts, and one sum, which also sets the layout; not both in one rounding."""
        x, shift = torch.mul(values, self._scale), self._shift
        if x.ndim == 4:
            x, shift = x.permute(0, 3, 1, 2), shift.permute(2, 0, 1)
            if not self.channels_last:
                return torch.add(x, shift, out=torch.empty(x.shape, device=x.device))
        return x.add_(shift)


def random_stream(*key: int) -> np.random.Generator:
    """Random numbers that depend on `key` alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def draw_epoch(plan: DataPlan, count: int, epoch: int) -> EpochDraw:
    """The draw of `epoch` for `count` training examples."""
    random = random_stream(plan.seed, _ORDER, epoch)
    span = 2 * plan.pad + 1
    return EpochDraw(
        random.permutation(count),
        random.integers(0, span, count),
        random.integers(0, span, count),
        random.integers(0, 2, count).astype(np.bool_),
    )
