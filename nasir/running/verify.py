"""Whether everything in a run directory is as it was written, and what can be rescued where it is not.

Nothing here needs torch: journals have checksums, and all else is named by a digest.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nasir.errors import CheckpointError, JournalError, NasirError
from nasir.journal.directory import RunDirectory
from nasir.journal.log import Contents, effective
from nasir.journal.repair import mend
from nasir.journal.rescue import checked_checkpoints
from nasir.records import (
    CheckpointRecord,
    EndRecord,
    EpochRecord,
    KeptRecord,
    NetworkRecord,
    PrunedRecord,
    Record,
    RewriteRecord,
    StartRecord,
    last_of,
    of_kind,
)
from nasir.running.population import stored
from nasir.spec import hash_code
from nasir.spec.past import load_stored
from nasir.training.manifest import check_files, manifest_digest, read_manifest
from nasir.transfer import TransferPlan
from nasir.version import VERSION

__all__ = ["Verdict", "verify", "verify_study"]

ATTEMPTS = 3  # at a run that goes on meanwhile
STORE = re.compile(r"([0-9a-f]{64})\.(json|npy)")


@dataclass(slots=True)
class Verdict:
    """What was found of a run. `faults`: what is damaged or missing; `rescue`: what to do about it; `notes`: what is
    worth knowing and no damage; `counts`: how many of what were checked."""

    path: Path
    faults: list[str] = field(default_factory=list)
    rescue: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged or missing."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        lists = {"faults": self.faults, "rescue": self.rescue, "notes": self.notes}
        return {"path": str(self.path), "sound": self.sound, **lists, "counts": self.counts}


def verify(path: Path, tidied: bool = False) -> Verdict:
    """Check a run directory, changing nothing. What is looked at while the run goes on is looked at again.

    `tidied`: checkpoints and individuals may have been removed, as a search does with trials that are over. Raises
    UsageError where there is no run.
    """
    run = RunDirectory.open(path)
    for _ in range(ATTEMPTS):
        size = run.journal_path.stat().st_size
        verdict = _verdict(run, tidied)
        if verdict.sound or run.journal_path.stat().st_size == size:
            return verdict
    verdict.notes.append(f"{path}: the run goes on meanwhile, and what is told may be its work in progress")
    return verdict


def _verdict(run: RunDirectory, tidied: bool) -> Verdict:
    verdict, contents = Verdict(run.path), run.contents()
    records = effective(contents.records)
    over = tidied or last_of(records, EndRecord) is not None or last_of(records, PrunedRecord) is not None
    _journal(run, contents, verdict)
    _blobs(run, records, verdict)
    _individuals(run, records, over, verdict)
    _checkpoints(run, contents, records, over, verdict)
    _spec(run, contents, verdict)
    _environment(run, verdict)
    with suppress(OSError, UnicodeDecodeError):
        if contents.damage is None and not contents.chain.stamped(run.report_path.read_text(encoding="utf-8")):
            verdict.faults.append(f"{run.report_path}: made from another journal")
            verdict.rescue.append(f"`nasir report {run.path}` makes the report again")
    return verdict


def verify_study(path: Path) -> list[Verdict]:
    """Check every run of a study (its folder `trials`), by name."""
    runs = sorted(journal.parent for journal in (path / "trials").glob("*/journal.jsonl"))
    return [verify(run, tidied=True) for run in runs]


def _journal(run: RunDirectory, contents: Contents, verdict: Verdict) -> None:
    records = contents.records
    verdict.counts |= {"lines": len(records), "epochs": len(of_kind(effective(records), EpochRecord))}
    if contents.unprotected:
        verdict.notes.append(contents.chain.unprotected_text(contents.unprotected))
    if records and not isinstance(records[0], StartRecord):
        verdict.faults.append(f"{run.journal_path}:1: a {records[0].kind} record, and not the start of a run")
    if contents.damage is not None:
        verdict.faults.append(str(contents.damage).partition(";")[0])
    elif not records:
        verdict.notes.append(f"{run.journal_path}: no record yet; start the run again with `nasir run`")
    elif torn := run.journal_path.stat().st_size - contents.size:
        told = "is torn, or being written" if torn > 0 else "grows"
        verdict.notes.append(f"{run.journal_path}: its last line {told}; a resume does what it told again")


def _blobs(run: RunDirectory, records: tuple[Record, ...], verdict: Verdict) -> None:
    """Every blob against its name, and every name in the journal against the blobs."""
    needed = {record.graph for record in records if isinstance(record, NetworkRecord | KeptRecord | EndRecord)}
    plans = {record.plan for record in of_kind(records, RewriteRecord)}
    broken: set[str] = set()
    there = sorted(entry.name for entry in run.blobs.iterdir()) if run.blobs.is_dir() else []
    names = [match for name in there if (match := STORE.fullmatch(name))]
    for name in names:
        try:
            value: Any = run.get_blob(name[1]) if name[2] == "json" else run.get_array(name[1])
            if name[1] in plans:
                needed |= {f"{digest}.npy" for digest in TransferPlan.from_json(value).digests()}
        except NasirError as error:
            verdict.faults.append(_without_remedy(error))
            broken.add(name[0])
        except (ValueError, TypeError, KeyError, IndexError) as error:
            verdict.faults.append(f"{run.blobs / name[0]}: not a transfer plan ({type(error).__name__}: {error})")
    wanted = {name if name.endswith(".npy") else f"{name}.json" for name in (needed | plans) - {""}}
    for missing in sorted(wanted - set(there)):
        verdict.faults.append(f"{run.blobs / missing}: missing, and the journal names it")
    if broken or wanted - set(there):
        verdict.rescue.append("blobs are not stored twice: restore those from a copy of the run")
    verdict.counts["blobs"] = len(names)


def _checkpoints(
    run: RunDirectory, contents: Contents, records: tuple[Record, ...], over: bool, verdict: Verdict
) -> None:
    """Every checkpoint, and which of them a run may go on from whose journal or checkpoints are damaged."""
    checked, before = list(checked_checkpoints(run, contents)), len(verdict.faults)
    for each in checked:
        # a part of the journal that is damaged cannot speak for a checkpoint
        if each.fault is not None and not (contents.damage is not None and isinstance(each.fault, JournalError)):
            verdict.faults.append(_without_remedy(each.fault))
    verdict.counts["checkpoints"] = len(checked)
    if not checked and not over and (lost := last_of(records, CheckpointRecord)) is not None:
        verdict.faults.append(f"{run.checkpoints}: empty, and the journal tells of a checkpoint of epoch {lost.epoch}")
    if contents.damage is not None:
        verdict.rescue += _of_journal(run, contents)
    elif over or len(verdict.faults) == before:
        return
    epoch = next((each.meta["epoch"] for each in checked if each.fault is None and each.meta is not None), None)
    if epoch is not None:
        back = f"`nasir resume {run.path} --from-epoch {epoch}` goes on from it"
        verdict.rescue.append(f"the checkpoint of epoch {epoch} is sound: {back}")
    elif contents.records and isinstance(contents.records[0], StartRecord):
        verdict.rescue.append(f"no checkpoint is sound: `nasir resume {run.path} --from-start` trains it all again")
    else:
        verdict.rescue.append("nothing to go on with: start the run again with `nasir run`")


def _individuals(run: RunDirectory, records: tuple[Record, ...], over: bool, verdict: Verdict) -> None:
    wanted = stored(records)
    for record in of_kind(records, KeptRecord):
        folder = run.individuals / str(record.individual) / "step_0"
        if not folder.is_dir():
            if record.individual in wanted and not over:
                verdict.faults.append(f"{folder}: missing, and the policy may come back to it")
                verdict.rescue.append(f"restore {folder} from a copy of the run")
            continue
        verdict.counts["individuals"] = verdict.counts.get("individuals", 0) + 1
        try:
            check_files(folder, read_manifest(folder))
            if record.manifest not in ("", manifest_digest(folder)):
                verdict.faults.append(f"{folder}: not the individual that the journal says was kept")
        except CheckpointError as error:
            verdict.faults.append(_without_remedy(error))


def _spec(run: RunDirectory, contents: Contents, verdict: Verdict) -> None:
    start = contents.records[0] if contents.records else None
    try:
        spec = load_stored(run.spec_path)
        if isinstance(start, StartRecord) and start.spec_digest and spec.digest != start.spec_digest:
            verdict.faults.append(f"{run.spec_path}: not the spec this run began with")
            verdict.rescue.append(f"restore {run.spec_path} from a copy of the run")
        known = run.env().get("plugins", {})
        for plugin in hash_code(spec):
            if known.get(Path(plugin.path).name) != plugin.sha256:
                verdict.notes.append(f"{plugin.path}: plugin changed since the run began; a resume refuses it")
    except JournalError:
        return  # the environment, which is told by itself
    except NasirError as error:
        verdict.faults.append(str(error).splitlines()[0])
        verdict.rescue.append(f"restore {run.spec_path} from a copy of the run")


def _environment(run: RunDirectory, verdict: Verdict) -> None:
    try:
        env = run.env()
    except JournalError as error:
        verdict.faults.append(_without_remedy(error))
        verdict.rescue.append(f"restore {run.env_path} from a copy of the run")
        return
    for name, now in _versions().items():
        if name in env and str(env[name]).partition("+")[0] != now:  # metadata leaves out what torch was built for
            verdict.notes.append(f"{name} was {env[name]}, is {now}: a resume will not be bit-exact")


def _versions() -> Mapping[str, str]:
    versions = {"nasir": VERSION, "python": platform.python_version()}
    with suppress(PackageNotFoundError):
        versions["torch"] = version("torch").partition("+")[0]
    return versions


def _of_journal(run: RunDirectory, contents: Contents) -> Iterator[str]:
    lines, last = len(contents.records), last_of(effective(contents.records), EpochRecord)
    yield f"the journal is sound up to line {lines}" + (f" (epoch {last.epoch})" if last else "")
    mended = mend(run.journal_path)
    if mended is not None:
        places = ", ".join(f"line {line}, byte {byte}" for line, byte in mended.places)
        yield f"nothing but flipped bits is wrong ({places}): `nasir verify {run.path} --repair` mends the journal"


def _without_remedy(error: NasirError) -> str:
    return str(error).rpartition("; ")[0] or str(error)
