"""URLs of storages, study cards and databases made of good ones by mutation: each is taken or refused, no more."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from fuzzing import fuzz, mutate_bytes, mutate_text, mutate_tree, mutated, mutations

from nasir.search.locate import CARD, read_card
from nasir.search.storage import open_storage
from nasir.search.urls import anchored, check_sqlite_exists, check_sqlite_file, masked, parse, sqlite_path, sqlite_url

pytestmark = pytest.mark.slow

URLS = [
    "sqlite:///study.db",
    "sqlite:////tmp/a/study.db?timeout=5",
    "sqlite:///file:study.db?uri=true",
    "postgresql://user:hunter2@host:5432/database?sslmode=require",
    "postgresql+psycopg://user@[::1]/database?password=hunter2",
    "mysql+pymysql://user:hunter2@host/database",
]


def test_fuzz_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def use(url: str) -> None:
        url = anchored(url)
        parsed = parse(url)
        masked(parsed)
        sqlite_path(parsed)
        check_sqlite_file(parsed)
        check_sqlite_exists(url)

    fuzz(use, mutated(URLS, mutate_text, mutations(300), seed=1))


def test_fuzz_study_cards(tmp_path: Path) -> None:
    def read(data: bytes) -> None:
        (tmp_path / CARD).write_bytes(data)
        read_card(tmp_path)

    card = {"study": "a", "storage": "sqlite:///study.db"}
    trees = mutated([card], mutate_tree, mutations(150), seed=2)
    fuzz(read, (json.dumps(tree).encode() for tree in trees))
    fuzz(read, mutated([json.dumps(card).encode()], mutate_bytes, mutations(150), seed=3))


def test_fuzz_databases(tmp_path: Path) -> None:
    file = tmp_path / "study.db"
    open_storage(sqlite_url(file), (60, 300)).close()
    good = file.read_bytes()
    with closing(sqlite3.connect(file)) as whole:
        assert whole.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)

    def read(data: bytes) -> None:
        file.write_bytes(data)
        storage = open_storage(sqlite_url(file), patience=0.0)
        try:
            storage.get_all_studies()
        finally:
            storage.close()

    fuzz(read, mutated([good], mutate_bytes, mutations(20), seed=4))
