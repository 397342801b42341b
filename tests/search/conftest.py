"""What tests of the search share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from postgres import Server, missing, server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server of this test session; skips, with the reason, where there can be none."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with server() as running:
        yield running
