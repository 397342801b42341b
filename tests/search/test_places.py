"""Where a study lies, as its folder remembers it."""

from __future__ import annotations

from pathlib import Path

import pytest
from searches import make, spec

from nasir.errors import StudyError, UsageError
from nasir.search.locate import find, only_study, open_study, read_card
from nasir.search.study import Study
from nasir.search.urls import anchored, check_sqlite_exists, parse, sqlite_url


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


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("sqlite:///a\0b.db", r"--storage sqlite:///a\\x00b.db: a URL has no such characters"),
        ("sqlite:///\ud800.db", r"--storage sqlite:///\\ud800.db: a URL has no such characters"),
        (
            "postgresql://u:\x1b[31mhunter2@host/d",
            r"--storage postgresql://u:\*\*\*@host/d: a URL has no such characters",
        ),
        ("://", "not a database URL"),
    ],
)
def test_a_url_of_other_characters_is_refused(url: str, told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        parse(anchored(url))
    assert "hunter2" not in str(caught.value)


def test_a_file_that_can_have_no_such_name_is_not_there() -> None:
    with pytest.raises(StudyError, match="there is no such database"):
        check_sqlite_exists(f"sqlite:///{'x' * 5000}.db")


def test_a_card_that_is_none_is_refused(tmp_path: Path) -> None:
    for content in ("[" * 100_000, "[]", "5", '{"study": 1}', "\xff", " " * (1 << 21)):
        (tmp_path / "study.json").write_text(content, encoding="latin-1")
        with pytest.raises(StudyError, match=r"study.json: cannot be read \("):
            read_card(tmp_path)
