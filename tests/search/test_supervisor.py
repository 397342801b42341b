"""The supervisor with workers that are little scripts: starts, deaths, restarts, stops, a storage that goes away."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from living import living

from nasir.errors import RunError
from nasir.running.engine import Signals
from nasir.search import UNFIT, processes, supervisor
from nasir.search.processes import Log, Processes, limited
from nasir.search.supervisor import Supervisor

ENDLESS = "import time\nprint('waiting', flush=True)\ntime.sleep(600)"
GRACEFUL = f"import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n{ENDLESS}"


class Board:
    """A study in memory."""

    outages: tuple[type[Exception], ...] = (ConnectionError,)

    def __init__(self) -> None:
        self.reaped: list[str] = []
        self.takes = True  # whether workers get to a trial
        self.finished = 0
        self.away = 0  # how often yet the storage is out of reach

    def _reach(self) -> None:
        if self.away:
            self.away -= 1
            raise ConnectionError("connection refused")

    def began(self, worker: str) -> bool:
        return self.takes

    def reap(self, workers: list[str]) -> None:
        self._reach()
        self.reaped += workers

    def watch(self) -> int:
        self._reach()
        return self.finished


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "TICK", 0.01)
    monkeypatch.setattr(supervisor, "LONGEST_WAIT", 0.05)


@pytest.fixture
def places(tmp_path: Path) -> Iterator[list[Processes]]:
    made: list[Processes] = []
    yield made
    for place in made:
        place.close()


def place(places: list[Processes], tmp_path: Path, script: str, workers: int = 1) -> Processes:
    command = [sys.executable, "-c", script]
    places.append(Processes(command, os.environ, tmp_path / "workers", workers))
    return places[-1]


def test_workers_that_have_nothing_left_to_do_end_the_search(places: list[Processes], tmp_path: Path) -> None:
    board = Board()
    here = place(places, tmp_path, "import sys; print(*sys.argv[1:])", 2)
    Supervisor(2, here, board, Signals()).run()
    assert sorted(board.reaped) == sorted(here.identity(slot, 0) for slot in (1, 2))
    text = (tmp_path / "workers" / "2.log").read_text()
    assert f"--identity {here.identity(2, 0)} --slot 2.0." in text


def test_a_dead_worker_is_started_again_and_its_trials_are_given_back(places: list[Processes], tmp_path: Path) -> None:
    board, said = Board(), []
    mark = str(tmp_path / "died")
    script = f"import os, sys; p = {mark!r}\nif not os.path.exists(p): open(p, 'w'); os.kill(os.getpid(), 9)"
    here = place(places, tmp_path, script)
    Supervisor(1, here, board, Signals(), said.append).run()
    assert board.reaped == [here.identity(1, 0), here.identity(1, 1)]
    assert said == ["worker 1 was killed by signal 9; started again"]


def test_workers_that_never_get_to_a_trial_are_given_up_with_what_they_wrote(
    places: list[Processes], tmp_path: Path
) -> None:
    board = Board()
    board.takes = False
    here = place(places, tmp_path, "raise SystemExit('no such module: wings')", 2)
    with pytest.raises(RunError, match=r"(?s)no worker manages to start a trial; worker \d ended with code 1.*wings"):
        Supervisor(2, here, board, Signals()).run()
    assert len(board.reaped) == 2 * supervisor.FRUITLESS


def test_workers_that_die_in_every_trial_are_given_up(places: list[Processes], tmp_path: Path) -> None:
    here = place(places, tmp_path, "import os; os.write(2, b'out of memory'); os.abort()")
    with pytest.raises(RunError, match=r"(?s)died 10 times without finishing a trial.*signal 6.*out of memory"):
        Supervisor(1, here, Board(), Signals()).run()


def test_finished_trials_clear_the_count_of_deaths(places: list[Processes], tmp_path: Path) -> None:
    class Lively(Board):
        def watch(self) -> int:
            self.finished += 1
            return self.finished

    board = Lively()
    tested = Supervisor(1, place(places, tmp_path, "pass"), board, Signals())
    tested.deaths = 9
    tested._watch()
    assert tested.deaths == 0


def test_bad_input_is_not_tried_twice(places: list[Processes], tmp_path: Path) -> None:
    here = place(places, tmp_path, "import sys; print('error: no data set'); sys.exit(2)", 1)
    with pytest.raises(RunError, match=r"(?s)cannot start working.*no data set"):
        Supervisor(1, here, board := Board(), Signals()).run()
    assert board.reaped == [here.identity(1, 0)]


def test_a_worker_whose_trials_all_fail_is_given_up_unless_others_do_well(
    places: list[Processes], tmp_path: Path
) -> None:
    script = f"import sys; print('no data set'); sys.exit({UNFIT})"
    with pytest.raises(RunError, match=r"(?s)trial after trial failed; worker \d wrote last:.*no data set"):
        Supervisor(2, place(places, tmp_path, script, 2), board := Board(), Signals()).run()
    assert len(board.reaped) == 2

    mark = str(tmp_path / "failed")
    script = f"import os, sys; p = {mark!r}\nif not os.path.exists(p): open(p, 'w'); sys.exit({UNFIT})"
    said: list[str] = []
    board = Board()
    board.finished = 3
    tested = Supervisor(1, place(places, tmp_path, script), board, Signals(), said.append)
    tested.next_watch = math.inf  # so that the first look comes after the start
    tested.run()
    assert said == ["worker 1 had several trials that failed; started again"]


def test_a_worker_stopped_by_someone_else_is_started_again(places: list[Processes], tmp_path: Path) -> None:
    script = f"import os, sys; p = {str(tmp_path / 'stopped')!r}\nif not os.path.exists(p): open(p, 'w'); sys.exit(75)"
    said: list[str] = []
    tested = Supervisor(1, place(places, tmp_path, script), Board(), Signals(), said.append)
    tested.run()
    assert tested.deaths == 0 and said == ["worker 1 was asked to stop by someone else; it is started again"]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("script", [GRACEFUL, ENDLESS])
def test_a_signal_stops_all_workers(places: list[Processes], tmp_path: Path, script: str) -> None:
    signals, pids = Signals(), []

    class Stopping(Board):
        def watch(self) -> int:
            logs = [tmp_path / "workers" / f"{slot}.log" for slot in (1, 2)]
            if all("waiting" in log.read_text() for log in logs):
                pids.extend(slot.handle.process.pid for slot in tested.slots if slot.handle is not None)  # type: ignore[attr-defined]
                signals.exit_code = 75
            return 0

    said: list[str] = []
    tested = Supervisor(2, place(places, tmp_path, script, 2), Stopping(), signals, said.append)
    tested.run()
    assert len(pids) >= 2 and not any(alive(pid) for pid in pids)
    assert bool(said) == (script == ENDLESS)  # one that hands nothing back is mentioned


def test_a_second_signal_kills(places: list[Processes], tmp_path: Path) -> None:
    signals, board = Signals(), Board()
    stubborn = "import signal\nfor n in (15, 2): signal.signal(n, signal.SIG_IGN)\n" + ENDLESS
    tested = Supervisor(1, place(places, tmp_path, stubborn), board, signals)

    class Watching(Board):
        def watch(self) -> int:
            if "waiting" in (tmp_path / "workers" / "1.log").read_text():
                signals.exit_code, tested.kill = 130, True
            return 0

    tested.board = Watching()
    tested.run()
    assert tested.board.reaped == [tested.launcher.identity(1, 0)]


def test_a_storage_that_is_away_is_waited_for(places: list[Processes], tmp_path: Path) -> None:
    board, said = Board(), []
    board.away = 3
    Supervisor(1, place(places, tmp_path, "pass"), board, Signals(), said.append).run()
    assert said[0].startswith("the storage is out of reach (connection refused)")
    assert said[1] == "the storage answers again" and len(board.reaped) == 1


def test_a_storage_that_stays_away_ends_the_search_and_no_worker_stays(
    places: list[Processes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "OUTAGE", 0.3)
    board = Board()
    board.away = 10**6
    tested = Supervisor(1, place(places, tmp_path, "raise SystemExit(1)"), board, Signals())
    with pytest.raises(RunError, match="out of reach: connection refused"):
        tested.run()
    assert all(slot.handle is None for slot in tested.slots)


def test_logs_do_not_collide_and_a_living_worker_holds_its_own(places: list[Processes], tmp_path: Path) -> None:
    first, second = Log(tmp_path), Log(tmp_path)
    assert [log.path.name for log in (first, second)] == ["1.log", "2.log"]
    worker = processes.Process([sys.executable, "-c", ENDLESS], os.environ, first)
    first.close()  # as when the supervisor is killed
    third = Log(tmp_path)
    assert third.path.name == "3.log"
    worker.kill()
    worker.poll()
    fourth = Log(tmp_path)
    assert fourth.path.name == "1.log"
    for log in (second, third, fourth):
        log.close()


def test_a_smaller_number_of_threads_is_kept(places: list[Processes], tmp_path: Path) -> None:
    assert limited({}, 3)["OMP_NUM_THREADS"] == "3"
    for fewer in ({"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "1"}):
        assert {limited(fewer, 3)[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")} == {"1"}
    assert limited({"MKL_NUM_THREADS": "999"}, 3)["MKL_NUM_THREADS"] == "3"
    assert limited({"OMP_NUM_THREADS": "many"}, 3)["OMP_NUM_THREADS"] == "3"
    assert place(places, tmp_path, "pass", 100).environment["OMP_NUM_THREADS"] == "1"


def test_a_worker_notices_that_its_supervisor_was_killed(tmp_path: Path) -> None:
    """A supervisor that is killed closes the pipe to its workers, which then stop as on SIGTERM."""
    worker = (
        "import sys, time\nfrom nasir.running.engine import Signals\n"
        "from nasir.search.processes import stop_without_supervisor\n"
        "signals = Signals()\nstop_without_supervisor(signals)\nprint('waiting', flush=True)\n"
        "while not signals.wanted(): time.sleep(0.01)\nsys.exit(signals.exit_code)"
    )
    parent = (
        "import os, sys, time\nfrom pathlib import Path\nfrom nasir.search.processes import Processes\n"
        f"place = Processes([sys.executable, '-c', {worker!r}], os.environ, Path({str(tmp_path)!r}), 1)\n"
        "print(place.start(1, 0).process.pid, flush=True)\ntime.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    while "waiting" not in (tmp_path / "1.log").read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    while living(pid):
        time.sleep(0.01)  # the test's time limit is the assertion
