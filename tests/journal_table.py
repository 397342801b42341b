"""The table of records in docs/runs.md, from the classes of `nasir.records`: `make docs` writes it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from architecture import between
from test_layers import ROOT

from nasir.records import KINDS
from nasir.records.base import Record, RecordField, layout

PAGE = ROOT / "docs/runs.md"
BEGIN, END = "<!-- records: written by `make docs` -->\n", "<!-- end of records -->\n"
WORDS: Mapping[type, str] = {int: "int", float: "float", str: "text", bool: "bool", dict: "object", list: "list"}


def value(place: RecordField) -> str:
    """What its value may be, such as "int from 0"; what null means, where it may be that, is among what it says."""
    plain, low = place.allowed
    plain = float if float in plain else plain[0]
    low = "" if low is None else f" from {low:g}"
    return f"{WORDS[plain]}{low}{', or left out' if place.left_out else ''}"


def table() -> str:
    """A line for each kind and one for each of its keys; `n` and `time`, which all have, are told above it."""
    lines = ["| kind | key | value | what it says |", "|---|---|---|---|"]
    for kind, made in KINDS.items():
        lines.append(f"| `{kind}` | | | {' '.join(inspect.cleandoc(made.__doc__ or '').split())} |")
        for place in layout(made).places:
            if place.name in Record.__slots__:
                continue
            lines.append(f"| | `{place.key}` | {value(place)} | {place.says} |")
    return "\n".join(lines) + "\n"


def updated(page: str) -> str:
    """The page with the table as it has to be."""
    return between(page, BEGIN, END, table())


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
