"""The data sets nasir ships: each is `fn(options, where) -> RawData` (or `FileData`), as a third party's would be.

Others add theirs through the entry point group `nasir.datasets`, or `@nasir.registry.datasets.register("name")`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from nasir.backends.torch.data.folder import image_folder
from nasir.backends.torch.data.named import cifar10, cifar100, fashion_mnist, mnist, svhn
from nasir.backends.torch.data.rawdata import DataContext, FileData, RawData, hold_out, read_options
from nasir.datasets.arrays import class_count, npz_path, read_npz
from nasir.datasets.made import DIGITS, Synthetic, digits_arrays
from nasir.datasets.split import SPLIT_SEED

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
    read_options("digits", options, {})
    images, labels = (torch.from_numpy(array) for array in digits_arrays())
    return hold_out(images, labels, DIGITS, 0.2, SPLIT_SEED)


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
    made = Synthetic.of(options)
    train, test = (torch.from_numpy(values) for values in made.values())
    labels = [torch.from_numpy(made.labels(count)) for count in (made.train, made.test)]
    return RawData(train, labels[0], test, labels[1], made.names)
