"""What a data set is given: its options, and where relative paths begin."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nasir.errors import DataError


@dataclass(frozen=True, slots=True)
class DataContext:
    """Where a data set is read: `base` is the folder that relative paths in the spec are relative to."""

    base: Path = field(default_factory=Path.cwd)

    def path(self, value: str | os.PathLike[str]) -> Path:
        """`value` with `~` expanded and, when relative, taken from `base`."""
        return self.base / Path(value).expanduser()


@dataclass(frozen=True, slots=True)
class Constants:
    """Mean and standard deviation of each channel, for pixels scaled to 0..1."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


def read_options(dataset: str, options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`options` over `defaults`; an unknown key, or a value of another type than its default, is a DataError.

    A default of None accepts anything (absent); a type in place of a default means that the key is required.
    """
    for key in options:
        if key not in defaults:
            close = difflib.get_close_matches(str(key), list(defaults), n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(defaults) or 'none'}"
            raise DataError(f"data set {dataset!r}: unknown option {key!r}; {hint}")
    merged: dict[str, Any] = {}
    for key, default in defaults.items():
        required = isinstance(default, type)
        if required and key not in options:
            raise DataError(f"data set {dataset!r}: option {key!r} is missing; add it under `options:`")
        value = options.get(key, default)
        kind = default if required else type(default)
        if default is not None and not _is_a(value, kind):
            raise DataError(f"data set {dataset!r}: option {key!r} is {value!r}; expected {kind.__name__}")
        merged[key] = value
    return merged


def _is_a(value: object, kind: type) -> bool:
    if kind is not bool and isinstance(value, bool):
        return False
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def padded(shape: Sequence[int], side: object, dataset: str) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """The shape of an image [C, H, W] that zeros make `side` high and wide, and how many there are before and after
    each axis of images [N, C, H, W]; DataError where that cannot be."""
    if len(shape) == 3 and isinstance(side, int) and not isinstance(side, bool) and side >= max(shape[1:]):
        top, left = (side - shape[1]) // 2, (side - shape[2]) // 2
        border = ((0, 0), (0, 0), (top, side - shape[1] - top), (left, side - shape[2] - left))
        return (shape[0], side, side), border
    raise DataError(
        f"data set {dataset!r}: pad_to is {side!r}, its examples are {tuple(shape)}; "
        "give a side length no smaller than that of the images"
    )
