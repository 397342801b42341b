"""One line for each problem of a spec: `file:line:column: path: problem; remedy`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from nasir.errors import SpecError

Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a value was written, 1-based; line 0 stands for a whole file or a `--set` override named by `file`."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at one place, and what to do about it (`remedy` may be empty)."""

    place: Place
    path: Path
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        where = f"{self.place}: {dotted(self.path)}" if self.path else str(self.place)
        return f"{where}: {self.text}" + (f"; {self.remedy}" if self.remedy else "")


class SpecProblems(SpecError):
    """A SpecError that knows its problems one by one."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.place))
        super().__init__("\n".join(dict.fromkeys(map(str, self.problems))))


def dotted(path: Path) -> str:
    """`phases.0.rules.1.do`, as `--set` takes it."""
    return ".".join(map(str, path))


def raise_problems(problems: Sequence[Problem]) -> None:
    """Raise one SpecProblems with all of them in the order of their places; nothing when there are none."""
    if problems:
        raise SpecProblems(problems)


def close_match(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The known name that `name` is most likely a slip of; `likeness` is difflib's ratio, 0 to 1."""
    names = list(known)
    folded = {item.lower().replace("-", "_"): item for item in names}
    found = difflib.get_close_matches(name.lower().replace("-", "_"), folded, n=1, cutoff=likeness)
    return folded[found[0]] if found else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """The remedy for an unknown name: the closest known one, or all of them."""
    names = list(known)
    close = close_match(name, names)
    if close is not None:
        return f"did you mean {close!r}?"
    return f"known: {', '.join(names)}" if names else "there are none"
