"""Records for tests, of which only what the test is about has to be said."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nasir.journal.chain import checksum, sealed
from nasir.records import Record, from_json

LEAST: Mapping[str, Mapping[str, Any]] = {  # what each record of its kind has
    "start": {"name": "made", "seed": 0, "graph": "0" * 64},
    "phase": {"phase": "phase"},
    "epoch": {"epoch": 1, "metrics": {}},
    "kept": {"metrics": {}},
    "checkpoint": {"path": "checkpoints/step_1"},
    "end": {"status": "done"},
}


def made(kind: str, fields: Mapping[str, Any] | None = None) -> Record:
    """A record of that kind with those fields, and with all that each of its kind has."""
    return from_json({**LEAST.get(kind, {}), **(fields or {}), "kind": kind})


def write_chained(path: Path, lines: Iterable[bytes]) -> None:
    """A journal of those lines (JSON without a checksum), whatever they are, each with the checksum that fits."""
    value, chained = "", b""
    for line in lines:
        value = checksum(value, line)
        chained += sealed(line, value) + b"\n"
    path.write_bytes(chained)


def as_line(record: Mapping[str, Any]) -> bytes:
    """A record as a line of a journal, without its checksum."""
    return json.dumps(dict(record), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
