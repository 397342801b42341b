"""The chain of a journal: each line ends with a checksum over itself and the checksum before it, so damage shows.

    {"epoch":3,"kind":"epoch",...,"time":1796045829.2,"chain":"9f86d081884c7d65"}

The checksum is the first 16 hex digits of the SHA-256 of the checksum before, as text (of the first line: nothing),
followed by the line as it is without `,"chain":"..."` and without its line break. Lines from before there was a chain
have no checksum; they count in the same way, so the first line that has one vouches for all before it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nasir.errors import JournalError
from nasir.records.base import CHAIN

__all__ = ["Chain", "checksum", "opened", "sealed"]

DIGITS = 16
BEGIN, END = f',"{CHAIN}":"'.encode(), b'"}'
LENGTH = len(BEGIN) + DIGITS + len(END)


def checksum(before: str, record: bytes) -> str:
    """Of a record as JSON, after the checksum `before`."""
    return hashlib.sha256(before.encode() + record).hexdigest()[:DIGITS]


def sealed(record: bytes, value: str) -> bytes:
    """The line, without its line break, of a record as JSON and its checksum."""
    return b"%b%b%b%b" % (record[:-1], BEGIN, value.encode(), END)


def opened(line: bytes) -> tuple[bytes, str | None]:
    """(the record as JSON, its checksum or None without one) of a line."""
    start = len(line) - LENGTH
    if start <= 0 or not line.startswith(BEGIN, start) or not line.endswith(END):
        return line, None
    # whatever else stands there, such as a damaged digit, differs from every checksum
    return line[:start] + b"}", line[start + len(BEGIN) : -len(END)].decode("ascii", "replace")


class Chain:
    """The checksums of a journal, one for each line. What is stored beside it keeps the one of its moment."""

    def __init__(self, path: Path, values: Iterable[str] = ()) -> None:
        self.path = path
        self._values = list(values)

    def __len__(self) -> int:
        return len(self._values)

    def at(self, count: int) -> str:
        """The checksum of the line with that number, from 1; 0: empty, as nothing comes before the first."""
        return self._values[count - 1] if count else ""

    def add(self, value: str) -> None:
        """A line more."""
        self._values.append(value)

    def mark(self) -> dict[str, Any]:
        """What is stored now has to keep in its meta data, for `check`."""
        return {"n": len(self), CHAIN: self.at(len(self))}

    def unprotected_text(self, lines: int) -> str:
        """What is told of a journal whose first `lines` lines have no checksum."""
        which = "its first line is" if lines == 1 else f"its first {lines} lines are"
        return f"{self.path}: {which} from before journals had checksums, so damage there may go unnoticed"

    def stamp(self) -> str:
        """As `mark`, in the words of a report."""
        return f"journal {len(self)}:{self.at(len(self))}"

    def stamped(self, text: str) -> bool:
        """Whether every stamp in a text is one of this journal, at any moment of it."""
        stamps = re.findall(r"\bjournal (\d{1,18}):([0-9a-f]{16})\b", text)
        return all(int(count) <= len(self) and self.at(int(count)) == value for count, value in stamps)

    def check(self, meta: Mapping[str, Any], owner: Path) -> None:
        """Raise JournalError unless `owner`, which has the meta data `meta`, was stored beside this very journal.

        What was stored before there was a chain passes.
        """
        if CHAIN not in meta:
            return
        remedy = f"`nasir verify {self.path.parent}` tells what can be rescued"
        count, value = meta["n"], meta[CHAIN]
        if count > len(self):
            raise JournalError(
                f"{self.path}: its end is gone: it has {len(self)} whole lines, and {owner} was stored after line "
                f"{count}; {remedy}"
            )
        if self.at(count) != value:
            raise JournalError(
                f"{owner}: belongs to another journal: it was stored when line {count} had the checksum {value!r}, "
                f"which in {self.path} is {self.at(count)!r}; {remedy}"
            )
