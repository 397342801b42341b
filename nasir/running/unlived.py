"""The evidence of a run that has not begun: a pass that looks at it cannot be followed without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Never

from nasir.records import Record
from nasir.rewriting.evidence import Evidence


class Asked(Exception):
    """The answer depends on the run."""


def unlived() -> Evidence:
    """Evidence that raises Asked for each look at measurements, the history or random numbers."""
    return _Blind(_Unseen(), _Unlived())


def _ask(*given: Any) -> Never:
    raise Asked


class _Unseen(Mapping[str, Any]):
    """Measurements that have not been made yet."""

    __getitem__ = __iter__ = __len__ = __contains__ = _ask


class _Unlived(Sequence[Record]):
    """A history that is still to come; random choices of a pass look at it, too."""

    __getitem__ = __iter__ = __len__ = __contains__ = _ask


class _Blind(Evidence):
    """Evidence of a run that has not begun."""

    def __post_init__(self) -> None:
        """Skip the check of the history, which here is a stand-in."""
