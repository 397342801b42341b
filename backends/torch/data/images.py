"""Folders of images, one a class, decoded once and kept as arrays in the cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from nasir.backends.torch.data.rawdata import Files, cache_root
from nasir.errors import DataError
from nasir.images.decode import ImageSource, View, opened
from nasir.images.pool import decode_all

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff", ".gif")
_log = logging.getLogger(__name__)
Image = TypeVar("Image", bound=ImageSource)


def find_files(folder: Path, names: tuple[str, ...] | None = None) -> tuple[Files, tuple[str, ...]]:
    """The images `folder/<class>/*.jpg`, sorted by class and name, and the classes; `names`: the classes expected."""
    images_of: dict[str, list[str]] = {entry.name: [] for entry in os.scandir(folder) if entry.is_dir()}
    for name, images in images_of.items():
        with os.scandir(folder / name) as entries:
            images += (entry.path for entry in entries if entry.name.lower().endswith(SUFFIXES))
    paths, labels, classes = by_class(str(folder), images_of, names)
    return Files(tuple(paths), labels), classes


def by_class(
    place: str, images_of: Mapping[str, list[Image]], names: tuple[str, ...] | None = None
) -> tuple[list[Image], np.ndarray[Any, Any], tuple[str, ...]]:
    """The images of all classes, sorted by class and name, the label of each, int64 [N], and the classes.

    DataError where there are none, or other classes than `names`; it calls where they were found `place`.
    """
    classes = tuple(sorted(images_of))
    if names is not None and classes != names:
        odd = sorted(set(classes) ^ set(names))
        raise DataError(f"{place} has other classes than the training folder: {', '.join(odd)}; make them equal")
    images = [image for name in classes for image in sorted(images_of[name])]
    if not images:
        raise DataError(f"{place} holds no images; expected <class>/<image>.jpg (or {', '.join(SUFFIXES[1:4])})")
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(images_of[name]) for name in classes])
    return images, labels, classes


def view_of(first: ImageSource, size: tuple[int, int] | None, channels: int, shorter: int | None = None) -> View:
    """The view that options ask for; without `size`, that of the `first` image, which all others must share."""
    if size is not None:
        return View(size, channels, shorter)
    with opened(first) as image:
        return View((image.height, image.width), channels, fixed=True)


def read_files(folder: Path, files: Files, view: View) -> Tensor:
    """All of `files`, which lie in `folder`, as uint8 [N, channels, H, W]; decoded once and kept in the cache."""
    kept = cache_root() / "decoded" / f"{_digest(folder, files, view)}.npy"
    shape = (len(files), view.channels, *view.size)
    arrays = load_arrays(kept, 1)
    if arrays is None or arrays[0].dtype != np.uint8 or arrays[0].shape != shape:
        arrays = [decode_all(files.paths, view)]
        store_arrays(kept, arrays)
    return torch.from_numpy(arrays[0])


def read_tree(
    folder: Path, size: tuple[int, int] | None, channels: int, names: tuple[str, ...] | None = None
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images uint8 [N, channels, H, W], labels [N] and class names of `folder/<class>/*.jpg` (sorted, so stable).

    `size` = (H, W) to resize to; without it all images must already agree. `names`: the classes expected.
    """
    files, classes = find_files(folder, names)
    images = read_files(folder, files, view_of(files.paths[0], size, channels))
    return images, torch.from_numpy(files.labels), classes


def _digest(folder: Path, files: Files, view: View) -> str:
    """Name of the decoded images in the cache: other files, newer ones or another view give another name."""
    total = newest = 0
    for path in files.paths:
        facts = os.stat(path)
        total += facts.st_size
        newest = max(newest, facts.st_mtime_ns)
    names = sorted({os.path.basename(os.path.dirname(path)) for path in files.paths})
    size = None if view.fixed else view.size
    key: list[object] = [str(folder.resolve()), names, len(files), total, newest, size, view.channels]
    key += [] if view.shorter is None else [view.shorter]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]


def load_arrays(path: Path, count: int) -> list[np.ndarray[Any, Any]] | None:
    """The arrays that `store_arrays` kept in the cache; None where there are none, or not `count` whole ones."""
    try:
        with path.open("rb") as file:
            return [np.load(file, allow_pickle=False) for _ in range(count)]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        _log.warning("decoded images %s cannot be read (%s); decoding again", path, error)
        return None


def store_arrays(path: Path, arrays: Sequence[np.ndarray[Any, Any]]) -> None:
    """Keep arrays for the next run; a cache that cannot be written costs time, not the run."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            for array in arrays:
                np.save(file, array, allow_pickle=False)
        aside.replace(path)
    except OSError as error:
        _log.warning("decoded images are not kept in %s (%s); set NASIR_CACHE to a writable folder", path, error)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
