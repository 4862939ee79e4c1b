"""A real PostgreSQL server for the tests: a throw-away cluster behind a Unix socket, with fsync on."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from hoop_core.store.tables import metadata

WITHOUT = "HOOP_TEST_WITHOUT_POSTGRES"
BOTH = ("sqlite", pytest.param("postgresql", marks=pytest.mark.postgres))
"""What a module says as `DATABASES` to run its tests of the store on both."""
_SECONDS = 60.0
_SHARED = "hoop_shared"


def binary(name: str) -> str | None:
    """On the PATH, or where Debian keeps the newest version."""
    versions = Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    newest = sorted(versions, key=lambda p: int(p.parts[-3]) if p.parts[-3].isdigit() else 0)
    return shutil.which(name) or (str(newest[-1]) if newest else None)


def needed(name: str) -> str:
    found = binary(name)
    if found is None and os.environ.get(WITHOUT) == "1":
        pytest.skip(f"{WITHOUT}=1, and there is no {name} on this machine")
    if found is None:
        pytest.fail(
            f"PostgreSQL's {name} is not on this machine: install it (`apt-get install postgresql`), "
            f"or set {WITHOUT}=1 to leave these tests out.",
            pytrace=False,
        )
    return found


class Server:
    """A running cluster. PostgreSQL refuses to run as root, so root starts it as `nobody`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._data, self._log = home / "data", home / "log"
        self._numbers = itertools.count()
        self._as: dict[str, int | list[int]] = {}
        self.process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(home, nobody.pw_uid, nobody.pw_gid)
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

    def create(self) -> None:
        command = [needed("initdb"), "-D", str(self._data), "-U", "hoop", "-A", "trust"]
        command += ["-E", "UTF8", "--locale", "C", "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, cwd=self.home, **self._as)  # type: ignore[call-overload]

    def start(self) -> None:
        options = {"listen_addresses": "", "unix_socket_directories": str(self.home)}
        options |= {"max_connections": "200", "shared_buffers": "32MB"}
        command = [needed("postgres"), "-D", str(self._data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(  # type: ignore[call-overload]
                command, stdout=log, stderr=log, cwd=self.home, **self._as
            )
        deadline = time.monotonic() + _SECONDS
        while True:
            try:
                return psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"PostgreSQL did not start:\n{self._log.read_text()[-2000:]}")
                time.sleep(0.05)

    def stop(self, *, at_once: bool = False) -> None:
        """At once: as a crash, without a checkpoint."""
        if self.process is not None:
            self.process.send_signal(3 if at_once else 2)
            self.process.wait(_SECONDS)
            self.process = None

    def url(self, database: str) -> str:
        return f"postgresql://hoop@/{database}?host={self.home}"

    def run(self, sql: str, database: str = "postgres") -> None:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(sql.encode())

    def emptied(self) -> str:
        """The URL of a database with our tables and nothing in them; the same one each time, if it can be."""
        try:
            with psycopg.connect(self.url(_SHARED), autocommit=True) as connection:
                connection.execute("SET lock_timeout = '2s'")
                connection.execute(f"TRUNCATE {', '.join(metadata.tables)}".encode())
        except psycopg.Error:  # not there yet, or a test has spoiled it
            self.run(f"DROP DATABASE IF EXISTS {_SHARED} WITH (FORCE)")
            self.run(f"CREATE DATABASE {_SHARED} TEMPLATE hoop")
        return self.url(_SHARED)

    def database(self, template: str = "template1") -> str:
        """The URL of a new database."""
        name = f"hoop_{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)


@contextmanager
def server() -> Iterator[Server]:
    needed("postgres")
    home = Path(tempfile.mkdtemp(prefix="hoop-pg-", dir="/tmp"))  # short: a socket's path is
    made = Server(home)
    try:
        made.create()
        made.start()
        yield made
    finally:
        made.stop(at_once=True)  # nobody will read it again
        shutil.rmtree(home, ignore_errors=True)
