"""The storage of a study: a database that Optuna writes to, opened with what many processes and long trials need.

- SQLite transactions take the write lock at their begin. Otherwise two processes may both read that a trial is waiting
  and both set it running: a deferred transaction of SQLite locks no rows.
- Server sessions keep UTC, as heartbeats are compared with the clock of the server in the zone of the session.
- A call that fails because the storage is away for a moment is repeated, so that an outage does not end a trial.
- Messages never hold a password.
"""

from __future__ import annotations

import functools
import json
import random
import threading
import time
import warnings
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, _CachedStorage
from optuna.storages._cached_storage import _StudyInfo
from optuna.storages._rdb.models import StudyModel, TrialModel, TrialUserAttributeModel
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError, SQLAlchemyError

from nasir.errors import NasirError, StudyError
from nasir.search.urls import check_sqlite_file, driven, explain, masked, parse, sqlite_path

__all__ = ["PATIENCE", "StudyStorage", "Unreachable", "open_storage"]

PATIENCE = 600.0  # seconds a call is repeated while the storage is away
LONGEST_WAIT = 10.0  # seconds between two tries, at most
BUSY = 60.0  # seconds SQLite waits for a lock
ATTEMPTS = 8  # at making the tables, which others may be making just now
LIBPQ = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
CONNECT = {
    "psycopg": LIBPQ,
    "psycopg2": LIBPQ,
    "mysqldb": {"connect_timeout": 10},
    "pymysql": {"connect_timeout": 10},
    "mysqlconnector": {"connection_timeout": 10},
}

T = TypeVar("T")


class Unreachable(StudyError):
    """The storage does not answer; it may later."""


def open_storage(
    url: str,
    heartbeat: tuple[int, int] | None = None,
    *,
    patience: float = PATIENCE,
    say: Callable[[str], None] = lambda text: None,
) -> StudyStorage:
    """Open a database by its SQLAlchemy URL, and make Optuna's tables where they are missing.

    `heartbeat`: seconds (interval, grace) after which a silent trial counts as dead; None to read only.
    `patience`: seconds for which a call is repeated while the storage is away; `say` hears of it.
    Raises UsageError for a URL that cannot serve, StudyError for a database that cannot, Unreachable where no server
    answers.
    """
    parsed = parse(url)
    check_sqlite_file(parsed)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a line for each trial told, at its default
    try:
        backend = _connect(parsed, heartbeat)
    except NasirError:
        raise
    except Exception as error:
        raise _failure(parsed, error) from None
    storage = StudyStorage(backend, parsed, patience, say)
    try:
        _prepare(backend.engine, writes=heartbeat is not None)
        storage.check()
    except BaseException:
        storage.close()
        raise
    return storage


class _Backend(RDBStorage):
    """Optuna's storage, which gives its connections back too where the database turns out not to serve."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        try:
            super().__init__(*arguments, **options)
        except BaseException:
            if hasattr(self, "scoped_session"):
                self.scoped_session.remove()
            if hasattr(self, "engine"):
                self.engine.dispose()
            raise


def _connect(url: URL, heartbeat: tuple[int, int] | None) -> RDBStorage:
    interval, grace = heartbeat or (None, None)
    url = driven(url)
    options: dict[str, Any] = {"pool_pre_ping": True}  # a server that restarted costs no trial
    if url.get_backend_name() == "sqlite":
        options = {"connect_args": {"timeout": BUSY}}
    elif (known := CONNECT.get(url.get_driver_name())) is not None:
        options["connect_args"] = {key: value for key, value in known.items() if key not in url.query}
    text = url.render_as_string(hide_password=False)
    for attempt in range(ATTEMPTS):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return _Backend(
                    text.replace("{", "{{").replace("}", "}}"),  # Optuna formats it
                    engine_kwargs=dict(options),
                    heartbeat_interval=interval,
                    grace_period=grace,
                )
        except (SQLAlchemyError, StorageInternalError) as error:
            if attempt + 1 == ATTEMPTS or not _racing(error):
                raise
            time.sleep(random.uniform(0.1, 0.5))  # so that not all processes meet again
    raise AssertionError("unreachable")


def _racing(error: Exception) -> bool:
    """Another process is making the same tables."""
    text = str(error).lower()
    return isinstance(error, IntegrityError) or any(
        part in text for part in ("already exists", "duplicate key", "database is locked", "tuple concurrently")
    )


def _prepare(engine: sqlalchemy.Engine, writes: bool) -> None:
    engine.dispose()  # connections from here on are set up
    name = engine.dialect.name
    if name == "sqlite" and writes:

        @event.listens_for(engine, "connect")
        def connected(connection: Any, record: Any) -> None:
            connection.isolation_level = None  # no BEGIN by the driver

        @event.listens_for(engine, "begin")
        def begins(connection: sqlalchemy.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    zone = {"postgresql": "SET TIME ZONE 'UTC'", "mysql": "SET time_zone = '+00:00'"}.get(name)
    if zone is not None:

        @event.listens_for(engine, "connect")
        def in_utc(connection: Any, record: Any) -> None:
            cursor = connection.cursor()
            cursor.execute(zone)
            cursor.close()
            connection.commit()


def _cause(error: BaseException) -> BaseException:
    """What the database said."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _failure(url: URL, error: BaseException) -> StudyError:
    cause = _cause(error)
    kind = Unreachable if transient(url, cause) else StudyError
    return kind(explain(url, cause))


def transient(url: URL, cause: BaseException) -> bool:
    """Whether the same call may succeed in a while."""
    if isinstance(cause, sqlalchemy.exc.TimeoutError):
        return True
    if not isinstance(cause, DBAPIError):
        return False
    text = str(cause.orig).lower()
    if url.get_backend_name() == "sqlite":
        return isinstance(cause, OperationalError) and ("locked" in text or "busy" in text)
    lasting = ("password", "authentication", "access denied", "does not exist", "unknown database", "pg_hba", "no such")
    if any(part in text for part in lasting) and "is the server running" not in text:  # a socket: no such file
        return False
    return cause.connection_invalidated or isinstance(cause, OperationalError | InterfaceError)


class StudyStorage(_CachedStorage):
    """Optuna's cached storage, patient while its database is away."""

    def __init__(self, backend: RDBStorage, url: URL, patience: float, say: Callable[[str], None]) -> None:
        super().__init__(backend)
        self.url = url
        self.patience = patience
        self.say = say
        self.recovered: float | None = None  # time.monotonic() when an outage ended
        self._remembered: list[FrozenTrial] | None = None
        self._remember_thread: int | None = None

    @property
    def place(self) -> str:
        """The URL without the password."""
        return masked(self.url)

    def patiently(self, call: Callable[[], T]) -> T:
        """The result of a call, repeated while the storage is away. Raises Unreachable, or StudyError at once."""
        began: float | None = None
        wait = 0.1
        while True:
            try:
                result = call()
            except IntegrityError:
                raise  # of two processes that write the same: the caller knows what it means
            except (StorageInternalError, SQLAlchemyError) as error:
                failure = _failure(self.url, error)
                now = time.monotonic()
                if not isinstance(failure, Unreachable) or now + wait > (began or now) + self.patience:
                    raise failure from None
                if began is None:
                    began = now
                    self.say(f"{failure}; trying again for {self.patience:.0f} s")
            else:
                if began is not None:
                    self.recovered = time.monotonic()
                    self.say("the storage answers again")
                return result
            time.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, LONGEST_WAIT)

    @contextmanager
    def remembering(self, trials: list[FrozenTrial]) -> Iterator[None]:
        """Answer `get_all_trials` of this thread from a list read before: others are looked at now and then."""
        self._remembered, self._remember_thread = trials, threading.get_ident()
        try:
            yield
        finally:
            self._remembered = self._remember_thread = None

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        if self._remembered is not None and self._remember_thread == threading.get_ident():
            return [trial for trial in self._remembered if states is None or trial.state in states]
        return self.patiently(lambda: super(StudyStorage, self).get_all_trials(study_id, deepcopy, states))

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        """As Optuna's, but leaves alone what still waits: of a large study that is most of it, and does not change."""
        with self._lock:
            info = self._studies.setdefault(study_id, _StudyInfo())
            with _create_scoped_session(self._backend.scoped_session) as session:
                rows = session.query(TrialModel.trial_id).filter(
                    TrialModel.study_id == study_id, TrialModel.state == TrialState.WAITING
                )
                waiting = {number for (number,) in rows}
            known = {trial._trial_id for trial in info.trials.values() if trial.state == TrialState.WAITING}
            trials = self._backend._get_trials(
                study_id,
                states=None,
                included_trial_ids=info.unfinished_trial_ids - (known & waiting),
                trial_id_greater_than=info.last_finished_trial_id,
            )
            self._add_trials_to_cache(study_id, trials)
            for trial in trials:
                # ids are given under a lock of the study, so none below the largest is still to come
                info.last_finished_trial_id = max(info.last_finished_trial_id, trial._trial_id)
                if trial.state.is_finished():
                    info.unfinished_trial_ids.discard(trial._trial_id)
                else:
                    info.unfinished_trial_ids.add(trial._trial_id)

    def put_points(self, study_id: int, tickets: Mapping[int, FrozenTrial]) -> None:
        """Add tickets by point, but for points that have one already; however many processes do so, each comes once."""

        def put() -> None:
            with _create_scoped_session(self._backend.scoped_session) as session:
                StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
                attrs = TrialUserAttributeModel
                rows = session.query(attrs.value_json).join(TrialModel)
                rows = rows.filter(TrialModel.study_id == study_id, attrs.key == "point")
                have = {json.loads(value) for (value,) in rows}
                for point, ticket in tickets.items():
                    if point not in have:
                        self._backend._get_prepared_new_trial(study_id, ticket, session)

        self.patiently(put)

    def set_trial_user_attrs(self, trial_id: int, attrs: Mapping[str, Any]) -> None:
        """Several attributes in one transaction: each commit waits for the disk, or for the server.

        Raises UpdateFinishedTrialError for a trial that has ended.
        """

        def all_of_them() -> None:  # Optuna has no public method that writes several
            with _create_scoped_session(self._backend.scoped_session, True) as session:
                for key, value in attrs.items():
                    self._backend._set_trial_attr_without_commit(session, TrialUserAttributeModel, trial_id, key, value)

        self.patiently(all_of_them)

    def set_trial_intermediate_values(self, trial_id: int, values: Mapping[int, float]) -> None:
        """The same for intermediate values by step."""

        def all_of_them() -> None:
            with _create_scoped_session(self._backend.scoped_session, True) as session:
                for step, value in values.items():
                    self._backend._set_trial_intermediate_value_without_commit(session, trial_id, step, value)

        self.patiently(all_of_them)

    def check(self) -> None:
        """Raise StudyError for a damaged SQLite database: a search would otherwise meet the damage some day."""
        if self.url.get_backend_name() != "sqlite":
            return
        with self._backend.engine.connect() as connection:
            said = self.patiently(lambda: connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
        if said != "ok":
            raise StudyError(f"{sqlite_path(self.url)}: damaged ({said}); restore it from a copy, or use another --out")

    def stale(self, study_id: int) -> list[int]:
        """Ids of running trials without a heartbeat for longer than the grace period."""
        return self.patiently(lambda: self._backend._get_stale_trial_ids(study_id))

    def set_heartbeat(self, interval: int, grace: int) -> None:
        """Seconds after which a silent trial counts as dead, once the study has told them."""
        if self._backend.heartbeat_interval is not None:
            self._backend.heartbeat_interval, self._backend.grace_period = interval, grace

    def leave_thread(self) -> None:
        """Give back the connection of a thread that ends; SQLite's cannot be closed from another one."""
        self._backend.remove_session()

    def close(self) -> None:
        """Give the connections back."""
        self._backend.remove_session()
        self._backend.engine.dispose()


def _patient(name: str) -> Callable[..., Any]:
    method = getattr(_CachedStorage, name)

    @functools.wraps(method)
    def call(self: StudyStorage, *args: Any, **kwargs: Any) -> Any:
        return self.patiently(lambda: method(self, *args, **kwargs))

    return call


for _name in (
    "create_new_study",
    "delete_study",
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "create_new_trial",
    "set_trial_param",
    "get_trial_id_from_study_id_trial_number",
    "set_trial_state_values",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "get_trial",
    "record_heartbeat",
):
    setattr(StudyStorage, _name, _patient(_name))
