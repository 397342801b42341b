"""Images of a tree, decoded once and kept as arrays in the cache; and what can be told of them without decoding."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nasir.errors import DataError
from nasir.images.decode import MOST_PIXELS, DamagedImage, Fault, ImageSource, View, stored_size
from nasir.images.pool import Decoded, decode_each, refuse
from nasir.images.tree import Files, Tree, find_files

MEANING = 2  # of decoded pixels: raised where the same file becomes other pixels, so that older ones are decoded again
_THREADS = 16
_log = logging.getLogger(__name__)
_Array = np.ndarray[Any, Any]


class Sizes(NamedTuple):
    """(height, width) of the smallest, the median and the largest image, by area, as they are stored."""

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]

    @classmethod
    def of(cls, sizes: _Array) -> Sizes | None:
        """Those of heights and widths [N, 2]; None where there is no image that has a size."""
        known = sizes[sizes[:, 0] > 0]
        if not len(known):
            return None
        order = np.argsort(known.astype(np.int64).prod(1), kind="stable")
        return cls(*((int(known[at][0]), int(known[at][1])) for at in (order[0], order[len(order) // 2], order[-1])))


def cache_root() -> Path:
    """Folder for unpacked archives and decoded images: `$NASIR_CACHE`, else `~/.cache/nasir`."""
    return Path(os.environ.get("NASIR_CACHE") or Path.home() / ".cache" / "nasir").expanduser()


def view_of(
    sources: Sequence[ImageSource],
    size: tuple[int, int] | None,
    channels: int,
    shorter: int | None = None,
    most_pixels: int = MOST_PIXELS,
) -> View:
    """The view that options ask for; without `size`, that of the first of the `sources` with a header that can be read,
    which all others must share."""
    if size is not None:
        return View(size, channels, shorter, most_pixels=most_pixels)
    first: DamagedImage | None = None
    for source in sources:
        try:
            return View(stored_size(source, most_pixels), channels, fixed=True, most_pixels=most_pixels)
        except DamagedImage as error:
            first = first or error
    raise first or DataError("there are no images to take the size from")


def read_decoded(folder: Path, files: Files, view: View) -> Decoded:
    """All of `files`, which lie in `folder`; decoded once and kept in the cache."""
    kept = cache_root() / "decoded" / f"{_digest(folder, files, view)}.npy"
    shape = (len(files), view.channels, *view.size)
    arrays = load_arrays(kept, 5)
    if arrays is None or arrays[0].dtype != np.uint8 or arrays[0].shape != shape:
        decoded = decode_each(files.paths, view)
        store_arrays(kept, [*decoded[:2], *_packed(decoded.faults)])
        return decoded
    return Decoded(arrays[0], arrays[1], _unpacked(arrays[2:]))


def examine(folder: Path, files: Files, view: View, whole: bool) -> tuple[_Array, tuple[Fault, ...]]:
    """Heights and widths [N, 2] of images that stay in their files, and what is wrong with them; found out once.

    Only their headers are looked at, unless `whole`: then all are decoded.
    """
    kept = cache_root() / "examined" / f"{_digest(folder, files, view, whole)}.npy"
    arrays = load_arrays(kept, 4)
    if arrays is not None and arrays[0].shape == (len(files), 2):
        return arrays[0], _unpacked(arrays[1:])
    if whole:
        decoded = decode_each(files.paths, View((1, 1), 1, most_pixels=view.most_pixels))
        sizes, faults = decoded.sizes, decoded.faults
    else:
        sizes, faults = _headers(files, view)
    store_arrays(kept, [sizes, *_packed(faults)])
    return sizes, faults


def _headers(files: Files, view: View) -> tuple[_Array, tuple[Fault, ...]]:
    sizes, faults = np.zeros((len(files), 2), np.int32), []

    def look(place: int) -> Fault | None:
        try:
            sizes[place] = stored_size(files.paths[place], view.most_pixels)
        except DataError as error:
            return Fault(place, str(error), isinstance(error, DamagedImage))
        return None

    with ThreadPoolExecutor(_THREADS) as pool:
        faults = [fault for fault in pool.map(look, range(len(files))) if fault is not None]
    return sizes, tuple(faults)


def usable(faults: Sequence[Fault], total: int, skip: bool) -> _Array:
    """Sorted places of the images, of `total`, that can be used; DataError lists the others.

    `skip`: leave out those whose files are damaged; what an option would mend is not passed over.
    """
    refused = [fault for fault in faults if not (skip and fault.damaged)]
    refuse(refused, total, "or leave them out by `unreadable: skip`" if all(f.damaged for f in refused) else "")
    return np.setdiff1d(np.arange(total), [fault.place for fault in faults])


def read_tree(
    folder: Path, size: tuple[int, int] | None, channels: int, like: Tree[str] | None = None
) -> tuple[_Array, Tree[str]]:
    """Images uint8 [N, channels, H, W] and tree of `folder/<class>/*.jpg`.

    `size` = (H, W) to resize to; without it all images must already agree. `like`: the tree of the training part.
    """
    files, tree = find_files(folder, like)
    decoded = read_decoded(folder, files, view_of(files.paths, size, channels))
    refuse(decoded.faults, len(files))
    return decoded.images, tree


def _packed(faults: Sequence[Fault]) -> list[_Array]:
    """Faults as arrays, which the cache can keep."""
    places, texts, damaged = zip(*faults, strict=True) if faults else ((), (), ())
    return [np.array(places, np.int64), np.array(texts, np.str_), np.array(damaged, np.bool_)]


def _unpacked(arrays: Sequence[_Array]) -> tuple[Fault, ...]:
    return tuple(Fault(int(place), str(text), bool(damaged)) for place, text, damaged in zip(*arrays[:3], strict=True))


def _digest(folder: Path, files: Files, view: View, *more: object) -> str:
    """Name of what is kept in the cache about images: other files, newer ones or another view give another name."""
    total = newest = 0
    for path in files.paths:
        with suppress(OSError):  # one that is gone is found out when it is read
            facts = os.stat(path)
            total += facts.st_size
            newest = max(newest, facts.st_mtime_ns)
    names = sorted({os.path.basename(os.path.dirname(path)) for path in files.paths})
    size = None if view.fixed else view.size
    seen = [size, view.channels, view.shorter, view.most_pixels]
    key = [MEANING, str(folder.resolve()), names, len(files), total, newest, *seen, *more]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]


def load_arrays(path: Path, count: int) -> list[_Array] | None:
    """The arrays that `store_arrays` kept in the cache; None where there are none, or not `count` whole ones."""
    try:
        with path.open("rb") as file:
            return [np.load(file, allow_pickle=False) for _ in range(count)]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        _log.warning("decoded images %s cannot be read (%s); decoding again", path, error)
        return None


def store_arrays(path: Path, arrays: Sequence[_Array]) -> None:
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
