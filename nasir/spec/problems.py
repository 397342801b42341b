"""One line for each problem of a spec: `file:line:column: path: problem; remedy`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nasir.errors import SpecError
from nasir.options import Path, sentence


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a value was written, 1-based; line 0 stands for a whole file or a `--set` override named by `file`."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


NOWHERE = Place("what the spec left unsaid when it was stored")
"""The place of what nobody wrote."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at one place, and what to do about it (`remedy` may be empty)."""

    place: Place
    path: Path
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return sentence(self.place, self.path, self.text, self.remedy)


class SpecProblems(SpecError):
    """A SpecError that knows its problems one by one."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.place))
        super().__init__("\n".join(dict.fromkeys(map(str, self.problems))))


def raise_problems(problems: Sequence[Problem]) -> None:
    """Raise one SpecProblems with all of them in the order of their places; nothing when there are none."""
    if problems:
        raise SpecProblems(problems)
