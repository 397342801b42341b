"""What tests of the search share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import searches
from optuna.storages._rdb import storage
from postgres import Server, missing, server


@pytest.fixture(autouse=True, scope="session")
def newest_tables() -> Iterator[None]:
    """Optuna imports the history of its tables each time a storage is opened, only to see which are the newest."""
    newest, known = storage._VersionManager.get_head_version, list[str]()

    def remembered(self: storage._VersionManager) -> str:
        if not known:
            known.append(newest(self))
        return known[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage._VersionManager, "get_head_version", remembered)
        yield


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close the studies that a test has opened: a connection that is merely forgotten is a warning."""
    yield
    while searches.opened:
        searches.opened.pop().close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server of this test session; skips, with the reason, where there can be none."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with server() as running:
        yield running
