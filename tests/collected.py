"""What this session has collected, before `-m` and `-k` leave anything out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

_ITEMS = pytest.StashKey[list[pytest.Item]]()
TESTS = Path(__file__).parent


def note(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """Keep what was collected; called once, by the hook of pytest."""
    config.stash[_ITEMS] = list(items)


def files(config: pytest.Config, marker: str) -> set[Path] | None:
    """The files with a test that has a marker; None where not every file of this folder was collected."""
    items = config.stash[_ITEMS]
    if not {item.path for item in items} >= set(TESTS.rglob("test_*.py")):
        return None
    return {item.path for item in items if item.get_closest_marker(marker) is not None}
