"""A data set as the function that reads it gives it back, decoded or as files, and what that function is given."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasir.errors import DataError
from nasir.images.decode import View

SPLIT_SEED = 20  # of test parts cut out here: fixed, so that every run of every seed is judged on the same images


def cache_root() -> Path:
    """Folder for unpacked archives and decoded images: `$NASIR_CACHE`, else `~/.cache/nasir`."""
    return Path(os.environ.get("NASIR_CACHE") or Path.home() / ".cache" / "nasir").expanduser()


@dataclass(frozen=True, slots=True)
class DataContext:
    """Where a data set is read: `base` is the folder that relative paths in the spec are relative to."""

    base: Path = field(default_factory=Path.cwd)

    def path(self, value: str | os.PathLike[str]) -> Path:
        """`value` with `~` expanded and, when relative, taken from `base`."""
        return self.base / Path(value).expanduser()


@dataclass(frozen=True, slots=True)
class Constants:
    """Mean and standard deviation of each channel, for pixels scaled to 0..1."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Files:
    """Paths of image files, and the label of each: int64 [N] in 0..classes-1."""

    paths: tuple[str, ...]
    labels: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, positions: np.ndarray[Any, Any]) -> Files:
        """Those at `positions`, in that order."""
        return Files(tuple(self.paths[position] for position in positions), self.labels[positions])


@dataclass(frozen=True, slots=True)
class FileData:
    """A data set that stays in its files: `workers` processes decode a batch when it is needed (0: this process)."""

    train: Files
    test: Files
    class_names: tuple[str, ...]
    view: View
    workers: int = 0
    constants: Constants | None = None

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


def read_options(dataset: str, options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`options` over `defaults`; an unknown key, or a value of another type than its default, is a DataError.

    A default of None accepts anything (absent); a type in place of a default means that the key is required.
    """
    for key in options:
        if key not in defaults:
            close = difflib.get_close_matches(str(key), list(defaults), n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(defaults) or 'none'}"
            raise DataError(f"data set {dataset!r}: unknown option {key!r}; {hint}")
    merged: dict[str, Any] = {}
    for key, default in defaults.items():
        required = isinstance(default, type)
        if required and key not in options:
            raise DataError(f"data set {dataset!r}: option {key!r} is missing; add it under `options:`")
        value = options.get(key, default)
        kind = default if required else type(default)
        if default is not None and not _is_a(value, kind):
            raise DataError(f"data set {dataset!r}: option {key!r} is {value!r}; expected {kind.__name__}")
        merged[key] = value
    return merged


def _is_a(value: object, kind: type) -> bool:
    if kind is not bool and isinstance(value, bool):
        return False
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def split_indices(labels: np.ndarray[Any, Any], count: int, key: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Sorted positions of `count` examples drawn from `labels` so that each class keeps its share.

    Shares are rounded by largest remainder, so exactly `count` come back; `key` seeds the draw.
    """
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    classes, sizes = np.unique(labels, return_counts=True)
    exact = sizes * count / max(len(labels), 1)
    quota = np.floor(exact).astype(np.int64)
    short = count - int(quota.sum())
    quota[np.argsort(-(exact - quota), kind="stable")[:short]] += 1
    picks = [
        random.permutation(np.flatnonzero(labels == label))[:share] for label, share in zip(classes, quota, strict=True)
    ]
    return np.sort(np.concatenate(picks)) if picks else np.zeros(0, np.int64)


def hold_out(images: Tensor, labels: Tensor, names: tuple[str, ...], fraction: float, seed: int) -> RawData:
    """One labelled set cut into training and test parts, stratified; the cut depends on `seed` alone."""
    train, test = (torch.from_numpy(part) for part in cut(labels.numpy(), fraction, seed))
    return RawData(images[train], labels[train], images[test], labels[test], names)


def cut(labels: np.ndarray[Any, Any], fraction: float, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Sorted positions of the training part and of the test part, which is `fraction` of each class."""
    held = split_indices(labels, round(len(labels) * fraction), (seed, len(labels)))
    return np.setdiff1d(np.arange(len(labels)), held, assume_unique=True), held


def only_classes(raw: RawData | FileData, names: tuple[str, ...], dataset: str) -> RawData | FileData:
    """The examples of some classes, which become labels 0, 1, ... in the order of `names`; DataError for others."""
    for name in names:
        if name not in raw.class_names:
            close = difflib.get_close_matches(name, raw.class_names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"its classes are {', '.join(raw.class_names[:20])}"
            raise DataError(f"data set {dataset!r}: classes: there is no class {name!r}; {hint}")
    number = np.full(len(raw.class_names), -1, dtype=np.int64)
    number[[raw.class_names.index(name) for name in names]] = np.arange(len(names))
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
