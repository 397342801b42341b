"""Storage URLs: which ones serve a search, what is wrong with a database, all without showing a password."""

from __future__ import annotations

import re
import struct
from os.path import exists, isdir
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from nasir.errors import StudyError, UsageError

__all__ = [
    "anchored",
    "check_sqlite_exists",
    "check_sqlite_file",
    "driven",
    "explain",
    "masked",
    "parse",
    "sqlite_path",
    "sqlite_url",
]

EXAMPLES = "sqlite:///study.db, postgresql://user@host/database"
SECRETS = ("password", "passwd", "pwd", "sslpassword")  # query keys
HEADER = b"SQLite format 3\0"
POSTGRESQL = ("psycopg", "psycopg2")  # drivers, in the order in which a URL that names none tries them
DRIVERS = {  # what pip installs them by
    "psycopg": "nasir[postgresql]",
    "psycopg2": "psycopg2-binary",
    "mysqldb": "mysqlclient",
    "pymysql": "pymysql",
    "mysqlconnector": "mysql-connector-python",
    "pg8000": "pg8000",
}


def parse(url: str) -> URL:
    """A URL that many processes can work on; UsageError says why another one cannot serve."""
    shown = _rough(url)
    scheme = url.partition(":")[0].lower()
    if scheme.startswith("redis") or scheme.startswith("journal") or url.endswith((".log", ".journal")):
        raise UsageError(
            f"--storage {shown}: journal storages (files, Redis) keep no heartbeats: trials of killed workers would "
            f"stay running for ever; use a database ({EXAMPLES})"
        )
    if scheme.startswith("grpc"):
        raise UsageError(
            f"--storage {shown}: the gRPC proxy passes no heartbeats on: trials of killed workers would stay running "
            f"for ever; give the URL of the database behind it"
        )
    if "://" not in url:
        raise UsageError(f"--storage {shown}: not a URL; write for example {EXAMPLES}")
    if not url.isprintable():
        raise UsageError(f"--storage {shown}: a URL has no such characters; percent-encode those of a password")
    try:
        parsed = make_url(url)
        driven(parsed).get_dialect().import_dbapi()
    except NoSuchModuleError:
        hint = "postgresql://" if scheme == "postgres" else EXAMPLES
        raise UsageError(f"--storage {shown}: SQLAlchemy knows no database {scheme!r}; write {hint}") from None
    except (ArgumentError, ValueError):
        raise UsageError(
            f"--storage {shown}: not a database URL; write for example {EXAMPLES}, "
            "with special characters of a password percent-encoded"
        ) from None
    except ImportError as error:
        driver = driven(parsed).get_driver_name()
        said = error.name or " ".join(str(error).split())
        remedy = f"pip install '{DRIVERS.get(driver, driver)}'"
        if parsed.drivername.startswith("postgresql+"):
            remedy += ", or write postgresql:// for any driver"
        raise UsageError(f"--storage {shown}: the driver is not installed ({said}): {remedy}") from None
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise UsageError(f"--storage {shown}: a database in memory is not shared; write sqlite:///study.db")
    return parsed


def driven(url: URL) -> URL:
    """The URL with a driver: of PostgreSQL the first that is installed (SQLAlchemy's default varies by release)."""
    if url.drivername != "postgresql":
        return url
    candidates = [url.set(drivername=f"postgresql+{driver}") for driver in POSTGRESQL]
    return next((candidate for candidate in candidates if _installed(candidate)), candidates[0])


def _installed(url: URL) -> bool:
    try:
        url.get_dialect().import_dbapi()
    except ImportError:
        return False
    return True


def masked(url: URL) -> str:
    """The URL with `***` for a password."""
    for key in set(url.query) & set(SECRETS):
        url = url.update_query_dict({key: "***"})
    return url.render_as_string(hide_password=True)


def _rough(url: str) -> str:
    """The same for text that may be no URL."""
    whole = "://" in url
    text = re.sub(r"(://[^:/@]*):.*@" if whole else r"():(?!/).*@", r"\1:***@", url)
    return re.sub(rf"\b({'|'.join(SECRETS)})=[^&\s]*", r"\1=***", text)


def sqlite_url(path: Path) -> str:
    """The URL of a database file."""
    return URL.create("sqlite", database=str(path)).render_as_string()


def anchored(url: str) -> str:
    """The same database from whatever folder: a relative path of an SQLite file made absolute. `url`: any text."""
    try:
        parsed = make_url(url if url.isprintable() else "")
    except (ArgumentError, ValueError):
        return url  # `parse` says what is wrong with it
    path = sqlite_path(parsed)
    if path is None or path.is_absolute() or parsed.database == ":memory:":
        return url
    return parsed.set(database=str(path.resolve())).render_as_string(hide_password=False)


def sqlite_path(url: URL) -> Path | None:
    """The file of an SQLite URL; None for servers and for `file:` names."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database.startswith("file:"):
        return None
    return Path(url.database)


def check_sqlite_exists(url: str) -> None:
    """Raise StudyError where a study is looked for in a file that is not there, before SQLite makes an empty one."""
    path = sqlite_path(parse(url))
    if path is not None and not exists(path):
        raise StudyError(f"{path}: there is no such database; correct --storage, or restore it from a copy")


def check_sqlite_file(url: URL) -> None:
    """Raise StudyError for a file that is no database or not a whole one, before SQLite takes it for an empty one."""
    path = sqlite_path(url)
    if path is None or not exists(path):
        if path is not None and not isdir(path.parent):
            raise StudyError(f"{path}: there is no folder {path.parent}; make it, or correct --storage")
        return
    restore = "restore it from a copy, or start the study anew in another --out folder"
    try:
        with path.open("rb") as file:
            head = file.read(100)
            size = path.stat().st_size
    except OSError as error:
        raise StudyError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not head:
        return
    if not head.startswith(HEADER):
        raise StudyError(f"{path}: not an SQLite database; {restore}")
    if len(head) < 100:
        raise StudyError(f"{path}: truncated to {size} bytes; {restore}")
    page = struct.unpack(">H", head[16:18])[0]
    changes, pages, valid = struct.unpack(">I", head[24:28])[0], *struct.unpack(">I", head[28:32]), head[92:96]
    page = 65536 if page == 1 else page
    under_way = any(path.with_name(path.name + end).exists() for end in ("-journal", "-wal"))
    if struct.unpack(">I", valid)[0] == changes and size < page * pages and not under_way:
        raise StudyError(f"{path}: truncated: {size} of {page * pages} bytes; {restore}")


def explain(url: URL, cause: BaseException) -> str:
    """One line on why a database call failed, with the place and a remedy."""
    place = sqlite_path(url) or masked(url)
    said = _said(url, cause)
    text = said.lower()
    for part, remedy in REMEDIES:
        if part in text:
            return f"{place}: {said}; {remedy}"
    return f"{place}: {said}"


REMEDIES = (
    ("no longer compatible", "see above, with this URL"),
    ("password", "correct the user or the password of --storage"),
    ("authentication", "correct the user or the password of --storage"),
    ("access denied", "correct the user or the password of --storage"),
    ("pg_hba", "let this machine in, in the server's pg_hba.conf"),
    ("does not exist", "create it on the server (createdb), or correct --storage"),
    ("unknown database", "create it on the server, or correct --storage"),
    ("could not translate host", "correct the host of --storage"),
    ("name or service not known", "correct the host of --storage"),
    ("failed to resolve host", "correct the host of --storage"),
    ("refused", "start the server, or correct host and port of --storage"),
    ("timeout", "start the server, or correct host and port of --storage"),
    ("malformed", "restore it from a copy, or start the study anew in another --out folder"),
    ("not a database", "restore it from a copy, or start the study anew in another --out folder"),
    ("no such table", "it is not a whole study; restore it from a copy, or use another --out folder"),
    ("no such column", "another program's table is in it; use another database"),
    ("readonly", "make the file and its folder writable, or use another --out folder"),
    ("read-only", "make it writable, or use another database"),
    ("unable to open", "make the file and its folder writable, or use another --out folder"),
    ("disk is full", "free space, then start the search again: it goes on"),
    ("no space", "free space, then start the search again: it goes on"),
    ("disk i/o error", "free space or mend the disk, then start the search again: it goes on"),
    ("locked", "another process keeps it; SQLite serves a few workers of one machine, a server more"),
)


def _said(url: URL, cause: BaseException) -> str:
    """The message of the driver in one line, the password taken out should it be there."""
    said = " ".join(str(getattr(cause, "orig", None) or cause).split()) or type(cause).__name__
    secrets = [url.password, *(url.query.get(key) for key in SECRETS)]
    for secret in secrets:
        for value in (secret,) if isinstance(secret, str) else secret or ():
            said = said.replace(value, "***") if value else said
    return said
