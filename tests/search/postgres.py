"""A throwaway PostgreSQL server for tests: its own cluster in a temporary folder, reached by a socket in there."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER, PASSWORD = "nasir", "s3cret"


def programs() -> Path | None:
    """The folder of initdb and pg_ctl; None where PostgreSQL is not installed."""
    newest_last = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    return newest_last[-1].parent if newest_last else Path(on_path).resolve().parent if on_path else None


def missing() -> str | None:
    """Why there can be no server here; None where there can."""
    if programs() is None:
        return "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed (pip install 'nasir[postgresql]')"
    if os.getuid() == 0 and _unprivileged() is None:
        return "PostgreSQL refuses to run as root, and there is no other user to run it as"
    return None


def _unprivileged() -> str | None:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)


class Server:
    """A running cluster; `stop` and `start` again keep what is in it."""

    def __init__(self, folder: Path) -> None:
        """`folder`: empty; its path is short (a socket's has 107 characters at most)."""
        folder_of_programs = programs()
        assert folder_of_programs is not None
        self.programs = folder_of_programs
        self.folder = folder
        self.user = _unprivileged() if os.getuid() == 0 else None
        password = folder / "password"
        password.write_text(PASSWORD + "\n")
        if self.user is not None:
            for path in (folder, password):
                shutil.chown(path, self.user)
        self._call("initdb", "-D", "data", "-U", USER, "-A", "scram-sha-256", "--pwfile=password", "-E", "UTF8")
        self.start()

    def _call(self, program: str, *arguments: str) -> None:
        said = self.folder.parent / f"{program}.out"
        with said.open("wb") as out:  # the server keeps it open: a pipe would never end
            done = subprocess.run(
                [str(self.programs / program), *arguments],
                cwd=self.folder,
                user=self.user,
                group=None if self.user is None else pwd.getpwnam(self.user).pw_gid,
                extra_groups=None if self.user is None else [],
                env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        assert done.returncode == 0, f"{program}: {said.read_text()}"

    def start(self) -> None:
        options = f"-c listen_addresses= -c unix_socket_directories={self.folder} -c max_connections=50"
        self._call("pg_ctl", "start", "-w", "-D", "data", "-l", "server.log", "-o", options)

    def stop(self, mode: str = "immediate") -> None:
        """`immediate` ends all connections without a farewell, as a crash does; what was committed stays."""
        self._call("pg_ctl", "stop", "-w", "-D", "data", "-m", mode)

    def url(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql://{USER}:{password}@/{database}?host={self.folder}"

    def new_database(self) -> str:
        """The URL of an empty database."""
        import psycopg

        name = f"study_{uuid.uuid4().hex[:8]}"
        where = {"host": str(self.folder), "user": USER, "password": PASSWORD, "dbname": "postgres"}
        with psycopg.connect(**where, autocommit=True) as connection:
            connection.execute(f"create database {name}")
        return self.url(name)


@contextmanager
def server() -> Iterator[Server]:
    """A server for the length of a `with`; nothing of it is left behind."""
    with tempfile.TemporaryDirectory(prefix="nasir-pg-", ignore_cleanup_errors=True) as outer:
        os.chmod(outer, 0o711)  # the unprivileged user passes through
        folder = Path(outer) / "pg"
        folder.mkdir(mode=0o700)
        running = Server(folder)
        try:
            yield running
        finally:
            running.stop("fast")
