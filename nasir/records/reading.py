"""Records from JSON data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nasir.errors import JournalError
from nasir.options import close_match, shown
from nasir.records.base import CHAIN, Record, RecordField, layout
from nasir.records.kinds import KINDS

__all__ = ["from_json", "read_record", "typed"]

REMEDY = "the journal was damaged or edited afterwards; restore the file, or start the run again elsewhere"


def read_record(line: bytes | str) -> Record:
    """The record of a line of a journal file; JournalError, without its place, where the line is not one."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise JournalError(f"not a JSON record ({error}); {REMEDY}") from None
    if not isinstance(data, dict) or not isinstance(data.get("kind"), str):
        raise JournalError(f"not a journal record (an object with 'kind'); {REMEDY}")
    try:
        return from_json(data)
    except JournalError as error:
        raise JournalError(f"{error}; {REMEDY}") from None


def from_json(data: Mapping[str, Any]) -> Record:
    """The record that is written as `data`; `to_json` gives the same back, whatever it lacks or has beside.

    Raises JournalError where the kind is unknown, a field that every record of it has is missing, or a value does not
    fit: its message says which, and what to do.
    """
    kind = str(data.get("kind", ""))
    made = KINDS.get(kind)
    if made is None:
        near = close_match(kind, KINDS)
        raise JournalError(
            f"unknown kind of record {kind!r}{f' (is {near!r} meant?)' if near else ''}; known: "
            f"{', '.join(KINDS)}; what a later version of nasir wrote is to be read with that version"
        )
    places, names, _ = layout(made)
    record: Record = object.__new__(made)
    absent = []
    for place in places:
        key, put, plain, low, may, missing, *_ = place
        if key not in data:
            if not may:
                raise JournalError(f"{made.kind} record: no {key!r}; each of them has to have it")
            absent.append(key)
            put(record, {} if missing is dict else missing)
            continue
        value = data[key]
        if (type(value) not in plain and not _fits(value, plain)) or (
            low is not None and value is not None and value < low
        ):
            raise JournalError(_unfitting(made, place, value))
        put(record, value)
    object.__setattr__(record, "absent", _shared(absent))
    more = len(data) > 1 + len(places) - len(absent)  # than `kind` and the fields
    extra = {key: data[key] for key in data if key not in names and key not in ("kind", CHAIN)} if more else {}
    object.__setattr__(record, "extra", extra)
    return record


def typed(history: Sequence[Record]) -> Sequence[Record]:
    """The history itself; JournalError where it holds plain mappings, in which no record would be recognized.

    Only the newest record is looked at, so that it costs the same however long the history is.
    """
    if len(history) and not isinstance(history[-1], Record):
        raise JournalError(
            f"a history of {type(history[-1]).__name__}: its records have to be those of `nasir.records`; "
            "make them by `nasir.records.from_json(record)`"
        )
    return history


_SETS: dict[tuple[str, ...], frozenset[str]] = {}


def _shared(absent: list[str]) -> frozenset[str]:
    """One set for all records that lack the same fields."""
    key = tuple(absent)
    if key not in _SETS:
        _SETS[key] = frozenset(key)
    return _SETS[key]


def _fits(value: Any, plain: tuple[type, ...]) -> bool:
    """For values made in Python, whose types differ from those that JSON gives."""
    return isinstance(value, plain) and not (isinstance(value, bool) and bool not in plain)


def _unfitting(made: type[Record], place: RecordField, value: Any) -> str:
    least = "" if place.low is None else f" of at least {place.low:g}"
    return f"{made.kind} record: {place.key!r} is {shown(value)}; it has to be {place.spelled}{least}"
