"""The data sets nasir ships: each is `fn(options, where) -> RawData` (or `FileData`), as a third party's would be.

Others add theirs through the entry point group `nasir.datasets`, or `@nasir.registry.datasets.register("name")`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasir.backends.torch.data.folder import image_folder
from nasir.backends.torch.data.named import cifar10, cifar100, fashion_mnist, mnist, svhn
from nasir.backends.torch.data.rawdata import DataContext, FileData, RawData, hold_out, read_options
from nasir.datasets.arrays import class_count, npz_path, read_npz
from nasir.datasets.split import SPLIT_SEED
from nasir.errors import DataError

__all__ = [
    "DataContext",
    "FileData",
    "RawData",
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "image_folder",
    "mnist",
    "npz",
    "svhn",
    "synthetic",
]


def digits(options: Mapping[str, Any], where: DataContext) -> RawData:
    """1,797 real 8x8 grey handwritten digits that scikit-learn carries; a fixed stratified fifth is the test set."""
    from sklearn.datasets import load_digits  # a heavy import that only this data set needs

    read_options("digits", options, {})
    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    names = tuple(str(digit) for digit in range(10))
    return hold_out(torch.from_numpy(pixels), torch.from_numpy(labels.astype(np.int64)), names, 0.2, SPLIT_SEED)


def npz(options: Mapping[str, Any], where: DataContext) -> RawData:
    """Arrays `x_train y_train x_test y_test` in one .npz file (no pickles).

    x: uint8 or floats, [N, C, H, W], grey [N, H, W], or vectors [N, D]; y: whole numbers, 0..classes-1.
    """
    arrays = read_npz(npz_path(options, where))
    parts = [torch.from_numpy(arrays[name]) for name in ("x_train", "y_train", "x_test", "y_test")]
    names = tuple(str(label) for label in range(class_count(arrays)))
    return RawData(parts[0], parts[1], parts[2], parts[3], names)


def synthetic(options: Mapping[str, Any], where: DataContext) -> RawData:
    """Noisy copies of one random smooth pattern a class: learnable in a few steps, for tests and dry runs.

    `features: D` gives float32 vectors [N, D] in place of `channels` x `size` x `size` images.
    """
    defaults = {"classes": 4, "size": 8, "channels": 1, "train": 256, "test": 64, "seed": 0, "features": 0}
    chosen = read_options("synthetic", options, defaults)
    for name, value in chosen.items():
        if value < (0 if name in ("seed", "features", "test") else 1):
            raise DataError(f"data set 'synthetic': option {name!r} is {value}; give a positive whole number")
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence((chosen["seed"], 77))))
    classes, size, channels = chosen["classes"], chosen["size"], chosen["channels"]
    shape = (chosen["features"],) if chosen["features"] else (channels, size, size)
    patterns = random.standard_normal((classes, *shape)).astype(np.float32)
    if not chosen["features"]:
        # averaging neighbours makes patterns that survive a crop by a few pixels
        patterns = patterns + np.roll(patterns, 1, 2) + np.roll(patterns, 1, 3) + np.roll(patterns, (1, 1), (2, 3))
        patterns *= 0.5
    parts: list[Tensor] = []
    for count in (chosen["train"], chosen["test"]):
        labels = np.arange(count, dtype=np.int64) % classes
        values = patterns[labels] + 0.5 * random.standard_normal((count, *shape)).astype(np.float32)
        if not chosen["features"]:
            values = np.clip(np.rint(128 + 40 * values), 0, 255).astype(np.uint8)
        parts += [torch.from_numpy(values), torch.from_numpy(labels)]
    return RawData(parts[0], parts[1], parts[2], parts[3], tuple(f"class{label}" for label in range(classes)))
