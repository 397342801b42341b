"""The data set `image_folder`: a tree of images, decoded into memory or, when that would be too much, streamed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nasir.backends.torch.data.images import find_files, read_files, view_of
from nasir.backends.torch.data.rawdata import (
    SPLIT_SEED,
    Constants,
    DataContext,
    FileData,
    Files,
    RawData,
    cut,
    hold_out,
    read_options,
)
from nasir.cores import cores
from nasir.errors import DataError
from nasir.images.decode import View

STREAM_ABOVE = 4 * 2**30  # bytes of the decoded training images from which on `stream: auto` streams
MOST_WORKERS = 8  # by default: more rarely help, and each holds two batches
_KNOWN: Mapping[str, Any] = {
    "path": str,
    "test_path": None,
    "test_fraction": None,
    "size": None,
    "resize": None,
    "channels": 3,
    "stream": None,
    "workers": None,
    "mean": None,
    "std": None,
}


def image_folder(options: Mapping[str, Any], where: DataContext) -> RawData | FileData:
    """One folder a class, images in it; tested on `test_path`, a `test_fraction`, or `test/` beside `train/` in `path`.

    `size`: side length (or [height, width]) of what the network sees, needed when the images differ: they are
    resized to it. With `resize` the shorter side becomes that long and the middle of `size` is cut out (256 and 224
    are usual for ImageNet). `channels`: 3 or 1 (grey). `mean` and `std`: a number for each channel, of pixels in
    0..1, that normalisation uses; without them they are measured.

    `stream: true` leaves the images in their files; `workers` processes (default: the cores this process may use, at
    most 8; 0: none) decode each when a batch needs it. `false` decodes all into memory, once, and keeps the result
    in the cache; `auto` streams when the decoded training images would take more than 4 GiB. Either way the network
    sees the same pixels; only the augmentation `random_resized_crop` needs streaming, and means and deviations are
    then measured on 2,000 images instead of all.
    """
    chosen = read_options("image_folder", options, _KNOWN)
    path = where.path(chosen["path"])
    if not path.is_dir():
        raise _fault(f"no folder {path}; correct `path:` (relative to the spec's folder)")
    size, channels = _size(chosen["size"]), chosen["channels"]
    if channels not in (1, 3):
        raise _fault(f"channels is {channels!r}; use 3 (colour) or 1 (grey)")
    shorter, constants = _shorter(chosen["resize"], size), _constants(chosen["mean"], chosen["std"], channels)
    workers, fraction = _workers(chosen["workers"]), _fraction(chosen["test_fraction"])
    if fraction is None:
        train_root, test_root = _folders(path, chosen["test_path"], where)
        train, names = find_files(train_root)
        test, _ = find_files(test_root, names)
    else:
        whole, names = find_files(path)
        train, test = (whole.take(part) for part in cut(whole.labels, fraction, SPLIT_SEED))
    view = view_of(train.paths[0], size, channels, shorter)
    if _streams(chosen["stream"], train, view):
        return FileData(train, test, names, view, workers, constants)
    if fraction is None:
        images = [read_files(root, files, view) for root, files in ((train_root, train), (test_root, test))]
        labels = [torch.from_numpy(files.labels) for files in (train, test)]
        return RawData(images[0], labels[0], images[1], labels[1], names, constants)
    both = read_files(path, whole, view), torch.from_numpy(whole.labels)
    return replace(hold_out(*both, names, fraction, SPLIT_SEED), constants=constants)


def _streams(wanted: object, train: Files, view: View) -> bool:
    if wanted is None or wanted == "auto":
        return len(train) * view.channels * view.size[0] * view.size[1] > STREAM_ABOVE
    if isinstance(wanted, bool):
        return wanted
    raise _fault(f"stream is {wanted!r}; use auto, true or false")


def _fault(text: str) -> DataError:
    return DataError(f"data set 'image_folder': {text}")


def _folders(path: Path, test_path: object, where: DataContext) -> tuple[Path, Path]:
    if isinstance(test_path, str):
        test = where.path(test_path)
        if not test.is_dir():
            raise _fault(f"no folder {test}; correct `test_path:`")
        return path, test
    if (path / "train").is_dir() and (path / "test").is_dir():
        return path / "train", path / "test"
    raise _fault(
        f"{path} says nothing about test data; give `test_path:` or `test_fraction:`, "
        "or put the classes below train/ and test/"
    )


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _size(value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    pair: list[Any] = list(value) if isinstance(value, list | tuple) else [value, value]
    if len(pair) == 2 and all(_whole(side, 1) for side in pair):
        return int(pair[0]), int(pair[1])
    raise _fault(f"size is {value!r}; give a side in pixels, or [height, width]")


def _shorter(value: object, size: tuple[int, int] | None) -> int | None:
    if value is None:
        return None
    if size is not None and isinstance(value, int) and _whole(value, max(size)):
        return value
    raise _fault(f"resize is {value!r}, size {size}; give `size:` and a side in pixels that is no smaller")


def _fraction(value: object) -> float | None:
    if value is None or (isinstance(value, float) and 0 < value < 1):
        return value
    raise _fault(f"test_fraction is {value!r}; give 0 < f < 1")


def _workers(value: object) -> int:
    if value is None:
        return min(cores(), MOST_WORKERS)
    if isinstance(value, int) and _whole(value, 0):
        return value
    raise _fault(f"workers is {value!r}; give a number of processes, or 0 to decode in this one")


def _constants(mean: object, deviation: object, channels: int) -> Constants | None:
    if mean is None and deviation is None:
        return None
    pairs: list[tuple[float, ...]] = []
    for name, value, least in (("mean", mean, 0.0), ("std", deviation, 1e-6)):
        values = list(value) if isinstance(value, list | tuple) else []
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if len(numbers) != channels or len(values) != channels or not all(least <= number <= 1 for number in numbers):
            raise _fault(
                f"{name} is {value!r}; give both mean and std, each a list of {channels} numbers of pixels in 0..1 "
                "(ImageNet's are [0.485, 0.456, 0.406] and [0.229, 0.224, 0.225]), or neither"
            )
        pairs.append(tuple(float(number) for number in numbers))
    return Constants(pairs[0], pairs[1])
