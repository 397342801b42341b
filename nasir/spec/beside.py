"""Modules that a Python file imports from its own folder, as Python would where it runs the file."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from os.path import dirname, isabs, islink, realpath
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
    """Modules whose files lie in a folder.

    What is no module says of itself whatever it likes: `torch.classes` names a file of no folder that is nowhere.
    """
    files = {name: getattr(module, "__file__", None) for name, module in [*sys.modules.items()]}
    real = cache(realpath)  # of a few hundred folders, which hold thousands of files
    paths = {name: file for name, file in files.items() if isinstance(file, str) and isabs(file)}
    near = {name: File(file) for name, file in paths.items() if islink(file) or real(dirname(file)) == str(folder)}
    found = {name: file.resolve() for name, file in near.items() if file.suffix == ".py" and file.is_file()}
    return {name: file for name, file in found.items() if file.parent == folder}
