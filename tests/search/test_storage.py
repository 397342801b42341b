"""Storages: which ones are taken, what is said about the others, and that a password is never shown."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState, create_trial
from postgres import Server
from searches import again, drive, ended, make, processes, spec
from sqlalchemy.exc import OperationalError

from nasir.errors import NasirError, StudyError, UsageError
from nasir.search import storage as storage_module
from nasir.search.storage import StudyStorage, Unreachable, open_storage
from nasir.search.study import Study
from nasir.search.urls import driven, masked, parse, sqlite_url

SECRET = "hush{0}%41"  # an encoded A, and braces, which Optuna would format


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://:hush@host/0", "Redis"),
        ("journal.log", "journal storages"),
        ("journal:///shared/study", "no heartbeats"),
        ("grpc://host:13000", "gRPC"),
        ("study.db", "not a URL"),
        ("postgresql:/user:hush@host/db", "not a URL"),
        ("user:hush:hush@host/db", "not a URL"),
        ("postgres://user:hush@host/db", "write postgresql://"),
        ("nosuchdb://user:hush@host/db", "knows no database 'nosuchdb'"),
        ("postgresql://user:hush@host:port/db", "not a database URL"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("mysql+pymysql://user:hush@host/db", "pip install 'pymysql'"),
        ("postgresql+psycopg2://host/db?user=a&password=hush&nonsense", "hush"),
    ],
)
def test_urls_that_cannot_serve_are_refused_with_a_reason(url: str, said: str) -> None:
    if "pymysql" in url:
        try:
            import pymysql  # type: ignore[import-not-found]  # noqa: F401

            pytest.skip("pymysql is installed")
        except ImportError:
            pass
    if said == "hush":
        assert "hush" not in masked(parse("postgresql+psycopg2://host/db?user=a&password=hush"))
        return
    with pytest.raises(UsageError, match=said) as refused:
        open_storage(url)
    assert "hush" not in str(refused.value)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Hide a package, as if it were not installed."""

    def hide(package: str) -> None:
        for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
            monkeypatch.setitem(sys.modules, name, None)

    return hide


def test_a_url_without_a_driver_takes_the_one_that_is_installed(without: Callable[[str], None]) -> None:
    for package in ("psycopg", "psycopg2"):
        pytest.importorskip(package, reason=f"{package} is not installed (pip install 'nasir[dev]')")
    bare = parse("postgresql://nasir@db/nasir")
    assert masked(bare) == "postgresql://nasir@db/nasir", "what is stored works on machines with another driver"
    assert driven(bare).drivername == "postgresql+psycopg"
    without("psycopg")
    assert driven(bare).drivername == "postgresql+psycopg2" and parse("postgresql://nasir@db/nasir") == bare
    with pytest.raises(UsageError, match=r"nasir\[postgresql\]', or write postgresql://"):
        parse("postgresql+psycopg://nasir:hush@db/nasir")
    without("psycopg2")
    for url, remedy in (
        ("postgresql://nasir:hush@db/nasir", r"pip install 'nasir\[postgresql\]'$"),
        ("postgresql+psycopg2://nasir:hush@db/nasir", "pip install 'psycopg2-binary', or write postgresql://"),
    ):
        with pytest.raises(UsageError, match=remedy) as refused:
            open_storage(url)
        assert "hush" not in str(refused.value)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_an_address_without_a_server_is_unreachable_and_shows_no_password(driver: str) -> None:
    pytest.importorskip(driver, reason=f"{driver} is not installed (pip install 'nasir[dev]')")
    url = sqlalchemy.URL.create(f"postgresql+{driver}", "someone", SECRET, "127.0.0.1", 1, "db")
    with pytest.raises(Unreachable, match="start the server") as refused:
        open_storage(url.render_as_string(hide_password=False))
    assert "someone:***@127.0.0.1:1/db" in str(refused.value) and "hush" not in str(refused.value)
    assert refused.value.__suppress_context__ and refused.value.__cause__ is None


def write(path: Path, harm: Callable[[Path], object]) -> str:
    """A whole study, then what `harm` does to its file."""
    make(path.parent).close()
    harm(path)
    return sqlite_url(path)


def _garble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:8192] = b"\xff" * 4096
    path.write_bytes(data)


def _newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("update alembic_version set version_num = 'v99.0.0'")
    connection.close()


@contextmanager
def connections() -> Iterator[list[Any]]:
    """Those that are opened meanwhile, without those that are closed again."""
    still_open: list[Any] = []

    def opens(connection: Any, record: Any) -> None:
        still_open.append(connection)

    def closes(connection: Any, record: Any) -> None:
        still_open.remove(connection)

    sqlalchemy.event.listen(sqlalchemy.pool.Pool, "connect", opens)
    sqlalchemy.event.listen(sqlalchemy.pool.Pool, "close", closes)
    try:
        yield still_open
    finally:
        sqlalchemy.event.remove(sqlalchemy.pool.Pool, "connect", opens)
        sqlalchemy.event.remove(sqlalchemy.pool.Pool, "close", closes)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.write_text("this is a text file, longer than any header" * 9), "not an SQLite database"),
        (lambda path: os.truncate(path, 50), "truncated to 50 bytes"),
        (lambda path: os.truncate(path, path.stat().st_size - 5000), "truncated: "),
        (_garble, "malformed|damaged"),
        (_newer, "pip install -U optuna"),
    ],
)
def test_a_damaged_file_is_named_and_left_as_it_is(tmp_path: Path, harm: Callable[[Path], Any], said: str) -> None:
    path = tmp_path / "study.db"
    url = write(path, harm)
    before = path.read_bytes()
    with connections() as left, pytest.raises(StudyError, match=said) as refused:
        open_storage(url, (60, 300))
    assert str(path) in str(refused.value)
    assert path.read_bytes() == before
    assert not left, "a connection that nobody closes"


def test_an_empty_file_becomes_a_database(tmp_path: Path) -> None:
    (tmp_path / "study.db").touch()
    assert drive(make(tmp_path, trials=1)) == 0


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="there is no folder"):
        open_storage(sqlite_url(tmp_path / "nowhere" / "study.db"))


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(StudyError, match="writable"):
            open_storage(sqlite_url(tmp_path / "study.db"))
    finally:
        tmp_path.chmod(0o755)


def test_a_full_disk_stops_at_once_and_the_study_goes_on_later(tmp_path: Path) -> None:
    study = make(tmp_path)
    engine = study.storage._backend.engine
    engine.dispose()

    def full(connection: Any, record: Any) -> None:
        pages = connection.execute("pragma page_count").fetchone()[0]
        connection.execute(f"pragma max_page_count = {pages}")

    sqlalchemy.event.listen(engine, "connect", full)
    with pytest.raises(StudyError, match="disk is full; free space") as stopped:
        study.add_points(1000)
    assert not isinstance(stopped.value, Unreachable)
    study.close()
    assert again(study).claim("w", again(study).points()) is not None


def outage(study: Any, times: int) -> list[str]:
    """Have the next `times` statements fail as they do when a database is locked; what the storage then says."""
    left = [times]
    said: list[str] = []
    study.storage.say = said.append

    def fails(connection: Any, *rest: Any) -> None:
        if left[0] > 0:
            left[0] -= 1
            raise OperationalError("select", {}, sqlite3.OperationalError("database is locked"))

    sqlalchemy.event.listen(study.storage._backend.engine, "before_cursor_execute", fails)
    return said


def test_a_short_outage_costs_nothing(tmp_path: Path) -> None:
    study = make(tmp_path)
    said = outage(study, 3)
    assert drive(study) == 0
    assert len(said) == 2 and "locked" in said[0] and said[1] == "the storage answers again"
    assert study.storage.recovered is not None
    assert ended(study) == {point: ["COMPLETE"] for point in range(3)}


def test_a_long_one_ends_with_the_place(tmp_path: Path) -> None:
    study = make(tmp_path, patience=0.5)
    outage(study, 1000)
    with pytest.raises(Unreachable, match=r"study\.db: database is locked"):
        study.trials()


def test_a_lock_held_by_others_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "BUSY", 0.05)
    study = make(tmp_path)
    holder = sqlite3.connect(tmp_path / "study.db", isolation_level=None)
    holder.execute("begin exclusive")
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 1:  # the call has met the lock
            holder.execute("commit")

    study.storage.say = say
    assert len(study.trials()) == 3
    holder.close()
    assert "locked" in said[0] and said[1:] == ["the storage answers again"]


def _claim_all(folder: str, name: str) -> list[int]:
    study = make(Path(folder))
    claimed = []
    while (trial := study.claim(name, study.points())) is not None:
        claimed.append(trial.number)
    study.close()
    return claimed


def test_processes_that_claim_at_once_share_the_trials(tmp_path: Path) -> None:
    make(tmp_path, trials=40).close()
    with processes(3) as pool:
        claims = pool.starmap(_claim_all, [(str(tmp_path), name) for name in "abc"])
    assert sorted(number for numbers in claims for number in numbers) == list(range(40))
    owners = {trial.number: trial.user_attrs["worker"] for trial in make(tmp_path).trials()}
    assert owners == {number: name for name, numbers in zip("abc", claims, strict=True) for number in numbers}


def test_several_attributes_cost_one_transaction(tmp_path: Path) -> None:
    study = make(tmp_path)
    number = study.trials()[0]._trial_id
    commits = [0]
    sqlalchemy.event.listen(
        study.storage._backend.engine, "commit", lambda connection: commits.__setitem__(0, 1 + commits[0])
    )
    study.storage.set_trial_user_attrs(number, {"a": 1, "b": [2], "c": None})
    assert commits == [1]
    study.storage.set_trial_user_attrs(number, {"c": 3, "d": 4})
    attrs = study.storage.get_trial(number).user_attrs
    assert {name: attrs[name] for name in "abcd"} == {"a": 1, "b": [2], "c": 3, "d": 4}
    study.storage.set_trial_state_values(number, TrialState.FAIL)
    with pytest.raises(UpdateFinishedTrialError):
        study.storage.set_trial_user_attrs(number, {"e": 5})


def test_remembered_trials_are_those_of_one_thread(tmp_path: Path) -> None:
    study = make(tmp_path)
    seen: list[int] = []
    with study.storage.remembering([create_trial(state=TrialState.PRUNED)]):
        assert [trial.state for trial in study.optuna.get_trials(deepcopy=False)] == [TrialState.PRUNED]
        assert study.optuna.get_trials(states=[TrialState.WAITING]) == []
        thread = threading.Thread(target=lambda: seen.append(len(study.trials())))
        thread.start()
        thread.join()
    assert seen == [3] and len(study.trials()) == 3


# -- PostgreSQL


def _drive(url: str, folder: str, name: str) -> int:
    study = Study.create(spec("trials: 12\nsampler: random"), url, "small", Path(folder))
    try:
        return drive(study, name, slot=None)
    finally:
        study.close()


def test_postgresql_processes_that_make_a_study_and_work_on_it_at_once(postgres: Server, tmp_path: Path) -> None:
    url = postgres.new_database()
    with processes(3) as pool:
        codes = pool.starmap(_drive, [(url, str(tmp_path), name) for name in "abc"])
    assert codes == [0, 0, 0]
    storage = open_storage(url)
    trials = storage.get_all_trials(storage.get_study_id_from_name("small"))
    storage.close()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 12
    assert postgres.url("x").split("@")[0].split(":")[-1] not in (tmp_path / "study.json").read_text()


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_postgresql_by_either_driver_is_the_same_study(postgres: Server, driver: str, tmp_path: Path) -> None:
    """The URL of the documentation names none; older ones name psycopg2."""
    pytest.importorskip(driver, reason=f"{driver} is not installed (pip install 'nasir[dev]')")
    bare = postgres.new_database()
    assert bare.startswith("postgresql://")
    named = bare.replace("postgresql://", f"postgresql+{driver}://")
    study = Study.create(spec("trials: 2\nsampler: random"), named, "small", tmp_path)
    assert drive(study, "a", slot=None) == 0
    reopened = Study.open(bare, "small", tmp_path)
    assert reopened.points().finished
    for opened in (study, reopened):
        opened.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (lambda server: server.url("postgres", "wr0ng"), "correct the user or the password"),
        (lambda server: server.url("nosuch"), "createdb"),
    ],
)
def test_postgresql_says_what_is_wrong(postgres: Server, url: Callable[[Server], str], said: str) -> None:
    with pytest.raises(StudyError, match=said) as refused:
        open_storage(url(postgres))
    assert not isinstance(refused.value, Unreachable)
    assert "wr0ng" not in str(refused.value) and "s3cret" not in str(refused.value)


def test_postgresql_machines_in_different_zones_agree_on_who_is_alive(
    postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.new_database()
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    east = open_storage(url, (60, 300))
    study = east.create_new_study([], "small")
    trial = east.create_new_trial(study)
    east.record_heartbeat(trial)
    monkeypatch.setenv("PGTZ", "America/Los_Angeles")
    west = open_storage(url, (60, 300))
    assert west.stale(study) == east.stale(study) == []
    east.close()
    west.close()


@pytest.mark.slow
def test_postgresql_may_restart(postgres: Server) -> None:
    url = postgres.new_database()
    said: list[str] = []
    again_up = threading.Thread(target=postgres.start)

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 1:  # the call has failed once
            again_up.start()

    storage = open_storage(url, (60, 300), say=say)
    study = storage.create_new_study([], "small")
    postgres.stop()
    trial = storage.create_new_trial(study)
    again_up.join()
    assert storage.get_trial(trial).number == 0
    assert "answers again" in said[-1] and "s3cret" not in "".join(said)
    storage.close()


def test_messages_of_a_driver_are_kept_apart_from_the_password(tmp_path: Path) -> None:
    url = parse(sqlite_url(tmp_path / "x.db")).set(password="hush")
    from nasir.search.urls import explain

    assert "hush" not in explain(url, RuntimeError("no way in for someone:hush"))


def test_every_error_of_a_storage_is_one_of_ours() -> None:
    assert issubclass(Unreachable, StudyError) and issubclass(StudyError, NasirError)
    assert StudyStorage.get_trial.__name__ == "get_trial"


def test_heartbeats_go_on_through_an_outage(tmp_path: Path) -> None:
    from nasir.search.pulse import Pulse

    study = make(tmp_path)
    claimed = study.claim("w", study.points())
    assert claimed is not None
    with Pulse(study.storage, claimed._trial_id, 0.1) as pulse:
        outage(study, 3)
        pulse.report(1, 0.5)
        pulse.flush()
        pulse.check()
    assert again(study).trials()[0].intermediate_values == {1: 0.5}


def test_a_pulse_notices_that_its_trial_was_given_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nasir.search import pulse as pulse_module
    from nasir.search.pulse import Fenced, Pulse

    monkeypatch.setattr(pulse_module, "PACE", 0.05)
    study = make(tmp_path)
    claimed = study.claim("w", study.points())
    assert claimed is not None
    with Pulse(study.storage, claimed._trial_id, 60) as pulse:
        again(study).reap("w")
        with pytest.raises(Fenced):
            while True:  # the test's time limit is the assertion
                pulse.check()
                time.sleep(0.01)
    with Pulse(study.storage, claimed._trial_id, 60) as pulse:
        pulse.report(1, 0.5)
        with pytest.raises(Fenced):
            pulse.flush()
