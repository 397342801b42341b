"""The data set `image_folder` as its options describe it: which images, of which classes, in which part, how seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nasir.cores import cores
from nasir.datasets.decoded import Sizes, examine, read_decoded, usable, view_of
from nasir.datasets.options import Constants, DataContext, read_options
from nasir.datasets.split import SPLIT_SEED, cut
from nasir.errors import DataAbsent, DataError
from nasir.images.decode import MOST_PIXELS, Fault, View
from nasir.images.tree import Files, find_files

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
    "max_pixels": MOST_PIXELS,
    "unreadable": "refuse",
}
_Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Folder:
    """Images found, none of them read. `parts`: where the training and the test part lie, or, where `fraction` is cut
    out for testing, the one that both come from. `skip`: leave out what is damaged. `notes`: remarks on what was found.
    """

    parts: tuple[tuple[Path, Files], ...]
    fraction: float | None
    names: tuple[str, ...]
    view: View
    stream: bool
    workers: int
    constants: Constants | None
    skip: bool
    notes: tuple[str, ...]

    def divided(self, files: Files) -> tuple[Files, Files]:
        """The training and the test part of the one part."""
        assert self.fraction is not None
        train, test = cut(files.labels, self.fraction, SPLIT_SEED)
        return files.take(train), files.take(test)

    def files(self) -> tuple[Files, Files]:
        """The training and the test part, whether their images can be used or not."""
        if self.fraction is not None:
            return self.divided(self.parts[0][1])
        return self.parts[0][1], self.parts[1][1]


@dataclass(frozen=True, slots=True)
class Usable:
    """The images of each part that can be used: `files`, and of those that were decoded `images`, uint8 [N, C, H, W].

    `skipped`: paths of the damaged ones that were left out.
    """

    files: tuple[Files, ...]
    images: tuple[_Array, ...]
    sizes: Sizes | None
    skipped: tuple[str, ...]


def find_folder(options: Mapping[str, Any], where: DataContext) -> Folder:
    """What the options of `image_folder` name; DataError where they are wrong, DataAbsent where nothing lies there."""
    chosen = read_options("image_folder", options, _KNOWN)
    size, channels = _size(chosen["size"]), chosen["channels"]
    if channels not in (1, 3):
        raise _fault(f"channels is {channels!r}; use 3 (colour) or 1 (grey)")
    shorter, constants = _shorter(chosen["resize"], size), _constants(chosen["mean"], chosen["std"], channels)
    workers, fraction = _workers(chosen["workers"]), _fraction(chosen["test_fraction"])
    most, skip = _most(chosen["max_pixels"]), _skip(chosen["unreadable"])
    stream = chosen["stream"]
    if not (stream is None or stream == "auto" or isinstance(stream, bool)):
        raise _fault(f"stream is {stream!r}; use auto, true or false")
    path = where.path(chosen["path"])
    if not path.is_dir():
        raise DataAbsent(_text(f"no folder {path}; correct `path:` (relative to the spec's folder)"))
    roots = (path,) if fraction is not None else _folders(path, chosen["test_path"], where)
    train, tree = find_files(roots[0])
    parts, notes = [(roots[0], train)], tree.notes
    for root in roots[1:]:
        test, tests = find_files(root, tree)
        parts.append((root, test))
        notes += tests.notes
    view = view_of(train.paths, size, channels, shorter, most)
    trained = len(train) - (0 if fraction is None else round(len(train) * fraction))
    if not isinstance(stream, bool):
        stream = trained * view.channels * view.size[0] * view.size[1] > STREAM_ABOVE
    return Folder(tuple(parts), fraction, tree.classes, view, stream, workers, constants, skip, notes)


def read_folder(folder: Folder) -> Usable:
    """What of the images can be used, decoded unless they are streamed; DataError lists all that cannot."""
    found: list[tuple[_Array, _Array, tuple[Fault, ...]]] = []  # images, sizes and faults of each part
    for root, files in folder.parts:
        if folder.stream:
            found.append((np.empty(0), *examine(root, files, folder.view, folder.skip)))
        else:
            found.append(read_decoded(root, files, folder.view))
    every: list[Fault] = []
    total = 0
    for (_, files), (_, _, faults) in zip(folder.parts, found, strict=True):
        every += [fault._replace(place=total + fault.place) for fault in faults]
        total += len(files)
    kept = usable(every, total, folder.skip)
    paths = [path for _, files in folder.parts for path in files.paths]
    left: list[Files] = []
    images: list[_Array] = []
    start = 0
    for (_, files), (decoded, _, faults) in zip(folder.parts, found, strict=True):
        own = kept[(kept >= start) & (kept < start + len(files))] - start
        left.append(files.take(own) if faults else files)
        if not folder.stream:
            images.append(decoded[own] if faults else decoded)
        start += len(files)
    sizes = Sizes.of(np.concatenate([sizes for _, sizes, _ in found]))
    return Usable(tuple(left), tuple(images), sizes, tuple(paths[fault.place] for fault in every))


def _text(text: str) -> str:
    return f"data set 'image_folder': {text}"


def _fault(text: str) -> DataError:
    return DataError(_text(text))


def _folders(path: Path, test_path: object, where: DataContext) -> tuple[Path, Path]:
    if isinstance(test_path, str):
        test = where.path(test_path)
        if not test.is_dir():
            raise DataAbsent(_text(f"no folder {test}; correct `test_path:`"))
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


def _most(value: object) -> int:
    if isinstance(value, int) and _whole(value, 1):
        return value
    raise _fault(f"max_pixels is {value!r}; give the number of pixels (width times height) that an image may have")


def _skip(value: object) -> bool:
    if value in ("refuse", "skip"):
        return value == "skip"
    raise _fault(f"unreadable is {value!r}; use refuse, or skip to leave damaged images out")


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
