"""Crash-safe files: written completely or not at all, in one canonical form."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_AT_WORK: set[Path] = set()  # files that this process is writing


def canonical_json(value: object) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: equal values give equal bytes, which a digest can then name.

    NaN and infinity are refused (ValueError): they have no JSON form.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def json_value(text: str | bytes) -> Any:
    """The value of a JSON text. ValueError for what is none, is nested too deep, or holds text that UTF-8 cannot."""
    try:
        value = json.loads(text)
        escaped = b"\\u" in text if isinstance(text, bytes) else "\\u" in text
        if escaped:  # perhaps half a character
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("values are nested too deep") from None
    return value


def finite(value: float | None) -> float | None:
    """A number as JSON has it: None for what is not finite."""
    return None if value is None or not math.isfinite(value) else float(value)


def read_bounded(path: Path, most: int) -> bytes:
    """The bytes of a file. OSError, whose `strerror` says why, where it cannot be read or has over `most` bytes."""
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except ValueError as error:  # a null character in the name
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return data


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
    _AT_WORK.add(beside)
    try:
        yield beside
        with open(beside, "rb") as written:
            os.fsync(written.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    finally:
        _AT_WORK.discard(beside)
    fsync_directory(path.parent)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file whole or not at all (`replacing`)."""
    with replacing(path) as beside:
        beside.write_bytes(data)


def is_left(path: Path) -> bool:
    """Whether a killed process left `NAME.tmp.PID` (or `NAME.tmp.PID.old`) half done: no living one can still be at it.

    Under our own id that is what nothing here writes at this moment: in a container ids repeat from start to start.
    """
    match = re.fullmatch(r".+\.tmp\.(\d{1,18})(\.old)?", path.name)
    if match is None:
        return False
    pid = int(match[1])
    return path not in _AT_WORK if pid == os.getpid() else not is_alive(pid)


def remove_left(folder: Path) -> tuple[str, ...]:
    """Remove what killed processes left half done in a folder (`is_left`), and return the names.

    Call it where no other machine can be at work: ids of processes say nothing there.
    """
    removed = []
    for entry in sorted(folder.glob("*.tmp.*")):
        if is_left(entry):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
            removed.append(entry.name)
    return tuple(removed)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine has that id: then what it left half done may still be at work."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
