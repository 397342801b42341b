"""Tables of metrics, an epoch a row, as CSV: what a simulation is given."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from nasir.errors import DataError
from nasir.files import read_bounded

MAX_BYTES = 1 << 24


def read_metrics(path: str | Path) -> list[dict[str, float]]:
    """Rows of a CSV file with the columns `epoch` (1, 2, 3, ...) and metrics, such as `val.accuracy`.

    Accuracies are fractions 0..1; `nan` is a diverged metric; a column `seconds` is the duration of an epoch.
    Raises DataError with file:line:column for anything else.
    """
    try:
        text = read_bounded(Path(path), MAX_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: cannot be read as a CSV file in UTF-8: {reason}; name a table of metrics") from None
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise DataError(f"{path}:1:1: the file is empty; expected a header such as epoch,val.accuracy")
    names = _header(path, *lines[0])
    rows = [_row(path, number, line, names, epoch) for epoch, (number, line) in enumerate(lines[1:], 1)]
    if not rows:
        raise DataError(f"{path}:{lines[0][0]}:1: there are no epochs below the header")
    return rows


def _header(path: str | Path, number: int, line: str) -> list[str]:
    cells = _cells(path, number, line)
    names = [cell.strip() for cell in cells]
    seen: set[str] = set()
    for index, name in enumerate(names):
        if not name:
            raise DataError(
                f"{_place(path, number, cells, index)}: the column has no name; the header is such as "
                "epoch,val.accuracy"
            )
        if name in seen:
            raise DataError(f"{_place(path, number, cells, index)}: column {name!r:.60} occurs twice; remove one")
        seen.add(name)
    if "epoch" not in seen:
        raise DataError(f"{path}:{number}:1: no column 'epoch'; the columns are {', '.join(names)}")
    if seen <= {"epoch", "seconds"}:
        raise DataError(f"{path}:{number}:1: no metric beside 'epoch'; add a column such as val.accuracy")
    return names


def _row(path: str | Path, number: int, line: str, names: Sequence[str], epoch: int) -> dict[str, float]:
    cells = _cells(path, number, line)
    if len(cells) != len(names):
        place = _place(path, number, cells, min(len(cells), len(names)) - 1)
        raise DataError(f"{place}: {len(cells)} values for {len(names)} columns ({', '.join(names)})")
    values = {}
    for index, (name, cell) in enumerate(zip(names, cells, strict=True)):
        try:
            values[name] = _value(name, cell)
            if name == "epoch" and values[name] != epoch:
                raise ValueError(f"epoch {cell.strip():.40}, expected {epoch}; rows count the epochs 1, 2, 3, ...")
        except ValueError as error:
            raise DataError(f"{_place(path, number, cells, index)}: {error}") from None
    del values["epoch"]
    return values


def _value(name: str, cell: str) -> float:
    """The number of a cell; ValueError says what is wrong with it."""
    try:
        value = float(cell)
    except ValueError:
        raise ValueError(f"{name} is {cell.strip()!r:.60}, which is not a number; write one, or nan") from None
    if name.endswith("accuracy") and value > 1:
        raise ValueError(f"{name} is {cell.strip():.40}; accuracies are fractions 0..1, so divide per cent by 100")
    if name == "seconds" and not value >= 0:
        raise ValueError(f"seconds is {cell.strip():.40}; it must be at least 0")
    return value


def _cells(path: str | Path, number: int, line: str) -> list[str]:
    try:
        return next(csv.reader([line]))
    except csv.Error as error:
        raise DataError(f"{path}:{number}:1: {error}; write numbers separated by commas") from None


def _place(path: str | Path, number: int, cells: Sequence[str], index: int) -> str:
    """File, line and character column, from 1, of a cell; exact for cells without quotes."""
    return f"{path}:{number}:{sum(len(cell) + 1 for cell in cells[:index]) + 1}"
