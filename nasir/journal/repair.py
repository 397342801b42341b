"""Mending a journal in which single bits have flipped: the checksums find them, and prove what was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nasir.journal.chain import checksum, opened
from nasir.journal.log import Contents, read_contents

__all__ = ["Mend", "mend"]

LONGEST = 16_384  # bytes whose every bit can be tried within seconds


@dataclass(frozen=True, slots=True)
class Mend:
    """The journal as it was written, and the places (line, from 1, and byte in it, from 0) of the bits mended."""

    data: bytes
    places: tuple[tuple[int, int], ...]


def mend(path: Path) -> Mend | None:
    """The journal with every flipped bit flipped back; None where that is not all that is wrong, or nothing is.

    A journal is mended where each damaged place is one bit, in a line with a checksum that has, with the next one, at
    most LONGEST bytes; places are more than a line apart. Checksums have 64 bits, so among the thousands of candidates
    only that which was written can fit.
    """
    data = bytearray(path.read_bytes())
    places: list[tuple[int, int]] = []
    contents = read_contents(path)
    while contents.damage is not None:
        place = _flip(data, contents)
        if place is None:
            return None
        places.append((data.count(b"\n", 0, place) + 1, place - (data.rfind(b"\n", 0, place) + 1)))
        contents = read_contents(path, bytes(data))
    return Mend(bytes(data), tuple(places)) if places else None


def _flip(data: bytearray, contents: Contents) -> int | None:
    """Flip the one bit that makes the damaged line and the one after it fit; its place, None where there is no such."""
    first = len(contents.records)
    start, before = contents.size, contents.chain.at(first)
    if first == contents.unprotected == 1:  # or the only line before it has its checksum no more
        start, before = 0, ""
    stop = start
    for _ in range(2):  # a flipped bit may have joined the line with the next one, or split it
        stop = data.find(b"\n", stop) + 1 or len(data)
    if stop - start > LONGEST:
        return None
    region = bytearray(data[start:stop])
    for place in range(len(region)):
        for bit in range(8):
            region[place] ^= 1 << bit
            if _fits(region, before):
                data[start:stop] = region
                return start + place
            region[place] ^= 1 << bit
    return None


def _fits(region: bytearray, before: str) -> bool:
    """Whether whole lines with checksums follow each other."""
    for line in bytes(region).split(b"\n")[:-1]:
        text, told = opened(line)
        if told is None or told != checksum(before, text):
            return False
        before = told
    return region.endswith(b"\n")
