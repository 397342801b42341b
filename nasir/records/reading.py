"""Records from JSON data."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nasir.errors import JournalError
from nasir.options import close_match, shown
from nasir.records.base import CHAIN, Allowed, Record, RecordField, layout
from nasir.records.kinds import KINDS

__all__ = ["from_json", "read_record", "reread", "typed"]

REMEDY = "the journal was damaged or edited afterwards; restore the file, or start the run again elsewhere"


def read_record(line: bytes | str) -> Record:
    """The record of a line of a journal file; JournalError, without its place, where the line is not one."""
    return _read(line, _DECODER)


def reread(line: bytes | str) -> Record:
    """As `read_record`, of a line that was just made of a mapping: no key can be in it twice."""
    return _read(line, _OWN_DECODER)


def _read(line: bytes | str, decoder: json.JSONDecoder) -> Record:
    try:
        text = line.decode("utf-8") if isinstance(line, bytes) else line
        data = decoder.decode(text)
        if "\\u" in text or text.count("[") + text.count("{") > DEEPEST:
            _check(data)
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
            f"unknown kind of record {kind!r:.60}{f' (is {near!r} meant?)' if near else ''}; known: "
            f"{', '.join(KINDS)}; what a later version of nasir wrote is to be read with that version"
        )
    places, names, _ = layout(made)
    record: Record = object.__new__(made)
    absent, bound = [], math.inf
    for place in places:
        key, put, (plain, low), inside, may, missing, _, _, _, _ = place
        if key not in data:
            if not may:
                raise JournalError(f"{made.kind} record: no {key!r}; each of them has to have it")
            absent.append(key)
            put(record, {} if missing is dict else missing)
            continue
        value = data[key]
        # at once what nearly all values are, without a call: a run reads its journal often, and appends while it trains
        at_once = type(value) in plain and (low is None or value is None or low <= value < bound)
        if not (at_once or place.allowed.takes(value)):
            raise JournalError(_unfitting(made, key, value, place.allowed))
        if inside is not None and value:
            _check_inside(made, place, inside, value)
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


def _check_inside(made: type[Record], place: RecordField, inside: Allowed, value: Any) -> None:
    """Raise JournalError for what does not fit inside a mapping or list."""
    plain, low = inside
    for entry in value.values() if isinstance(value, Mapping) else value:
        if not (type(entry) in plain and (low is None or entry is None or low <= entry < math.inf)):
            break
    else:
        if all(key in value for key in place.has):
            return
    for name, entry in value.items() if isinstance(value, Mapping) else enumerate(value):
        if not inside.takes(entry):
            raise JournalError(_unfitting(made, f"{place.key}: {name}", entry, inside))
    for key in place.has:
        if key not in value:
            raise JournalError(f"{made.kind} record: no {key!r} in {place.key!r}; each of them has to have it")


def _unfitting(made: type[Record], key: str, value: Any, allowed: Allowed) -> str:
    return f"{made.kind} record: {key!r} is {shown(value)}; it has to be {allowed.spelled}"


# -- JSON that no journal of ours has


LARGEST = 2**64
DEEPEST = 100  # objects and lists in each other: far from where Python's recursion ends


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r:.60} twice")
    return made


def _whole(text: str) -> int:
    if len(text) > 20 or not -LARGEST < int(text) < LARGEST:
        raise ValueError(f"a whole number of {len(text.lstrip('-'))} digits")
    return int(text)


def _check(data: Any) -> None:
    """Raise ValueError for texts that hold NUL or cannot be written, and for what is nested too deeply."""
    level = [data]
    for _ in range(DEEPEST + 1):
        level = [inner for entry in level for inner in _inside(entry)]
    if level:
        raise ValueError(f"nested more than {DEEPEST} levels deep")


def _inside(entry: Any) -> Iterable[Any]:
    if isinstance(entry, dict):
        return [*entry, *entry.values()]
    if isinstance(entry, str):
        if "\0" in entry:
            raise ValueError("a NUL character")
        entry.encode("utf-8")  # half a surrogate pair has no such form
    return entry if isinstance(entry, list) else ()


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole)
_OWN_DECODER = json.JSONDecoder(parse_int=_whole)
