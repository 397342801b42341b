"""States of training on disk, within a bound, for several processes of one machine or of a shared file system.

    FOLDER/<static digest>/<epoch>-<digest>/   one state: the digest of the chain at its epoch (see `walk`)
        step_N/          weights, optimizer state and averages, as a checkpoint of the backend
        individuals/     networks that the policy has put aside, as in the run; hard links too
        records.jsonl    the journal up to it        blobs/    what those records name, hard links where possible
        state.json       written last: the chain, what it took to train, sizes, digests
    FOLDER/.aside/       states being written or removed

No locks: a state appears by one rename and goes by one rename, and its files are verified by whoever reads them. The
bound may be exceeded for a moment, by as many states as there are processes writing one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nasir.errors import CheckpointError, JournalError
from nasir.files import canonical_json, fsync_directory, is_alive
from nasir.journal.directory import RunDirectory, share_file
from nasir.records import Record, read_record

__all__ = ["PrefixStore", "State"]

FORMAT = 1
ASIDE = ".aside"
HEADER, RECORDS = "state.json", "records.jsonl"
ABANDONED = 86_400.0  # seconds after which what another machine put aside counts as abandoned
_AT_WORK: set[str] = set()  # names aside that this process is writing or removing
SHARE = 0.05  # of the time that a state took to train: what storing it may take


@dataclass(frozen=True, slots=True)
class State:
    """A stored state. `chain`: digest after each epoch, its own last; `cpu`: CPU-seconds of training up to each."""

    path: Path
    chain: tuple[str, ...]
    cpu: tuple[float, ...]
    run: str
    bytes: int
    records_sha256: str
    blob_names: tuple[str, ...]
    individuals: Mapping[str, str]  # sha256 of files below individuals/, by path

    @property
    def epochs(self) -> int:
        """Epochs trained."""
        return len(self.chain)

    @property
    def key(self) -> str:
        """The digest that names it."""
        return self.chain[-1]

    def records(self) -> list[Record]:
        """The journal up to it; CheckpointError where it is missing or damaged."""
        try:
            data = (self.path / RECORDS).read_bytes()
        except OSError as error:
            raise CheckpointError(f"{self.path / RECORDS}: cannot be read: {error.strerror}") from None
        if hashlib.sha256(data).hexdigest() != self.records_sha256:
            raise CheckpointError(f"{self.path / RECORDS}: its sha256 differs from that in {HEADER}; it is damaged")
        try:
            return [read_record(line) for line in data.splitlines()]
        except JournalError as error:
            raise CheckpointError(f"{self.path / RECORDS}: {error}") from None

    @property
    def directory(self) -> RunDirectory:
        """Its folder, whose blobs are read as those of a run."""
        return RunDirectory(self.path)


class PrefixStore:
    """The states below `folder`, together no larger than `limit` bytes.

    `share`: the largest part of the time since the stored state before that storing one more may take; 0.05 is 5 %.
    """

    def __init__(self, folder: str | os.PathLike[str], limit: int, share: float = SHARE) -> None:
        self.folder = Path(folder)
        self.limit = limit
        self.share = share
        self._known: dict[Path, State] = {}  # headers, which hold for counting room

    def states(self, static: str) -> list[State]:
        """The states of that static digest, the deepest first."""
        for path in [path for path in self._known if path.parent == self.folder / static]:
            del self._known[path]  # another process may have evicted it and stored it again, with other times
        return sorted(self._below(self.folder / static), key=lambda state: (-state.epochs, state.key))

    def holds(self, static: str, chain: Sequence[str]) -> bool:
        """Whether the state is there; it counts as used then."""
        try:
            os.utime(self._place(static, chain) / HEADER)
        except OSError:
            return False
        return True

    def used(self, state: State) -> None:
        """Count a state as used now."""
        try:
            os.utime(state.path / HEADER)
        except OSError:
            return  # it is gone, or its file system is read-only

    def put(
        self,
        static: str,
        chain: Sequence[str],
        cpu: Sequence[float],
        records: Iterable[Record],
        run: str,
        blobs: Path,
        write: Callable[[Path], object],
        individuals: Sequence[Path] = (),
    ) -> bool:
        """Store a state, whose checkpoint `write` puts into the given folder; False where it is not worth a place.

        `blobs`: folder of the files that the records name; `individuals`: folders of networks put aside. Raises OSError
        or CheckpointError where the disk refuses.
        """
        self.clean()
        aside = self._aside()
        try:
            aside.mkdir(parents=True)
            write(aside)
            self._fill(aside, chain, cpu, records, run, blobs, individuals)
            state = _read(aside)
            if state is None or not self._make_room(state, static):
                return False
            target = self._place(static, chain)
            target.parent.mkdir(exist_ok=True)
            try:
                os.rename(aside, target)
            except OSError:
                if not target.is_dir():  # not: somebody else has just stored the same
                    raise
            fsync_directory(target.parent)
            return True
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            _AT_WORK.discard(aside.name)

    def drop(self, state: State) -> None:
        """Remove a state; nothing happens where somebody else does."""
        self._known.pop(state.path, None)
        self._remove(state.path)

    def _remove(self, path: Path) -> None:
        aside = self._aside()
        try:
            aside.parent.mkdir(exist_ok=True)
            os.rename(path, aside)  # at once: a reader finds it whole or not at all
        except OSError:
            _AT_WORK.discard(aside.name)
            return
        shutil.rmtree(aside, ignore_errors=True)
        _AT_WORK.discard(aside.name)

    def clean(self) -> tuple[str, ...]:
        """Remove what killed processes left aside, and return the names."""
        removed = []
        folder = self.folder / ASIDE
        for entry in list(folder.iterdir()) if folder.is_dir() else []:
            if _left(entry):
                shutil.rmtree(entry, ignore_errors=True)
                removed.append(entry.name)
        return tuple(removed)

    # -- room

    def _make_room(self, new: State, static: str) -> bool:
        """Evict what costs the least to train again per byte, and among equals what was used the longest ago.

        False where that is the new state itself.
        """
        if new.bytes > self.limit:
            return False
        families = {family: self._below(family) for family in self._families()}
        families.setdefault(self.folder / static, []).append(new)
        while sum(state.bytes for states in families.values() for state in states) > self.limit:
            ranked = [(*entry, family) for family, states in families.items() for entry in _ranked(states, new)]
            _, _, victim, family = min(ranked, key=lambda entry: entry[:2])
            if victim is new:
                return False
            self.drop(victim)
            families[family].remove(victim)
        return True

    def _families(self) -> Iterator[Path]:
        yield from (entry for entry in self.folder.iterdir() if entry.is_dir() and entry.name != ASIDE)

    def _below(self, family: Path) -> list[State]:
        try:
            paths = list(family.iterdir())
        except OSError:
            return []
        states = []
        for path in paths:
            state = self._known.get(path) or _read(path)
            if state is not None:
                self._known[path] = state
                states.append(state)
            else:
                self._remove(path)  # damaged: it takes up room for nothing
        return states

    # -- files

    def _place(self, static: str, chain: Sequence[str]) -> Path:
        return self.folder / static / f"{len(chain):06d}-{chain[-1]}"

    def _aside(self) -> Path:
        name = f"{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex}"
        _AT_WORK.add(name)
        return self.folder / ASIDE / name

    def _fill(
        self,
        aside: Path,
        chain: Sequence[str],
        cpu: Sequence[float],
        records: Iterable[Record],
        run: str,
        blobs: Path,
        individuals: Sequence[Path],
    ) -> None:
        (aside / "blobs").mkdir()
        files = [file for file in blobs.iterdir() if re.fullmatch(r"[0-9a-f]{64}\.(json|npy)", file.name)]
        for file in files:
            share_file(file, aside / "blobs" / file.name)
        sums = {}
        for source in (file for folder in individuals for file in sorted(folder.rglob("*")) if file.is_file()):
            name = source.relative_to(source.parents[2])  # NUMBER/step_0/FILE
            target = aside / "individuals" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            share_file(source, target)
            sums[str(name)] = sha256_of(target)
        lines = b"".join(json.dumps(record.to_json(), sort_keys=True).encode() + b"\n" for record in records)
        _write(aside / RECORDS, lines)
        header = {
            "format": FORMAT,
            "chain": list(chain),
            "cpu": list(cpu),
            "run": run,
            "bytes": sum(file.stat().st_size for file in aside.rglob("*") if file.is_file()),
            "records": hashlib.sha256(lines).hexdigest(),
            "blobs": sorted(file.name for file in files),
            "individuals": sums,
        }
        _write(aside / HEADER, canonical_json({**header, "sha256": _sum(header)}))
        fsync_directory(aside / "blobs")
        fsync_directory(aside)


def _ranked(states: Sequence[State], new: State) -> Iterator[tuple[float, float, State]]:
    """(CPU-seconds lost per byte if it were gone, time of last use, state); the nearest one on its way stays."""
    depths = {state.key for state in states}
    for state in states:
        before = next((i for i in range(state.epochs - 2, -1, -1) if state.chain[i] in depths), None)
        lost = state.cpu[-1] - (state.cpu[before] if before is not None else 0.0)
        try:
            used = time.time() if state is new else (state.path / HEADER).stat().st_mtime
        except OSError:
            used = 0.0
        yield lost / max(1, state.bytes), used, state


def _read(path: Path) -> State | None:
    """The header of a state; None where there is none, or not a whole one."""
    try:
        header = json.loads((path / HEADER).read_bytes())
        if header.pop("sha256") != _sum(header) or header["format"] != FORMAT:
            return None
        rest = header["run"], header["bytes"], header["records"], tuple(header["blobs"]), header["individuals"]
        return State(path, tuple(header["chain"]), tuple(header["cpu"]), *rest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def sha256_of(file: Path) -> str:
    """Of its contents."""
    with open(file, "rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _sum(header: object) -> str:
    return hashlib.sha256(canonical_json(header)).hexdigest()


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _left(entry: Path) -> bool:
    """Whether the process that worked on it is dead: known on this machine, judged by age on another."""
    host, pid = (*entry.name.rsplit(".", 2), "", "")[:2]
    if host == socket.gethostname() and pid.isdecimal():
        return entry.name not in _AT_WORK if int(pid) == os.getpid() else not is_alive(int(pid))
    try:
        return time.time() - entry.stat().st_mtime > ABANDONED
    except OSError:
        return False
