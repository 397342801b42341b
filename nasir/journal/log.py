"""The journal of a run: an append-only file of JSON lines that survives a kill at any byte.

One record a line, keys sorted, a checksum at its end (`nasir.journal.chain`), each line written in one piece and
fsynced before `append` returns. So only the last line can ever be incomplete, and opening the journal repairs it;
damage anywhere else is refused. Nothing is edited: a run that went back to a checkpoint says so with a `resume`
record, and `effective` leaves out what that made void.

Numbers keep Python's shortest exact form; a diverged loss is written as `NaN`, as Python's `json` does.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, overload

from nasir.errors import JournalError
from nasir.files import fsync_directory
from nasir.growing import GrowingMap, GrowingSequence, fold
from nasir.journal.chain import Chain, checksum, opened, sealed
from nasir.records import KeptRecord, RecalledRecord, Record, ResumeRecord, of_kind, read_record
from nasir.records.reading import REMEDY, reread

__all__ = ["Contents", "Journal", "effective", "lineage", "read_contents", "read_journal"]

TORN = "journal.torn"
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
R = TypeVar("R", bound=Record)


def effective(records: Iterable[Record]) -> tuple[Record, ...]:
    """The records that count: a `resume` voids those from its `supersedes_from` up to itself, and itself.

    An interrupted and resumed run so has the effective records of an uninterrupted one, but for `n` and `time`.
    """
    return tuple(_effective(records))


def _effective(records: Iterable[Record]) -> GrowingSequence[Record]:
    effective: GrowingSequence[Record] = GrowingSequence()
    for record in records:
        effective = _with_record(effective, record)
    return effective


def _with_record(effective: GrowingSequence[Record], record: Record) -> GrowingSequence[Record]:
    if not isinstance(record, ResumeRecord):
        return effective.grown(record)
    void = 0
    for other in reversed(effective):
        if other.n < record.supersedes_from:
            break
        void += 1
    return effective.upto(len(effective) - void)


def lineage(records: Sequence[Record]) -> Sequence[Record]:
    """Of effective records, those that happened to the network as it is now: a `recalled` goes back to the `kept` of
    its individual, and what lies between happened to other networks."""
    return fold(records, _Lineage()).own


@dataclass(frozen=True, slots=True)
class _Lineage:
    own: GrowingSequence[Record] = field(default_factory=GrowingSequence)  # of the network as it is now
    kept: GrowingMap[int, GrowingSequence[Record]] = field(default_factory=GrowingMap)  # of each individual

    def after(self, record: Record) -> Self:
        if isinstance(record, RecalledRecord):
            return replace(self, own=self.kept[record.individual].grown(record))
        own = self.own.grown(record)
        kept = self.kept.grown(record.individual, own) if isinstance(record, KeptRecord) else self.kept
        return replace(self, own=own, kept=kept)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a journal holds, up to the first damage.

    `size`: bytes of that part; what follows is a torn last line, or `damage`, which begins in the line after it.
    `unprotected`: how many of its first lines are from before there was a chain.
    """

    records: tuple[Record, ...]
    size: int
    chain: Chain
    unprotected: int
    damage: JournalError | None

    def sound(self) -> Contents:
        """Itself; raises the damage if there is any."""
        if self.damage is not None:
            raise self.damage
        return self


def read_contents(path: Path, data: bytes | None = None) -> Contents:
    """What a journal holds, or would hold with those bytes. Changes nothing, so it may read along with a run.

    Raises JournalError where there is none.
    """
    if data is None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise JournalError(f"{path}: there is no journal here; name the directory of a run") from None
    end = data.rfind(b"\n") + 1
    last = data.rfind(b"\n", 0, max(end - 1, 0)) + 1
    if b"\0" in data[last:end]:  # a power cut can leave a hole where the last line was to go
        end = last
    records: list[Record] = []
    chain, size, unprotected, value, damage = Chain(path), 0, 0, "", None
    for line in data[:end].split(b"\n")[:-1]:
        text, told = opened(line)
        value = checksum(value, text)
        try:
            if told is None:
                if len(chain) > unprotected:
                    raise _without_checksum(path, len(chain) + 1)
                unprotected += 1
            elif told != value:
                raise _damaged(path, len(chain) + 1)
            records.append(_parsed(path, text, len(chain)))
        except JournalError as error:
            damage = error
            break
        chain.add(value)
        size += len(line) + 1
    return Contents(tuple(records), size, chain, unprotected, damage)


def read_journal(path: Path) -> tuple[tuple[Record, ...], int]:
    """The complete records of a journal and the size of that part in bytes; what follows is a torn last line.

    Changes nothing, so it may read along with a run in progress. Raises JournalError with `file:line` where a
    complete line is damaged or not a record, or the ordinals have a gap.
    """
    contents = read_contents(path).sound()
    return contents.records, contents.size


def _damaged(path: Path, line: int) -> JournalError:
    return JournalError(
        f"{path}:{line}: damaged: record {line - 1} does not fit its checksum, so it or what was before it is not what "
        f"was written; {_remedy(path)}"
    )


def _without_checksum(path: Path, line: int) -> JournalError:
    return JournalError(
        f"{path}:{line}: damaged: record {line - 1} has no checksum, and those before it have; if a nasir from before "
        f"there were checksums went on with this run, go on with that one; {_remedy(path)}"
    )


def _remedy(path: Path) -> str:
    return f"`nasir verify {path.parent}` tells what can be rescued; else restore the file from a copy"


def _parsed(path: Path, text: bytes | str, n: int, read: Callable[[bytes | str], Record] = read_record) -> Record:
    """The record of a line, without its checksum."""
    try:
        record = read(text)
    except JournalError as error:
        raise JournalError(f"{path}:{n + 1}: {error}") from None
    if record.n != n:
        raise JournalError(f"{path}:{n + 1}: record number {record.n}, expected {n}; {REMEDY}")
    if isinstance(record, ResumeRecord) and record.supersedes_from > n:
        raise JournalError(f"{path}:{n + 1}: supersedes_from {record.supersedes_from} of record {n}; {REMEDY}")
    return record


class Journal:
    """A journal open for appending. One writer at a time: hold the lock of the run directory.

    Opening cuts a torn last line off and appends its bytes to `journal.torn` beside the file; `repaired` counts
    them. `chain`: the checksums of its lines; `unprotected`: how many of the first ones are from before there were any.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock
        created = not path.exists()
        self._file = open(path, "ab", buffering=0)
        try:
            if created:
                fsync_directory(path.parent)
            contents = read_contents(path).sound()
            self._size = contents.size
            self.repaired = self._cut_torn_line()
        except BaseException:
            self._file.close()
            raise
        self.chain = contents.chain
        self.unprotected = contents.unprotected
        self._records = list(contents.records)
        self._effective = _effective(contents.records)

    def _cut_torn_line(self) -> int:
        torn = self.path.read_bytes()[self._size :]
        if torn:
            with open(self.path.with_name(TORN), "ab") as note:
                note.write(torn + b"\n")
                note.flush()
                os.fsync(note.fileno())
            self._truncate()
        return len(torn)

    def _truncate(self) -> None:
        os.ftruncate(self._file.fileno(), self._size)
        os.fsync(self._file.fileno())

    def append(self, record: R) -> R:
        """Write one record durably and return it as a later reader will see it (tuples have become lists).

        Its `n` and `time` are those of this journal and of now, whatever it says. A failed write leaves the journal as
        it was and raises JournalError.
        """
        kind = record.kind
        body = {**record.to_json(), "n": len(self._records), "time": self._clock()}
        try:
            text = _ENCODER.encode(body)
            data = text.encode("utf-8")
        except (TypeError, ValueError, RecursionError) as error:
            raise JournalError(f"{self.path}: a {kind} record cannot be written as JSON: {error}") from error
        written = _parsed(self.path, text, len(self._records), reread)
        assert isinstance(written, type(record))
        value = checksum(self.chain.at(len(self.chain)), data)
        line = sealed(data, value) + b"\n"
        try:
            self._write(line)
        except OSError as error:
            raise JournalError(
                f"{self.path}: record {written.n} ({kind}) not written: {error.strerror}; "
                f"free space or mend the disk, then resume the run"
            ) from error
        self._size += len(line)
        self.chain.add(value)
        self._records.append(written)
        self._effective = _with_record(self._effective, written)
        return written

    def _write(self, line: bytes) -> None:
        try:
            written = self._file.write(line)
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError:
            self._truncate()
            raise

    @overload
    def records(self, kind: None = None) -> tuple[Record, ...]: ...
    @overload
    def records(self, kind: type[R]) -> tuple[R, ...]: ...
    def records(self, kind: type[Record] | None = None) -> tuple[Record, ...]:
        """Every record ever written, or those of one class, void ones included."""
        return tuple(self._records) if kind is None else tuple(of_kind(self._records, kind))

    @overload
    def effective(self, kind: None = None) -> Sequence[Record]: ...
    @overload
    def effective(self, kind: type[R]) -> Sequence[R]: ...
    def effective(self, kind: type[Record] | None = None) -> Sequence[Record]:
        """The records that count (see the function `effective`), or those of one class: what a policy sees.

        All of them are a `GrowingSequence`: folds over them go on where they were at the record before.
        """
        return self._effective if kind is None else tuple(of_kind(self._effective, kind))

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
