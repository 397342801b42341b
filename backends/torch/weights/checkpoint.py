"""Checkpoints: named groups of tensors on disk, written so that a crash at any moment leaves one to use.

    checkpoints/step_N/GROUP.safetensors    one file a group ("model", "optimizer", "ema", ...); no pickle anywhere
    checkpoints/step_N/manifest.json        written last: sha256 and size of each file, aliases, the caller's meta data

A checkpoint is built aside in `step_N.tmp.PID`, fsynced, renamed, and its parent fsynced; so `step_N` is whole or
absent as far as the disk keeps its word, and the digests find out where it did not. Tensors are stored contiguous,
whatever their memory format; keys of one tensor (tied weights) share one entry and come back as one tensor again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from nasir.backends.torch.lower.parts import tensors_of
from nasir.backends.torch.weights.arena import Arena
from nasir.errors import CheckpointError
from nasir.files import fsync_directory, remove_left
from nasir.training.manifest import GROUP, MANIFEST, check_file, encoded, manifest_bytes, read_manifest, steps
from nasir.training.plans import OptimizerPlan

__all__ = [
    "AsyncWriter",
    "Checkpoint",
    "Groups",
    "bytes_of",
    "host",
    "latest",
    "load",
    "save",
    "set_aside",
]

Groups = Mapping[str, Mapping[str, Tensor]]
"""Tensors by group name (a file name without suffix: letters, digits, `_`, `-`) and key."""

FEWEST = 2  # one that proves damaged needs a predecessor


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was read back: contiguous tensors by group and key, and the meta data as JSON keeps it."""

    step: int
    path: Path
    tensors: dict[str, dict[str, Tensor]]
    meta: dict[str, Any]

    def fill(self, model: nn.Module) -> None:
        """Give the model the stored weights; CheckpointError where they are not those of its network."""
        own, stored = tensors_of(model), self.tensors["model"]
        if own.keys() != stored.keys():
            raise CheckpointError(f"{self.path}: its weights are not those of its network; restore it from a copy")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(stored[name])


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """Host tensors that nothing else changes, once `copied` (if any) has passed."""

    tensors: dict[str, dict[str, Tensor]]
    aliases: dict[str, dict[str, str]]
    copied: torch.cuda.Event | None


def bytes_of(model: nn.Module, averaged: bool, optimizer: OptimizerPlan) -> int:
    """Of weights, their averages if there are any, and the moments that the optimizer will have."""
    weights = sum(int(tensor.nbytes) for tensor in tensors_of(model).values())
    learned = sum(int(parameter.nbytes) for parameter in model.parameters())
    moments = sum(kind in ("first", "second", "weight") for kind in optimizer.options.held().values())
    return weights * (2 if averaged else 1) + learned * moments


def save(directory: Path, step: int, tensors: Groups, meta: Mapping[str, Any], keep: int = FEWEST) -> Path:
    """Write `directory/step_{step}` durably and return it; then keep the newest `keep` (at least 2).

    Checkpoints of later steps are removed too: they belong to a future that going back to this step made void.
    Raises CheckpointError where the disk refuses; what was there before stays usable.
    """
    return _write(directory, step, _snapshot(tensors), meta, keep)


def load(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read and verify one checkpoint. Raises CheckpointError naming the file that is missing, short or altered."""
    manifest = read_manifest(path)
    tensors: dict[str, dict[str, Tensor]] = {}
    for group, entry in manifest["groups"].items():
        file = path / f"{group}.safetensors"
        data = _read(file)
        check_file(file, entry, len(data), hashlib.sha256(data).hexdigest())
        try:
            stored = safetensors.torch.load(data)
        except SafetensorError as error:  # only after a change of format: the digest was right
            raise CheckpointError(f"{file}: not readable as safetensors ({error})") from None
        tensors[group] = {key: tensor.to(device) for key, tensor in stored.items()}
        try:
            tensors[group].update((alias, tensors[group][key]) for alias, key in entry["aliases"].items())
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path}: the aliases of {group} are none of its tensors ({error!r:.80})") from None
    return Checkpoint(manifest["step"], path, tensors, manifest["meta"])


def latest(directory: Path, device: torch.device | str = "cpu") -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The newest checkpoint that verifies, and a sentence for each newer one passed over.

    None where no checkpoint was ever finished; CheckpointError where there are some and every one is damaged.
    """
    problems: list[str] = []
    for step in reversed(steps(directory)):
        try:
            checkpoint = load(directory / f"step_{step}", device)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        return checkpoint, tuple(f"{problem}; going back to step {checkpoint.step}" for problem in problems)
    if problems:
        raise CheckpointError(
            f"{directory}: none of {len(problems)} checkpoints is usable ({'; '.join(problems)}); start the run again"
        )
    return None, ()


def set_aside(directory: Path, step: int) -> None:
    """Rename the checkpoints after `step`, which proved damaged: they must not count among the newest that are kept."""
    for number in steps(directory):
        if number > step:
            damaged = directory / f"step_{number}.damaged"
            shutil.rmtree(damaged, ignore_errors=True)
            os.rename(directory / f"step_{number}", damaged)


class AsyncWriter:
    """Writes checkpoints from one background thread, so that a training step waits for a copy and not for a disk.

    `save` copies (from a CUDA device: on a side stream into pinned memory) and returns; at most one write is under way,
    a second `save` waits for it. A failed write raises CheckpointError at the next call. Leave through `with` or
    `flush`.
    """

    def __init__(self, directory: Path, keep: int = FEWEST, arena: Arena | None = None) -> None:
        """`arena`: memory for the copies, which may have been reserved before; nobody else uses it until `close`."""
        self._arena = Arena() if arena is None else arena
        self._directory = directory
        self._keep = keep
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[Path] | None = None
        self._written: list[Path] = []
        remove_left(directory)

    def save(self, step: int, tensors: Groups, meta: Mapping[str, Any]) -> None:
        """Snapshot now, write soon. `meta` is encoded now, so the caller may change it afterwards."""
        self._settle()
        frozen = json.loads(encoded(self._directory / f"step_{step}", meta))
        snapshot = _snapshot(tensors, self._arena)
        self._pending = self._worker.submit(_write, self._directory, step, snapshot, frozen, self._keep)

    def finished(self) -> tuple[Path, ...]:
        """Checkpoints that became durable since the last call, without waiting: what may now be journaled."""
        if self._pending is not None and self._pending.done():
            self._settle()
        written, self._written = tuple(self._written), []
        return written

    def flush(self) -> tuple[Path, ...]:
        """Wait for the write under way, then as `finished`."""
        self._settle()
        return self.finished()

    def _settle(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            self._written.append(pending.result())

    def close(self) -> None:
        """Finish the write under way and end the thread."""
        try:
            self._settle()
        finally:
            self._worker.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except CheckpointError as failure:
            if error is None:
                raise
            error.add_note(str(failure))  # the error on its way out is the cause worth seeing


def _snapshot(tensors: Groups, arena: Arena | None = None) -> _Snapshot:
    """Contiguous host tensors, one per distinct tensor; with an `arena` copies, which no later update shows in."""
    unique: dict[str, dict[str, Tensor]] = {}
    aliases: dict[str, dict[str, str]] = {}
    for group, members in tensors.items():
        if not GROUP.fullmatch(group):
            raise CheckpointError(f"group {group!r}: use only letters, digits, '_' and '-'")
        first: dict[tuple[object, ...], str] = {}
        unique[group], aliases[group] = {}, {}
        for key, tensor in members.items():
            owner = first.setdefault(_identity(tensor), key)
            if owner == key:
                unique[group][key] = tensor.detach()
            else:
                aliases[group][key] = owner
    if arena is None:
        return _Snapshot(_plain(unique), aliases, None)
    copies, copied = arena.copy([tensor for group in unique.values() for tensor in group.values()])
    remaining = iter(copies)
    host = {name: {key: next(remaining) for key in group} for name, group in unique.items()}
    return _Snapshot(host, aliases, copied)


def _identity(tensor: Tensor) -> tuple[object, ...]:
    if tensor.numel() == 0:
        return (id(tensor),)
    place = (tensor.device, tensor.untyped_storage().data_ptr(), tensor.storage_offset())
    return (*place, tensor.shape, tensor.stride(), tensor.dtype)


def _plain(groups: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Host tensors that may share memory with the living ones."""
    seen: set[int] = set()
    return {name: {key: host(tensor.cpu(), seen) for key, tensor in group.items()} for name, group in groups.items()}


def host(tensor: Tensor, seen: set[int]) -> Tensor:
    """A contiguous tensor that shares no memory with another of the file: safetensors refuses overlapping views.

    `seen`: addresses of the memory of those before it.
    """
    storage = tensor.untyped_storage().data_ptr()
    shared = storage in seen
    seen.add(storage)
    return tensor.clone(memory_format=torch.contiguous_format) if shared else tensor.contiguous()


def _write(directory: Path, step: int, snapshot: _Snapshot, meta: Mapping[str, Any], keep: int) -> Path:
    target = directory / f"step_{step}"
    aside = directory / f"step_{step}.tmp.{os.getpid()}"
    try:
        if snapshot.copied is not None:
            with torch.cuda.device(snapshot.copied.device):  # a new thread is on device 0, and would open it
                snapshot.copied.synchronize()
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        _fill(aside, step, snapshot, meta)
        _publish(aside, target)
        _prune(directory, step, max(keep, FEWEST))
    except (OSError, SafetensorError, MemoryError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        kept = ", ".join(f"step_{number}" for number in steps(directory)) or "none"
        raise CheckpointError(
            f"{target}: not written: {error}; free space or mend the disk (usable so far: {kept})"
        ) from error
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return target


def _fill(aside: Path, step: int, snapshot: _Snapshot, meta: Mapping[str, Any]) -> None:
    groups = {}
    for group, tensors in snapshot.tensors.items():
        file = aside / f"{group}.safetensors"
        safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
        groups[group] = {**_durable(file), "aliases": snapshot.aliases[group]}
    with open(aside / MANIFEST, "wb") as manifest:
        manifest.write(manifest_bytes(aside, step, groups, meta))
        manifest.flush()
        os.fsync(manifest.fileno())
    fsync_directory(aside)


def _durable(file: Path) -> dict[str, str | int]:
    with open(file, "rb") as written:
        os.fsync(written.fileno())
        digest = hashlib.file_digest(written, "sha256").hexdigest()
        return {"sha256": digest, "bytes": written.tell()}


def _publish(aside: Path, target: Path) -> None:
    old = aside.with_name(f"{aside.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():  # written before the run went back: the same values, or damaged
        os.rename(target, old)
    os.rename(aside, target)
    fsync_directory(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _prune(directory: Path, step: int, keep: int) -> None:
    present = steps(directory)
    current = [number for number in present if number <= step]
    for number in set(present) - set(current[-keep:]):
        doomed = directory / f"step_{number}.tmp.{os.getpid()}"
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(directory / f"step_{number}", doomed)  # at once, so that no half-removed one looks finished
        shutil.rmtree(doomed, ignore_errors=True)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from None
