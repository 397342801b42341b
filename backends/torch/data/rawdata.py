"""A data set as the function that reads it gives it back, decoded or as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasir.datasets.decoded import Sizes
from nasir.datasets.options import Constants as Constants
from nasir.datasets.options import DataContext as DataContext
from nasir.datasets.options import read_options as read_options
from nasir.datasets.split import class_numbers, cut
from nasir.errors import DataError
from nasir.images.decode import View
from nasir.images.tree import Files as Files


@dataclass(frozen=True, slots=True)
class Found:
    """What was found where a data set lies, beside its examples: sizes of its images as they are stored, paths of
    those that were left out, remarks."""

    sizes: Sizes | None = None
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FileData:
    """A data set that stays in its files: `workers` processes decode a batch when it is needed (0: this process)."""

    train: Files
    test: Files
    class_names: tuple[str, ...]
    view: View
    workers: int = 0
    constants: Constants | None = None
    found: Found = field(default_factory=Found)

    def __post_init__(self) -> None:
        if not len(self.train):
            raise DataError("the training part is empty; give at least one example")
        if not len(self.test):
            raise DataError("the test part, which the end of a run reads, is empty; give at least one example")


@dataclass(frozen=True, slots=True)
class RawData:
    """Images uint8 [N, C, H, W] (or float32, also as vectors [N, D]), labels int64 [N] in 0..classes-1, on the CPU.

    `constants`: what `normalize: auto` subtracts and divides by; None: measured on the training part.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    class_names: tuple[str, ...]
    constants: Constants | None = None
    found: Found = field(default_factory=Found)

    def __post_init__(self) -> None:
        for part, images, labels in (
            ("train", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            _check_split(part, images, labels, len(self.class_names))
        train, test = self.train_images, self.test_images
        if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
            raise DataError(
                f"train images are {tuple(train.shape[1:])} {train.dtype}, test images {tuple(test.shape[1:])} "
                f"{test.dtype}; both parts need one shape and type"
            )
        if not len(self.train_labels):
            raise DataError("the training part is empty; give at least one example")
        if not len(self.test_labels):
            raise DataError("the test part, which the end of a run reads, is empty; give at least one example")


Loader = Callable[[Mapping[str, Any], DataContext], RawData | FileData]


def _check_split(part: str, images: Tensor, labels: Tensor, classes: int) -> None:
    if images.dtype not in (torch.uint8, torch.float32) or images.ndim not in (2, 4):
        raise DataError(
            f"{part} images have shape {tuple(images.shape)} and type {images.dtype}; "
            "use uint8 or float32, [N, C, H, W] for images or [N, D] for vectors"
        )
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise DataError(
            f"{part} labels have shape {tuple(labels.shape)} and type {labels.dtype}; "
            f"use int64 with one label for each of the {len(images)} images"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError(
            f"{part} labels span {int(labels.min())}..{int(labels.max())}, but there are {classes} classes; "
            f"number them 0..{classes - 1}"
        )
    if images.dtype == torch.float32 and not bool(torch.isfinite(images).all()):
        raise DataError(f"{part} images hold values that are not finite; replace them before training")


def hold_out(images: Tensor, labels: Tensor, names: tuple[str, ...], fraction: float, seed: int) -> RawData:
    """One labelled set cut into training and test parts, stratified; the cut depends on `seed` alone."""
    train, test = (torch.from_numpy(part) for part in cut(labels.numpy(), fraction, seed))
    return RawData(images[train], labels[train], images[test], labels[test], names)


def only_classes(raw: RawData | FileData, names: tuple[str, ...], dataset: str) -> RawData | FileData:
    """The examples of some classes, which become labels 0, 1, ... in the order of `names`; DataError for others."""
    number = class_numbers(raw.class_names, names, dataset)
    if isinstance(raw, FileData):
        parts = [_chosen(files, number) for files in (raw.train, raw.test)]
        return replace(raw, train=parts[0], test=parts[1], class_names=names)
    table = torch.from_numpy(number)
    kept = [torch.nonzero(table[labels] >= 0).squeeze(1) for labels in (raw.train_labels, raw.test_labels)]
    return replace(
        raw,
        train_images=raw.train_images[kept[0]],
        train_labels=table[raw.train_labels[kept[0]]],
        test_images=raw.test_images[kept[1]],
        test_labels=table[raw.test_labels[kept[1]]],
        class_names=names,
    )


def _chosen(files: Files, number: np.ndarray[Any, Any]) -> Files:
    part = files.take(np.flatnonzero(number[files.labels] >= 0))
    return Files(part.paths, number[part.labels])
