"""What is said of a value that does not fit: the same words for a spec and for Python."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

Path: TypeAlias = tuple[str | int, ...]
Fault: TypeAlias = tuple[Path, str, str]
"""Path below the options, what is wrong, remedy."""

EXPECTED: Mapping[type, tuple[str, str]] = {
    int: ("a whole number", "write digits only, such as 3"),
    float: ("a number", "write a number such as 0.1"),
    str: ("text", "put it into quotes if it is text"),
    bool: ("true or false", "write true or false"),
    list: ("a list", "write a list such as [a, b]"),
    dict: ("a mapping", "write `key: value` pairs"),
    type(None): ("nothing", "leave it out"),
}
"""What a value should have been, and the remedy, by type."""
BEYOND = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most", "multiple_of": "a multiple of"}
"""Bounds of numbers, by the name of the constraint."""


def out_of_bounds(bound: str, limit: float, value: Any) -> tuple[str, str]:
    """What is wrong with a number that breaks one of `BEYOND`, and the remedy."""
    words = f"{BEYOND[bound]} {limit:g}"
    return (
        f"must be {words}, found {shown(value)}",
        f"use a value {words}" if bound != "multiple_of" else f"use {words}",
    )


def wrong_form(value: Any, form: str) -> tuple[str, str]:
    """What is wrong with a text that is not of a form, and the remedy; `form` is in words."""
    return f"cannot be {value!r:.60}", f"write {form}"


def wrong_length(bound: str, limit: int, length: int, items: str = "items") -> tuple[str, str]:
    """What is wrong with a list of too few (`bound` "min_length") or too many items, and the remedy."""
    few, least = ("few", "least") if bound == "min_length" else ("many", "most")
    return f"too {few} {items}: {length}", f"give at {least} {limit}"


UNKNOWN_OPTION = "unknown option"
MISSING_OPTION = "this option is required"
EMPTY_TEXT = ("expected text, found none", "write it out")


def amount_pattern(unit: str) -> str:
    """The regular expression, of JSON Schema too, of a number with its unit; `unit` is in the plural."""
    return f"^[0-9]+(\\.[0-9]+)? +{unit}?$"


def amount(text: str, unit: str) -> int | float | None:
    """The number of `3 epochs`; None for other text."""
    text = text.strip()
    if re.match(amount_pattern(unit), text) is None:
        return None
    number = float(text.split()[0])
    return int(number) if number.is_integer() else number


NUMBER = r"([-+]?[0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)"
SCALED = rf"{NUMBER}\s*([kKMGT]?)"
"""The regular expression of a number with its thousands; the second group is a key of `POWERS`."""
POWERS = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}


def scaled(text: str) -> float | None:
    """The number of `40M`, `1.2G` or `340800`; None for other text."""
    match = re.fullmatch(SCALED, text.strip())
    return None if match is None else float(match[1]) * 1000.0 ** POWERS[match[2]]


def not_scaled(value: Any) -> tuple[str, str]:
    """What is wrong with a text that `scaled` gives no number for, and the remedy."""
    return f"expected a number, found {value!r:.60}", "write 40M, 1.2G or 40000000"


def no_amount(text: str, unit: str) -> tuple[str, str]:
    """What is wrong with a text that is not an amount, and the remedy."""
    return f"expected a duration in {unit}, found {text!r}", f"write `3 {unit}`, or just 3"


def unknown_word(value: Any, known: Iterable[Any]) -> tuple[str, str]:
    """What is wrong with a value that is not among the `known` ones, and the remedy."""
    text = f"{value!r:.60}" if isinstance(value, str) else shown(value)
    return f"unknown value {text}", suggestion(str(value), map(written, known))


def written(value: Any) -> str:
    """A choice as a spec has it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def shown(value: Any) -> str:
    """A value in an error message: its YAML kind, and itself if it is short."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"a mapping of {', '.join(map(str, list(value)[:4])) or 'nothing'}"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return f"the text {value!r:.60}" if isinstance(value, str) else f"{value!r:.60}"


def dotted(path: Path) -> str:
    """`phases.0.rules.1.do`, as `--set` takes it."""
    return ".".join(map(str, path))


def sentence(place: object, path: Path, text: str, remedy: str) -> str:
    """One problem in one line: `place: path: text; remedy`, without what is empty."""
    where = f"{place}: {dotted(path)}" if path else str(place)
    return f"{where}: {text}" + (f"; {remedy}" if remedy else "")


def close_match(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The known name that `name` is most likely a slip of; `likeness` is difflib's ratio, 0 to 1."""
    names = list(known)
    folded = {item.lower().replace("-", "_"): item for item in names}
    matches = difflib.get_close_matches(name.lower().replace("-", "_"), folded, n=1, cutoff=likeness)
    return folded[matches[0]] if matches else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """The remedy for an unknown name: the closest known one, or all of them."""
    names = list(known)
    close = close_match(name, names)
    if close is not None:
        return f"did you mean {close!r}?"
    return f"known: {', '.join(names)}" if names else "there are none"
