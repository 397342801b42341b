"""A small valid spec, line by line, for tests that change one thing, and passes with options of every kind."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

VALID = """\
nasir: 1
name: small
input: {image: [3, 32, 32]}
network:
  - conv_bn_relu: {out: 16}
  - stage: {name: s1, block: basic, out: 16}
  - stage: {name: s2, block: basic, out: 32, stride: 2}
  - classifier: {classes: 10}
data: {dataset: digits, validation: 0.2}
phases:
  - name: grow
    optimizer: {sgd: {lr: 0.1}}
    rules:
      - every: 3 epochs
        do: {try-this: {init: gaussian}}
        freeze: {plateau: {window: 10, less_than: 0.01}}
    until: all_frozen
  - name: finetune
    epochs: 20
    schedule: {staircase: {at: [0.5, 0.75]}}
"""


def changed(old: str, new: str) -> str:
    """VALID with its one occurrence of `old` replaced."""
    assert VALID.count(old) == 1, f"{old!r} occurs {VALID.count(old)} times"
    return VALID.replace(old, new)


ESCAPES = {r"\n": "\n", r"\t": "\t", r"\a": "\a"}


def bad_cases(table: Path) -> list[tuple[str, list[str]]]:
    """Text and expected lines of each paragraph of a table of malformed specs, s.yaml; its head says how to read it."""
    made = []
    for paragraph in table.read_text().split("\n\n")[1:]:
        lines = [(line[0], line[2:]) for line in paragraph.splitlines()]
        old, new = ("".join(text for mark, text in lines if mark == wanted) for wanted in "-+")
        old, new = (re.sub(r"\\[nta]", lambda escape: ESCAPES[escape[0]], text) for text in (old, new))
        expected = [f"s.yaml:{text}" for mark, text in lines if mark == "!"]
        made.append((changed(old, new) if old else new, expected))
    return made


@dataclass(frozen=True)
class Trial:
    """Change something, for the tests.

    Further lines are not part of a schema's description.
    """

    init: Literal["zero", "gaussian"] = "zero"
    count: int = 1
    std: float = 1.0
    exact: bool = False
    widths: tuple[int, ...] = ()
    pair: tuple[int, float] = (1, 0.5)
    limit: int | None = None
    start: Literal["mean"] | float = "mean"
    template: Mapping[str, Any] | None = None
    note: Annotated[str, "free text"] = ""
    seen: int = field(default=0, init=False)
    needs: ClassVar[tuple[str, ...]] = ()
    shrinks: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count is {self.count}; it must be at least 1")


@dataclass(frozen=True)
class Needy:
    """A pass that cannot do without its option."""

    fraction: float
