"""Records for tests, of which only what the test is about has to be said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
