"""Crash-safe files: written completely or not at all, in one canonical form."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def canonical_json(value: object) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: equal values give equal bytes, which a digest can then name.

    NaN and infinity are refused (ValueError): they have no JSON form.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable; a file system that cannot do so is let off (EINVAL)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to within a `with`; at its end that file takes the place of the one at `path`.

    A reader, or a crash at any moment, sees the old file or the new one, never a mix; after an error, the old one.
    """
    beside = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    try:
        yield beside
        with open(beside, "rb") as written:
            os.fsync(written.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file whole or not at all (`replacing`)."""
    with replacing(path) as beside:
        beside.write_bytes(data)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has that id: then what it left half done may still be at work."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
