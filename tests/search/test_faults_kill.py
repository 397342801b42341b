"""Workers killed at random while they train: every point ends once, and what was trained is not trained again."""

from __future__ import annotations

from pathlib import Path

import pytest
from held import Hold
from postgres import Server
from small_searches import (
    Search,
    assert_equals_alone,
    assert_exactly_once,
    assert_resumed,
    kill_workers,
    trials_of,
    write_search,
)

KILLS = 10


def assert_all_is_well(url: str, folder: Path, points: int, scratch: Path) -> None:
    trials = trials_of(url)
    settled = assert_exactly_once(trials, points)
    resumed = assert_resumed(trials, folder)
    assert resumed, "no kill hit a trial with a checkpoint"
    longest = max(resumed, key=lambda trial: trial.user_attrs["attempt"])
    assert longest in settled
    assert_equals_alone(longest, folder, scratch)


@pytest.mark.slow
def test_ten_kills_of_four_workers_on_postgresql(postgres: Server, tmp_path: Path) -> None:
    url, folder = postgres.new_database(), tmp_path / "study"
    hold = Hold(tmp_path, runs="0007-*")  # the last trial waits, so that no search is over before all kills
    spec = write_search(tmp_path, hold, trials=8, epochs=10)
    with Search(tmp_path / "log", spec, "--workers", 4, "--out", folder, url=url) as search:
        kills = kill_workers(search, folder, KILLS)
        hold.release()
        code = search.wait()
        assert code == 0, search.said()
        assert kills == KILLS, "the search was over too soon"
        assert_all_is_well(url, folder, 8, tmp_path / "alone")
        # the point of a dead worker waited for no heartbeat: the grace of this study is five minutes
        assert search.said().count("was killed by signal 9") == KILLS


@pytest.mark.slow
def test_ten_kills_of_two_workers_on_sqlite(tmp_path: Path) -> None:
    folder, hold = tmp_path / "study", Hold(tmp_path, runs="0005-*")
    spec = write_search(tmp_path, hold, trials=6, epochs=12)
    with Search(tmp_path / "log", spec, "--workers", 2, "--out", folder) as search:
        kills = kill_workers(search, folder, KILLS, seed=1)
        hold.release()
        code = search.wait()
        assert code == 0, search.said()
        assert kills == KILLS, "the search was over too soon"
        assert_all_is_well(f"sqlite:///{folder / 'study.db'}", folder, 6, tmp_path / "alone")
