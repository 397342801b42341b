"""The records of one kind among others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from nasir.records.base import Record

__all__ = ["last_of", "of_kind"]

R = TypeVar("R", bound=Record)


def of_kind(records: Iterable[Record], kind: type[R]) -> list[R]:
    """The records of a kind, in their order."""
    return [record for record in records if isinstance(record, kind)]


def last_of(records: Sequence[Record], kind: type[R]) -> R | None:
    """The newest record of a kind, found from the end; None where there is none."""
    return next((record for record in reversed(records) if isinstance(record, kind)), None)
