"""The directory of one run: who may write to it, and where each thing lies.

spec.yaml      the resolved spec               checkpoints/step_N/   weights and optimizer state (backend)
env.json       versions, device, threads       report.html           the report
journal.jsonl  what happened (nasir.journal.log)   lock                  held while a process writes here
journal.torn   last lines that a crash tore    journal.damaged       a journal as it was before it was mended
figures/       what `nasir plot` drew          residual.json         what `nasir analyze --report` found
individuals/N/ networks that a policy put aside    blobs/   graphs and plans, <sha256>.json; arrays, <digest>.npy
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasir.errors import CheckpointError, JournalError, RunError, UsageError
from nasir.files import canonical_json, fsync_directory, remove_left, write_atomically
from nasir.ir.source import digest_of
from nasir.journal.log import Contents, Journal, effective, read_contents, read_journal
from nasir.records import Record
from nasir.training.manifest import MANIFEST, read_manifest, steps

__all__ = ["RunDirectory", "share_file"]

KNOWN = frozenset(
    {
        "spec.yaml",
        "env.json",
        "figures",
        "journal.jsonl",
        "journal.torn",
        "journal.damaged",
        "blobs",
        "checkpoints",
        "individuals",
        "lock",
        "report.html",
        "residual.json",
    }
)
OF_SAME = re.compile(r"\.tmp\..*|(?<=damaged)\.\d+")  # what names of several such files end in


def share_file(source: Path, target: Path) -> None:
    """Give a file that is never changed in place a second name: a hard link, or a copy where the file system has none.

    An existing `target` is left as it is. Raises OSError.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS):
            raise
        write_atomically(target, source.read_bytes())


class RunDirectory:
    """Paths and files of a run. Reading needs no lock; appending and blobs belong to the process that holds it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> RunDirectory:
        """Make the directory, or take an empty one, or one whose run never got to its first record.

        Raises UsageError where something else is kept, or a run already lies there.
        """
        run = cls(path)
        run.check_vacant()
        run.path.mkdir(parents=True, exist_ok=True)
        run.blobs.mkdir(exist_ok=True)
        run.checkpoints.mkdir(exist_ok=True)
        fsync_directory(run.path)
        return run

    def check_vacant(self) -> None:
        """Raise UsageError unless a run may be created here; makes nothing."""
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path}: a run needs a directory, and this is a file; choose another --out")
        names = {entry.name for entry in self.path.iterdir()} if self.path.exists() else set()
        foreign = sorted(name for name in names if re.sub(OF_SAME, "", name) not in KNOWN)
        if foreign:
            raise UsageError(f"{self.path}: not empty and not a run (it holds {foreign[0]!r}); choose another --out")
        if "journal.jsonl" in names and self.journal_path.stat().st_size and read_journal(self.journal_path)[0]:
            raise UsageError(
                f"{self.path}: a run lies here already; `nasir resume {self.path}` continues it, "
                "or choose another --out"
            )

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunDirectory:
        """An existing run. Raises UsageError where there is none."""
        run = cls(path)
        if not run.journal_path.is_file():
            remedy = "name a directory made by `nasir run`"
            if (run.path / "study.json").is_file():
                remedy = f"it is the folder of a search with runs in trials/; `nasir search {run.path}` goes on with it"
            raise UsageError(f"{run.path}: no run here (journal.jsonl is missing); {remedy}")
        return run

    @property
    def journal_path(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def spec_path(self) -> Path:
        return self.path / "spec.yaml"

    @property
    def env_path(self) -> Path:
        return self.path / "env.json"

    @property
    def blobs(self) -> Path:
        return self.path / "blobs"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint_steps(self) -> tuple[int, ...]:
        """Steps of the finished checkpoints, ascending: the number of the journal record that each was written for."""
        return tuple(step for step in steps(self.checkpoints) if (self.checkpoint(step) / MANIFEST).is_file())

    def checkpoint(self, step: int) -> Path:
        """The folder of the checkpoint of that step."""
        return self.checkpoints / f"step_{step}"

    def check_checkpoint(self, step: int, contents: Contents) -> None:
        """Raise JournalError for a checkpoint of another journal. One that is damaged is refused where it is read."""
        with suppress(CheckpointError):
            contents.chain.check(read_manifest(self.checkpoint(step))["meta"], self.checkpoint(step))

    @property
    def individuals(self) -> Path:
        return self.path / "individuals"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    @property
    def residual_path(self) -> Path:
        return self.path / "residual.json"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory for this process, until it is done or killed; RunError names a process that has it.

        What killed processes left half done here is removed.
        """
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
                raise RunError(
                    f"{self.path}: in use by {holder}; wait for it to end, or stop it, before running here"
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            for folder in (self.path, self.blobs, self.checkpoints, self.figures, *self.individuals.glob("*/")):
                remove_left(folder)
            yield
        finally:
            os.close(descriptor)  # releases the lock; unlinking the file would race with the next holder

    def journal(self) -> Journal:
        """The journal, open for appending and repaired where its last line was torn; hold the lock."""
        return Journal(self.journal_path)

    def contents(self) -> Contents:
        """What the journal holds, up to the first damage; safe beside a running writer."""
        return read_contents(self.journal_path)

    def records(self) -> tuple[Record, ...]:
        """All records so far; safe beside a running writer."""
        return read_journal(self.journal_path)[0]

    def effective(self) -> tuple[Record, ...]:
        """The records that count, without what a resume made void; safe beside a running writer."""
        return effective(self.records())

    def write_spec(self, text: str) -> None:
        write_atomically(self.spec_path, text.encode("utf-8"))

    def spec(self) -> str:
        """The resolved spec as text; JournalError where it is missing."""
        return self._text(self.spec_path)

    def write_env(self, env: Mapping[str, Any]) -> None:
        text = json.dumps(env, indent=2, sort_keys=True, ensure_ascii=False)
        write_atomically(self.env_path, text.encode("utf-8") + b"\n")

    def env(self) -> dict[str, Any]:
        try:
            value = json.loads(self._text(self.env_path))
        except ValueError as error:
            raise JournalError(f"{self.env_path}: not JSON ({error})") from None
        if not isinstance(value, dict):
            raise JournalError(f"{self.env_path}: an object is expected, not {type(value).__name__}")
        return value

    def _text(self, path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise JournalError(f"{path}: cannot be read ({error})") from None

    def put_blob(self, value: object) -> str:
        """Store a JSON value by content and return its sha256 digest; what is there already is not rewritten."""
        data = canonical_json(value)
        digest = hashlib.sha256(data).hexdigest()
        path = self.blobs / f"{digest}.json"
        if not path.exists() or path.read_bytes() != data:
            self.blobs.mkdir(exist_ok=True)
            write_atomically(path, data)
        return digest

    def get_blob(self, digest: str) -> Any:
        """The value stored under a digest; JournalError where it is missing or its bytes do not match."""
        path = self._blob(digest, "json")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise JournalError(f"{path}: cannot be read ({error.strerror}); restore it from a copy") from None
        actual = hashlib.sha256(data).hexdigest()
        if actual != digest:
            raise JournalError(
                f"{path}: damaged: its sha256 is {actual[:12]}..., its name says {digest[:12]}...; "
                f"restore it from a copy"
            )
        return json.loads(data)

    def put_array(self, array: NDArray[Any]) -> str:
        """Store a literal array by content (type, shape, values) and return its digest; no pickle is written."""
        digest = digest_of(array)
        path = self.blobs / f"{digest}.npy"
        if not path.exists():
            self.blobs.mkdir(exist_ok=True)
            data = BytesIO()
            np.save(data, array, allow_pickle=False)
            write_atomically(path, data.getvalue())
        return digest

    def get_array(self, digest: str) -> NDArray[Any]:
        """The array stored under a digest; JournalError where it is missing or its values do not match."""
        path = self._blob(digest, "npy")
        try:
            array: NDArray[Any] = np.load(path, allow_pickle=False)
        except OSError as error:
            raise JournalError(f"{path}: cannot be read ({error.strerror or error}); restore it from a copy") from None
        except (ValueError, EOFError) as error:
            raise JournalError(f"{path}: damaged: {error}; restore it from a copy") from None
        if digest_of(array) != digest:
            raise JournalError(f"{path}: damaged: its values are not those it is named after; restore it from a copy")
        return array

    def _blob(self, digest: str, suffix: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise JournalError(f"{digest!r}: not the digest of a blob (64 hex digits)")
        return self.blobs / f"{digest}.{suffix}"
