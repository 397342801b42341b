"""Arrays of an .npz file that may be torn, rotten or no such file: no header is believed before the file's size."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from nasir.errors import DataError, NasirError

_SUFFIX = ".npy"
_MOST_PACKED = 1032
"""Bytes that one byte of a zip archive can stand for."""
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class NpzFile:
    """The arrays of an open file by name."""

    def __init__(self, path: Path, packed: zipfile.ZipFile) -> None:
        self._packed = packed
        self._most = _MOST_PACKED * path.stat().st_size
        names = [name for name in packed.namelist() if name.endswith(_SUFFIX)]
        self._members = {name.removesuffix(_SUFFIX): packed.getinfo(name) for name in names}

    @property
    def names(self) -> tuple[str, ...]:
        """What the arrays are called."""
        return tuple(self._members)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array, as its header says."""
        with self._packed.open(self._members[name]) as member:
            return _header(member)[0]

    def read(self, name: str) -> NDArray[Any]:
        """An array; ValueError where it holds Python objects, or is not of the size that its header says."""
        info = self._members[name]
        with self._packed.open(info) as member:
            shape, fortran, dtype = _header(member)
            if dtype.hasobject:
                raise ValueError(f"{name} holds Python objects, which are never loaded")
            size = info.file_size - member.tell()
            if prod(shape) * dtype.itemsize != size or not dtype.itemsize or info.file_size > self._most:
                raise ValueError(f"{name} has {size} bytes, too few or too many for its shape {shape} of {dtype}")
            data = member.read()
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


@contextmanager
def open_npz(path: Path) -> Iterator[NpzFile]:
    """The file as an `NpzFile`; within the `with`, whatever is wrong with it is a DataError."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as packed:
            yield NpzFile(path, packed)
    except (NasirError, MemoryError):
        raise
    except zipfile.BadZipFile as error:
        raise _unreadable(path, f"no zip archive, or a damaged one: {error}") from error
    except Exception as error:  # of zipfile, zlib, numpy and the tokenizer that it reads headers with
        raise _unreadable(path, str(error) or type(error).__name__) from error


def _unreadable(path: Path, why: str) -> DataError:
    return DataError(f"data set 'npz': {path} cannot be read ({why}); write it with numpy.savez")


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, whether it is in Fortran's order, type) of the array whose bytes follow."""
    version = npy.read_magic(member)
    if version not in _HEADERS:
        raise ValueError(f"version {version[0]}.{version[1]} of the format is unknown")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of files that Python 2 wrote
        shape, fortran, dtype = _HEADERS[version](member)
    if any(size < 0 for size in shape):
        raise ValueError(f"the shape {shape} is negative")
    return shape, fortran, dtype
