"""Where a study lies, as its folder remembers it."""

from __future__ import annotations

from pathlib import Path

import pytest
from searches import make, spec

from nasir.errors import StudyError
from nasir.search.locate import find, only_study, open_study
from nasir.search.study import Study
from nasir.search.urls import sqlite_url


@pytest.mark.parametrize("url", ["sqlite:///study.db", "sqlite:///base/study.db", "sqlite:///base/other.db"])
def test_a_database_outside_the_folder_is_found_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    (tmp_path / "elsewhere").mkdir()
    where = find(Path("mine"), url, "small")
    Study.create(spec(), where.url, where.name, where.folder).close()
    monkeypatch.chdir(tmp_path / "elsewhere")
    study = open_study(tmp_path / "mine")
    assert len(study.trials()) == 3
    study.close()
    assert not list((tmp_path / "mine").glob("*.db"))


def test_a_folder_may_be_moved_with_its_database(tmp_path: Path) -> None:
    make(tmp_path / "before").close()
    (tmp_path / "before").rename(tmp_path / "after")
    study = open_study(tmp_path / "after")
    assert len(study.trials()) == 3
    study.close()


def test_a_database_that_is_gone_is_named_and_not_made_anew(tmp_path: Path) -> None:
    make(tmp_path).close()
    file = tmp_path / "study.db"
    file.unlink()
    with pytest.raises(StudyError, match="no such database"):
        open_study(tmp_path)
    with pytest.raises(StudyError, match="no such database"):
        only_study(sqlite_url(file))
    with pytest.raises(StudyError, match="no such database"):
        Study.open(sqlite_url(file), "small", tmp_path)
    assert not file.exists()
