"""Checkpoints as they lie on disk: a manifest that names every file with its SHA-256. Reading it needs no backend.

FOLDER/step_N/GROUP.safetensors    one file a group of tensors
FOLDER/step_N/manifest.json        format, step, size and SHA-256 of each file, the saver's meta data, and its own
                                   SHA-256 over all of that
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasir.errors import CheckpointError

__all__ = [
    "GROUP",
    "MANIFEST",
    "check_file",
    "check_files",
    "encoded",
    "manifest_bytes",
    "manifest_digest",
    "read_manifest",
    "steps",
]

FORMAT = 1
MANIFEST = "manifest.json"
GROUP = re.compile(r"[A-Za-z0-9_-]+")
"""What groups may be called, as their files are called so."""


def steps(directory: Path) -> tuple[int, ...]:
    """Steps of the finished checkpoints in a folder, ascending; not yet verified."""
    names = [entry.name for entry in directory.iterdir() if entry.is_dir()] if directory.is_dir() else []
    return tuple(sorted(int(match[1]) for name in names if (match := re.fullmatch(r"step_(\d{1,18})", name))))


def encoded(place: Path, value: Mapping[str, Any]) -> bytes:
    """As JSON; CheckpointError where it has no such form."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{place}: the meta data cannot be written as JSON: {error}") from error


def manifest_bytes(place: Path, step: int, groups: Mapping[str, Any], meta: Mapping[str, Any]) -> bytes:
    """A manifest. `groups`: `sha256`, `bytes` and what else the backend needs to know, by name of the group."""
    body = {"format": FORMAT, "step": step, "groups": groups, "meta": meta}
    return encoded(place, {**body, "sha256": hashlib.sha256(encoded(place, body)).hexdigest()})


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the checkpoint in the folder `path`; CheckpointError where it is missing or damaged."""
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
        claimed = manifest.pop("sha256")
        whole = hashlib.sha256(encoded(path, manifest)).hexdigest() == claimed
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError, CheckpointError):
        whole, manifest = False, {}
    if not whole:
        raise CheckpointError(f"{file}: damaged: its contents do not match its own sha256")
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{file}: format {manifest.get('format')!r:.40}, this version of nasir reads {FORMAT}")
    if not _is_complete(manifest):
        raise CheckpointError(f"{file}: not what this version of nasir writes, though its sha256 is right")
    return dict(manifest)


def _is_complete(manifest: Mapping[str, Any]) -> bool:
    """Whether it has the parts of a manifest, and no group is a file elsewhere."""
    groups = manifest.get("groups")
    if type(manifest.get("step")) is not int or not isinstance(manifest.get("meta"), dict):
        return False
    return isinstance(groups, dict) and all(
        GROUP.fullmatch(name) and isinstance(entry, dict) and {"sha256", "bytes"} <= entry.keys()
        for name, entry in groups.items()
    )


def manifest_digest(path: Path) -> str:
    """The SHA-256 of the manifest's bytes, which names a checkpoint with all that is in it; raises OSError."""
    return hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()


def check_file(file: Path, entry: Mapping[str, Any], size: int, sha256: str) -> None:
    """Raise CheckpointError unless a file has the size (bytes) and the digest of its entry in the manifest."""
    if size != entry["bytes"]:
        raise CheckpointError(f"{file}: {size} bytes, {entry['bytes']} were written; the file is truncated")
    if sha256 != entry["sha256"]:
        raise CheckpointError(f"{file}: its sha256 differs from the manifest's; the file is damaged")


def check_files(path: Path, manifest: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless every file of the checkpoint in the folder `path` is as it was written."""
    for group, entry in manifest["groups"].items():
        file = path / f"{group}.safetensors"
        try:
            with open(file, "rb") as stored:
                digest = hashlib.file_digest(stored, "sha256").hexdigest()
                check_file(file, entry, stored.tell(), digest)
        except OSError as error:
            raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from None
