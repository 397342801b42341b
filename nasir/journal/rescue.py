"""Going back further than a resume does by itself: to an earlier checkpoint, or to the part of a journal before damage.

Nothing is lost by it: the journal as it was stays as `journal.damaged`, checkpoints of what came later as
`step_N.aside`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasir.errors import CheckpointError, JournalError, NasirError, UsageError
from nasir.files import write_atomically
from nasir.journal.directory import RunDirectory
from nasir.journal.log import Contents, effective
from nasir.records import EndRecord, ResumeRecord, of_kind
from nasir.training.manifest import check_files, read_manifest

__all__ = ["CheckedCheckpoint", "checked_checkpoints", "go_back", "replace_journal"]

DAMAGED = "journal.damaged"


@dataclass(frozen=True, slots=True)
class CheckedCheckpoint:
    """A checkpoint that was looked at: its meta data, None where that is damaged; why it is no use, None if it is."""

    step: int
    meta: Mapping[str, Any] | None
    fault: NasirError | None


def checked_checkpoints(run: RunDirectory, contents: Contents) -> Iterator[CheckedCheckpoint]:
    """Every checkpoint, the newest first: whether it is whole and belongs to the sound part of the journal."""
    resumes = of_kind(contents.records, ResumeRecord)
    for step in reversed(run.checkpoint_steps()):
        folder, meta = run.checkpoint(step), None
        try:
            manifest = read_manifest(folder)
            check_files(folder, manifest)
            meta = manifest["meta"]
            if not {"n", "epoch"} <= meta.keys():
                raise CheckpointError(f"{folder}: not a checkpoint of a run")
            contents.chain.check(meta, folder)
            if _is_void(meta["n"], resumes):
                raise JournalError(f"{folder}: of epochs that a resume made void")
        except (CheckpointError, JournalError) as error:
            yield CheckedCheckpoint(step, meta, error)
        else:
            yield CheckedCheckpoint(step, meta, None)


def _is_void(n: int, resumes: list[ResumeRecord]) -> bool:
    """Whether a resume went back to before a checkpoint that was stored when the journal had `n` records."""
    return any(record.supersedes_from < n <= record.n for record in resumes)


def go_back(run: RunDirectory, epoch: int | None, notice: Callable[[str], None]) -> None:
    """Make the checkpoint of that epoch the newest of the run, and its journal sound; None: the start of the run.

    A damaged journal is cut before its damage. Hold the lock. Raises UsageError, and changes nothing, where there is no
    sound checkpoint of that epoch, or nothing to go back from.
    """
    contents = run.contents()
    if contents.damage is None and any(isinstance(record, EndRecord) for record in effective(contents.records)):
        raise UsageError(f"{run.path}: this run is finished, so there is nothing to go on with; leave --from-* out")
    if not contents.records:
        raise UsageError(f"{run.path}: not even the first record is sound; start the run again elsewhere")
    step = -1 if epoch is None else _step(run, contents, epoch)
    if contents.damage is not None:
        kept = replace_journal(run, run.journal_path.read_bytes()[: contents.size])
        notice(f"the journal is cut after line {len(contents.records)}; as it was, it is kept as {kept.name}")
    for later in run.checkpoint_steps():
        if later > step:
            aside = run.checkpoint(later).with_name(f"step_{later}.aside")
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(run.checkpoint(later), aside)


def _step(run: RunDirectory, contents: Contents, epoch: int) -> int:
    """Of the newest sound checkpoint of that epoch."""
    known = []
    for checked in checked_checkpoints(run, contents):
        if checked.fault is None and checked.meta is not None:
            if checked.meta["epoch"] == epoch:
                return checked.step
            known.append(str(checked.meta["epoch"]))
    others = f"sound ones are of epoch {', '.join(known)}" if known else "there is none; --from-start begins anew"
    raise UsageError(f"{run.checkpoints}: no sound checkpoint of epoch {epoch}; {others}")


def replace_journal(run: RunDirectory, data: bytes) -> Path:
    """Give the run another journal, and keep the one it has, under the name returned. Hold the lock."""
    kept, number = run.path / DAMAGED, 2
    while kept.exists():
        kept, number = run.path / f"{DAMAGED}.{number}", number + 1
    write_atomically(kept, run.journal_path.read_bytes())
    write_atomically(run.journal_path, data)
    return kept
