"""Archives of image trees: read in memory, or unpacked into the cache where only that shows what they hold."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from nasir.backends.torch.data.rawdata import Found, RawData
from nasir.datasets.decoded import MEANING, cache_root, load_arrays, store_arrays, view_of
from nasir.errors import DataError
from nasir.images.decode import Encoded
from nasir.images.pool import decode_all
from nasir.images.tree import by_class, is_class, is_image

# the last: a zip archive that needs a password, or is packed in a way that Python does not know
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error, RuntimeError)


LARGEST = 2**30  # bytes of an archive that is read in memory, where it and its images then lie at once


def read_archive(archive: Path, tops: Sequence[str], channels: int) -> RawData | None:
    """The tree `{train,test}/<class>/*.jpg` in the first of the folders `tops` ("": the top) that has one.

    Nothing is written but the decoded images, which the cache keeps. None: `unpack` it, for it holds more than plain
    files and folders, or no such tree; or it is large, or unpacked already. DataError: it is damaged.
    """
    if _unpacked(archive).is_dir() or archive.stat().st_size > LARGEST:
        return None
    kept = cache_root() / "decoded" / f"{_version(archive, tops, channels, MEANING)}.npy"
    arrays = load_arrays(kept, 6)
    if arrays is None:
        tree = _tree(archive)
        top = None if tree is None else next((top for top in tops if tree.has_parts(top)), None)
        if tree is None or top is None:
            return None
        train = by_class(f"{archive}: {top}train", tree.classes(f"{top}train"))
        test = by_class(f"{archive}: {top}test", tree.classes(f"{top}test"), train)
        del tree
        sources, notes = (train.images, test.images), train.notes + test.notes
        images, test_images = (decode_all(part, view_of(part, None, channels)) for part in sources)
        arrays = [images, train.labels, test_images, test.labels, np.array(train.classes), np.array(notes, np.str_)]
        store_arrays(kept, arrays)
    parts = [torch.from_numpy(array) for array in arrays[:4]]
    classes, remarks = (tuple(map(str, array)) for array in arrays[4:])
    return RawData(parts[0], parts[1], parts[2], parts[3], classes, found=Found(notes=remarks))


def unpack(archive: Path) -> Path:
    """The folder that `archive` (.tar, .tar.gz, .zip) is unpacked to in the cache; done once for each version of it.

    Members that would land outside that folder, links out of it and devices are refused.
    """
    target = _unpacked(archive)
    if target.is_dir():
        return target
    aside = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        aside.mkdir(parents=True, exist_ok=True)
        _extract(archive, aside)
        if not target.is_dir():  # another process may have been faster
            aside.rename(target)
    except _DAMAGED as error:
        raise _damaged(archive, error) from error
    except OSError as error:
        if not target.is_dir():
            raise DataError(
                f"{archive} cannot be unpacked to {target.parent} ({error}); "
                "free space there, or set NASIR_CACHE to a writable folder"
            ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _version(archive: Path, *more: object) -> str:
    """Name of what is kept of `archive`: another for another version of it."""
    facts = archive.stat()
    key = json.dumps([str(archive.resolve()), facts.st_size, facts.st_mtime_ns, *more])
    return hashlib.sha256(key.encode()).hexdigest()[: 32 if more else 16]


def _unpacked(archive: Path) -> Path:
    return cache_root() / "unpacked" / f"{archive.name.split('.')[0]}-{_version(archive)}"


def _extract(archive: Path, folder: Path) -> None:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)  # drops drive letters, leading slashes and ".." by itself
        return
    with tarfile.open(archive) as packed_tar:
        packed_tar.extractall(folder, filter="data")


@dataclass
class _Tree:
    """Images in an archive by their paths, and the folders there."""

    images: dict[str, Encoded] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)

    def has_parts(self, top: str) -> bool:
        return {f"{top}train", f"{top}test"} <= self.folders

    def classes(self, part: str) -> dict[str, list[Encoded]]:
        """The images right in each folder of `part`."""
        images_of: dict[str, list[Encoded]] = {}
        for folder in self.folders:
            above, _, name = folder.rpartition("/")
            if above == part and is_class(name):
                images_of[name] = []
        for path, image in self.images.items():
            above, _, name = path.rpartition("/")[0].rpartition("/")
            if above == part and is_class(name):
                images_of[name].append(image)
        return images_of


class _Odd(Exception):
    """A member that is no plain file or folder."""


def _tree(archive: Path) -> _Tree | None:
    """What is in `archive`; None where only unpacking it can tell. DataError: it is damaged."""
    tree = _Tree()
    try:
        for name, data in _zip_members(archive) if archive.suffix == ".zip" else _tar_members(archive):
            path = _plain(name)
            folder = path if data is None else path.rpartition("/")[0]
            while folder and folder not in tree.folders:
                tree.folders.add(folder)
                folder = folder.rpartition("/")[0]
            if data is not None and is_image(path.rpartition("/")[2]):
                tree.images[path] = Encoded(f"{archive}: {path}", data)
    except _Odd:
        return None
    except _DAMAGED as error:
        raise _damaged(archive, error) from error
    except OSError as error:
        raise DataError(f"{archive} cannot be read ({error}); make it readable") from error
    return tree


def _damaged(archive: Path, error: Exception) -> DataError:
    return DataError(f"{archive} cannot be unpacked ({error}); download it again")


def _tar_members(archive: Path) -> Iterator[tuple[str, bytes | None]]:
    """Name and content of each member, None for a folder; read whole, for seeking from header to header is slow."""
    with archive.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    with gzip.open(archive) if zipped else archive.open("rb") as content:
        whole = content.read()
    try:
        packed = tarfile.open(fileobj=io.BytesIO(whole), mode="r:")
    except tarfile.ReadError as error:
        raise _Odd from error  # of another compression, perhaps
    with packed:
        for member in packed:
            if member.isdir():
                yield member.name, None
            elif member.isreg() and not member.issparse():
                yield member.name, whole[member.offset_data : member.offset_data + member.size]
            else:
                raise _Odd
        if whole[packed.offset : packed.offset + tarfile.BLOCKSIZE].strip(b"\0"):
            # tarfile takes it for the end
            raise tarfile.ReadError(f"no header at byte {packed.offset}")


def _zip_members(archive: Path) -> Iterator[tuple[str, bytes | None]]:
    """Name and content of each member, None for a folder."""
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            yield member.filename, None if member.is_dir() else packed.read(member)


def _plain(name: str) -> str:
    """A path as unpacking would make it, for names that leave no doubt."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\\" in name or ":" in name:
        raise _Odd
    return "/".join(parts)
