"""The same workers on a Ray cluster of one machine."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
from pathlib import Path

import pytest
import warm
from living import living
from small_searches import (
    Search,
    assert_exactly_once,
    assert_resumed,
    command,
    environment,
    training,
    trials_of,
    until,
    write_search,
)

HAVE = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAVE, reason="Ray is not installed (pip install 'nasir[ray]')")


@needs_ray
@pytest.mark.slow
def test_workers_on_ray_finish_a_study_and_a_killed_one_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    spec = write_search(tmp_path, trials=3, epochs=15)
    with Search(tmp_path / "log", spec, "--out", folder, "--workers", 2, "--ray", "local", "--ray-cpus", 1) as search:
        victim = until(lambda: list(training(None, folder)), search)[0]
        os.kill(victim, signal.SIGKILL)
        assert search.wait() == 0, search.said()
        assert "was killed by signal 9; started again" in search.said()
    trials = trials_of(f"sqlite:///{folder / 'study.db'}")
    assert_exactly_once(trials, 3)
    assert len(assert_resumed(trials, folder)) == 1
    assert all(trial.user_attrs["worker"].startswith("ray-") for trial in trials)
    assert sorted(path.name for path in (folder / "workers").iterdir())[:2] == ["1.log", "2.log"]


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_on_ray_stop_with_their_supervisor(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "study"
    spec = write_search(tmp_path, trials=2, epochs=40)
    with Search(tmp_path / "log", spec, "--out", folder, "--ray", "local", "--ray-cpus", 1) as search:
        worker = until(lambda: list(training(None, folder)), search)[0]
        search.process.send_signal(number)
        assert search.wait() == (75 if number == signal.SIGTERM else -9), search.said()
        until(lambda: not living(worker))
    trials = trials_of(f"sqlite:///{folder / 'study.db'}")
    assert [trial.user_attrs.get("preempted") for trial in trials if trial.state.name == "FAIL"] == [True]


@needs_ray
@pytest.mark.slow
def test_what_the_cluster_cannot_give_is_refused(tmp_path: Path) -> None:
    spec = write_search(tmp_path, trials=2)
    arguments = [spec, "--out", tmp_path / "study", "--ray", "local", "--ray-cpus", 4096]
    done = subprocess.run(command(*arguments), capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 2 and "the largest node of the cluster has" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "study").exists()


@pytest.mark.skipif(HAVE, reason="Ray is installed")
def test_without_ray_the_remedy_is_named(tmp_path: Path) -> None:
    spec = write_search(tmp_path, trials=2)
    done = warm.nasir("search", str(spec), "--out", str(tmp_path / "study"), "--ray", "auto")
    assert done.returncode == 2 and "pip install 'nasir[ray]'" in done.stderr
    assert not (tmp_path / "study").exists(), "refused before the study is made"
