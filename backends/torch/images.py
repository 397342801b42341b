"""Folders of images, one a class, decoded once and kept as arrays in the cache; archives of such folders."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from nasir.backends.torch.rawdata import Files, View, cache_root
from nasir.errors import DataError

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff", ".gif")
_log = logging.getLogger(__name__)


def find_files(folder: Path, names: tuple[str, ...] | None = None) -> tuple[Files, tuple[str, ...]]:
    """The images `folder/<class>/*.jpg`, sorted by class and name, and the classes; `names`: the classes expected."""
    found = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
    if names is not None and found != names:
        odd = sorted(set(found) ^ set(names))
        raise DataError(f"{folder} has other classes than the training folder: {', '.join(odd)}; make them equal")
    paths: list[str] = []
    counts: list[int] = []
    for name in found:
        with os.scandir(folder / name) as entries:
            images = sorted(entry.path for entry in entries if entry.name.lower().endswith(_SUFFIXES))
        paths += images
        counts.append(len(images))
    if not paths:
        raise DataError(f"{folder} holds no images; expected <class>/<image>.jpg (or {', '.join(_SUFFIXES[1:4])})")
    return Files(tuple(paths), np.repeat(np.arange(len(found), dtype=np.int64), counts)), found


def view_of(files: Files, size: tuple[int, int] | None, channels: int, shorter: int | None = None) -> View:
    """The view that options ask for; without `size`, that of the first image, which all others must share."""
    if size is not None:
        return View(size, channels, shorter)
    with opened(files.paths[0]) as image:
        return View((image.height, image.width), channels, fixed=True)


def read_files(folder: Path, files: Files, view: View) -> Tensor:
    """All of `files`, which lie in `folder`, as uint8 [N, channels, H, W]; decoded once and kept in the cache."""
    kept = cache_root() / "decoded" / f"{_digest(folder, files, view)}.npy"
    images = _load(kept, (len(files), view.channels, *view.size))
    if images is None:
        images = _decode(files.paths, view)
        _store(kept, images)
    return torch.from_numpy(images)


def read_tree(
    folder: Path, size: tuple[int, int] | None, channels: int, names: tuple[str, ...] | None = None
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images uint8 [N, channels, H, W], labels [N] and class names of `folder/<class>/*.jpg` (sorted, so stable).

    `size` = (H, W) to resize to; without it all images must already agree. `names`: the classes expected.
    """
    files, found = find_files(folder, names)
    images = read_files(folder, files, view_of(files, size, channels))
    return images, torch.from_numpy(files.labels), found


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


def _decode(paths: Sequence[str], view: View) -> np.ndarray[Any, Any]:
    images = np.empty((len(paths), view.channels, *view.size), np.uint8)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:  # the decoder releases the interpreter lock
        for position, image in enumerate(pool.map(partial(decode, view=view), paths)):
            images[position] = image.transpose(2, 0, 1)
    return images


def decode(path: str, view: View) -> np.ndarray[Any, Any]:
    """One image as uint8 [H, W, C]; DataError names the file."""
    return pixels(fitted(load(path, view.channels), view, path))


@contextmanager
def opened(path: str) -> Iterator[Image.Image]:
    """An image file of which so far only the header is read; whatever Pillow finds wrong becomes a DataError."""
    try:
        with Image.open(path) as image:
            yield image
    # damaged files of several formats end in the last two
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} is not a readable image ({error}); remove or replace it") from error


def load(path: str, channels: int) -> Image.Image:
    """The whole image, in colour (3 channels) or grey (1)."""
    with opened(path) as image:
        return image.convert("RGB" if channels == 3 else "L")


def fitted(image: Image.Image, view: View, path: str) -> Image.Image:
    """`image` at the size of `view`; the file's name is for the error message."""
    height, width = view.size
    if view.shorter is not None:
        # sizes and offsets as in torchvision's resize and center_crop
        least = min(image.size)
        wide, high = (side * view.shorter // least for side in image.size)
        left, top = round((wide - width) / 2), round((high - height) / 2)
        return _resized(image, wide, high).crop((left, top, left + width, top + height))
    if view.fixed and image.size != (width, height):
        raise DataError(
            f"{path} is {image.width}x{image.height}, the first image is {width}x{height}; "
            "give `size:` to resize all of them"
        )
    return _resized(image, width, height)


def resized_part(image: Image.Image, box: tuple[int, int, int, int], size: tuple[int, int]) -> Image.Image:
    """The part (top, left, height, width) of `image`, resized to (height, width)."""
    top, left, height, width = box
    return _resized(image.crop((left, top, left + width, top + height)), size[1], size[0])


def pixels(image: Image.Image) -> np.ndarray[Any, Any]:
    """uint8 [H, W, C]."""
    values = np.asarray(image)
    return values if values.ndim == 3 else values[..., None]


def _resized(image: Image.Image, width: int, height: int) -> Image.Image:
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)


def _load(path: Path, shape: tuple[int, ...]) -> np.ndarray[Any, Any] | None:
    try:
        images: np.ndarray[Any, Any] = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        _log.warning("decoded images %s cannot be read (%s); decoding again", path, error)
        return None
    return images if images.dtype == np.uint8 and images.shape == shape else None


def _store(path: Path, images: np.ndarray[Any, Any]) -> None:
    """Keep decoded images for the next run; a cache that cannot be written costs time, not the run."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            np.save(file, images, allow_pickle=False)
        aside.replace(path)
    except OSError as error:
        _log.warning("decoded images are not kept in %s (%s); set NASIR_CACHE to a writable folder", path, error)
        aside.unlink(missing_ok=True)


def unpack(archive: Path) -> Path:
    """The folder that `archive` (.tar, .tar.gz, .zip) is unpacked to in the cache; done once for each version of it.

    Members that would land outside that folder, links out of it and devices are refused.
    """
    facts = archive.stat()
    key = json.dumps([str(archive.resolve()), facts.st_size, facts.st_mtime_ns])
    target = cache_root() / "unpacked" / f"{archive.name.split('.')[0]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if target.is_dir():
        return target
    aside = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        aside.mkdir(parents=True, exist_ok=True)
        _extract(archive, aside)
        if not target.is_dir():  # another process may have been faster
            aside.rename(target)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{archive} cannot be unpacked ({error}); fetch it again") from error
    except OSError as error:
        if not target.is_dir():
            raise DataError(
                f"{archive} cannot be unpacked to {target.parent} ({error}); "
                "free space there, or set NASIR_CACHE to a writable folder"
            ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _extract(archive: Path, folder: Path) -> None:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)  # drops drive letters, leading slashes and ".." by itself
        return
    with tarfile.open(archive) as packed_tar:
        packed_tar.extractall(folder, filter="data")
