"""Modules that a Python file imports from its own folder, as Python would where it runs the file."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path as File

_IMPORTED: dict[str, tuple[File, str]] = {}
"""Modules that were imported from such folders: name, file, SHA-256."""


@contextmanager
def importable_beside(file: File) -> Iterator[bool]:
    """While it lasts, modules in the folder of `file` can be imported; whether some have changed since they were.

    Modules of other folders that were imported so are forgotten first: they may have the same names.
    """
    folder = file.resolve().parent
    stale = {name: origin for name, (origin, known) in _IMPORTED.items() if _is_stale(origin, known, folder)}
    for name in stale:
        del _IMPORTED[name]
        sys.modules.pop(name, None)
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield any(origin.parent == folder for origin in stale.values())
    finally:
        sys.path.remove(str(folder))
        for name, origin in _within(folder).items():
            if name not in before and origin != file.resolve():
                _IMPORTED[name] = (origin, digest_of(origin))


def digests_beside(file: File) -> dict[str, str]:
    """SHA-256 of a Python file, and of those of its folder that are imported now, by name."""
    origins = {file.resolve(), *_within(file.resolve().parent).values()}
    return {origin.name: digest_of(origin) for origin in sorted(origins)}


def digest_of(file: File | str) -> str:
    """SHA-256 of a file."""
    with File(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_stale(origin: File, known: str, folder: File) -> bool:
    return origin.parent != folder or not origin.is_file() or digest_of(origin) != known


def _within(folder: File) -> dict[str, File]:
    """Modules whose files lie in a folder."""
    files = {name: getattr(module, "__file__", None) for name, module in [*sys.modules.items()]}
    real = cache(os.path.realpath)  # of the folders: there are thousands of files in a few hundred
    near = {
        name: File(file).resolve()
        for name, file in files.items()
        if isinstance(file, str) and (os.path.islink(file) or real(os.path.dirname(file)) == str(folder))
    }
    return {name: file for name, file in near.items() if file.parent == folder and file.suffix == ".py"}
