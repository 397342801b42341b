"""Folders of images, one a class, decoded once and kept as arrays in the cache; archives of such folders."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tarfile
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from nasir.backends.torch.rawdata import cache_root
from nasir.errors import DataError

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff", ".gif")
_log = logging.getLogger(__name__)


def read_tree(
    folder: Path, size: tuple[int, int] | None, channels: int, names: tuple[str, ...] | None = None
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images uint8 [N, channels, H, W], labels [N] and class names of `folder/<class>/*.jpg` (sorted, so stable).

    `size` = (H, W) to resize to; without it all images must already agree. `names`: the classes expected.
    """
    found = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
    if names is not None and found != names:
        odd = sorted(set(found) ^ set(names))
        raise DataError(f"{folder} has other classes than the training folder: {', '.join(odd)}; make them equal")
    files, digest = _listing(folder, found, size, channels)
    if not files:
        raise DataError(f"{folder} holds no images; expected <class>/<image>.jpg (or {', '.join(_SUFFIXES[1:4])})")
    labels = np.array([label for label, _ in files], dtype=np.int64)
    kept = cache_root() / "decoded" / f"{digest}.npy"
    images = _load(kept, len(files), channels)
    if images is None:
        images = _decode([path for _, path in files], size, channels)
        _store(kept, images)
    return torch.from_numpy(images), torch.from_numpy(labels), found


def _listing(
    folder: Path, names: Sequence[str], size: tuple[int, int] | None, channels: int
) -> tuple[list[tuple[int, str]], str]:
    files: list[tuple[int, str]] = []
    total = newest = 0
    for label, name in enumerate(names):
        with os.scandir(folder / name) as entries:
            images = sorted((e for e in entries if e.name.lower().endswith(_SUFFIXES)), key=lambda e: e.name)
        for entry in images:
            facts = entry.stat()
            total += facts.st_size
            newest = max(newest, facts.st_mtime_ns)
            files.append((label, entry.path))
    key = [str(folder.resolve()), list(names), len(files), total, newest, size, channels]
    return files, hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]


def _decode(paths: Sequence[str], size: tuple[int, int] | None, channels: int) -> np.ndarray[Any, Any]:
    first = _decode_one(paths[0], size, channels)
    images = np.empty((len(paths), *first.shape), np.uint8)
    decode = partial(_decode_one, size=size, channels=channels)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:  # the decoder releases the interpreter lock
        for position, image in enumerate(pool.map(decode, paths)):
            if image.shape != first.shape:
                raise DataError(
                    f"{paths[position]} is {image.shape[2]}x{image.shape[1]}, {paths[0]} is "
                    f"{first.shape[2]}x{first.shape[1]}; give `size:` to resize all of them"
                )
            images[position] = image
    return images


def _decode_one(path: str, size: tuple[int, int] | None, channels: int) -> np.ndarray[Any, Any]:
    try:
        with Image.open(path) as opened:
            image: Image.Image = opened.convert("RGB" if channels == 3 else "L")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a readable image ({error}); remove or replace it") from error
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels.transpose(2, 0, 1) if channels == 3 else pixels[None]


def _load(path: Path, count: int, channels: int) -> np.ndarray[Any, Any] | None:
    try:
        images: np.ndarray[Any, Any] = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        _log.warning("decoded images %s cannot be read (%s); decoding again", path, error)
        return None
    usable = images.dtype == np.uint8 and images.ndim == 4 and images.shape[:2] == (count, channels)
    return images if usable else None


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
