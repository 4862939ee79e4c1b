"""Transactions on the store. Whatever the database says, callers see StoreUnavailable.

SQLite runs with WAL and synchronous=FULL: a commit that returned has reached the disk
(https://sqlite.org/pragma.html#pragma_synchronous). Writers take the write lock at BEGIN, so that two
of them never find out at COMMIT that they collided.

PostgreSQL, for several replicas, runs its writers side by side (READ COMMITTED): what must not happen
twice is a compare-and-set, or happens under a `Lock`. Readers see one moment (REPEATABLE READ).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from enum import IntEnum
from importlib import resources
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import SQLAlchemyError

from hoop_core.config import StoreSettings
from hoop_core.errors import ConfigError, StoreUnavailable
from hoop_core.store import postgres
from hoop_core.store.at_once import AtOnce, Busy
from hoop_core.store.postgres import Limits

WRITE = "hoop_write"
"""The execution option of a transaction that will write."""
_HINT = "Nothing was run. Check that the store is there, has space and may be written."


class Lock(IntEnum):
    """What one process at a time may do, of all that work on a PostgreSQL store."""

    MIGRATION = 1
    LOG = 2


class Store:
    """One database. `write()` and `read()` give a connection inside a transaction."""

    def __init__(
        self, url: str, *, busy_seconds: float = 5.0, limits: Limits | None = None
    ) -> None:
        try:
            self.url = make_url(url)
            if self.url.drivername in {"postgres", "postgresql"}:
                self.url = self.url.set(drivername=postgres.DRIVER)
            self.url.get_dialect()
        except SQLAlchemyError:
            raise ConfigError("The store's address is not a database URL.") from None
        if self.url.drivername not in {"sqlite", "sqlite+pysqlite", postgres.DRIVER}:
            raise ConfigError(
                f"Hoop keeps its store in SQLite or PostgreSQL, not in {self.url.drivername}.",
                "Set store.url to sqlite:///path/to/hoop.db or postgresql://user@host/database.",
            )
        self._limits = limits or Limits(lock=busy_seconds)
        self._file = self._sqlite_file()
        self._inode: int | None = None
        self._at_once = AtOnce(self._file) if self._file else None
        self.engine = self._engine()

    @classmethod
    def of(cls, settings: StoreSettings) -> Store:
        """Raises ConfigError. Nothing is connected yet."""
        limits = Limits(
            connect=settings.connect_seconds,
            statement=settings.statement_seconds,
            lock=settings.lock_seconds,
            connections=settings.connections,
        )
        return cls(settings.url, limits=limits)

    @property
    def shared(self) -> bool:
        """Whether processes of other hosts can use this store."""
        return self._file is None

    def _sqlite_file(self) -> Path | None:
        if self.url.get_backend_name() != "sqlite":
            return None
        if not self.url.database or self.url.database == ":memory:":
            raise ConfigError(
                "The store must be a file: an in-memory SQLite database is not durable.",
                "Set store.url to sqlite:///path/to/hoop.db or to a PostgreSQL address.",
            )
        return Path(self.url.database)

    def _engine(self) -> Engine:
        if self._file is None:
            return postgres.make_engine(self.url, self._limits)
        # Every transaction here ends by itself: there is nothing to roll back when a connection is returned.
        engine = create_engine(
            self.url, connect_args={"timeout": self._limits.lock}, pool_reset_on_return=None
        )

        @event.listens_for(engine, "connect")
        def _pragmas(connection: Any, _record: Any) -> None:
            connection.isolation_level = None  # we say BEGIN ourselves
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            writing = connection.get_execution_options().get(WRITE)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

        return engine

    def migrate(self) -> None:
        """Bring the schema to the newest version (Alembic), one process at a time.

        Raises StoreUnavailable, and ConfigError for a store that Hoop cannot use.
        """
        # Alembic takes 0.2 s to import; only a starting server needs it.
        from alembic import command  # noqa: PLC0415
        from alembic.config import Config  # noqa: PLC0415
        from alembic.util import CommandError  # noqa: PLC0415

        config = Config()
        with resources.as_file(resources.files("hoop_core.store") / "migrations") as scripts:
            config.set_main_option("script_location", str(scripts))
            try:
                if self._file is not None:
                    self._file.parent.mkdir(parents=True, exist_ok=True)
                    os.close(os.open(self._file, os.O_CREAT | os.O_RDWR, 0o600))
                with self.engine.connect() as connection:
                    config.attributes["connection"] = connection
                    config.attributes["begun"] = self._begun_migration
                    command.upgrade(config, "head")
            except CommandError as e:
                raise ConfigError(
                    f"The store cannot be brought to this version of Hoop: {_short(e)}.",
                    "A newer Hoop has set it up: run that version, or restore an older store.",
                ) from None
            except (SQLAlchemyError, OSError) as e:
                raise StoreUnavailable(f"The store cannot be set up: {_short(e)}.", _HINT) from e
        self._inode = self._file.stat().st_ino if self._file else None

    def _begun_migration(self, connection: Connection) -> None:
        if self._file is None:
            postgres.prepare_migration(connection, Lock.MIGRATION)

    def attach(self) -> None:
        """Use a store that a gateway has set up, without changing it. Raises StoreUnavailable."""
        if self._file is not None and not self._file.is_file():
            raise StoreUnavailable(f"There is no store at {self._file}.", "Check store.url.")
        self._inode = self._file.stat().st_ino if self._file else None

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is durable when the block has ended without an exception."""
        self._still_the_same_file()
        with self._transaction(write=True) as connection:
            yield connection

    @contextmanager
    def write_plainly(self) -> Iterator[sqlite3.Cursor]:
        """`write()` on SQLite without SQLAlchemy's layers, for the few statements that all others wait for."""
        self._still_the_same_file()
        try:
            connection = self.engine.raw_connection()
            try:
                cursor = connection.cursor()
                cursor.execute("BEGIN IMMEDIATE")
                yield cast(sqlite3.Cursor, cursor)
                cursor.execute("COMMIT")
            except BaseException:
                # Not left to closing: whoever keeps the error keeps the cursor, and with it the lock.
                with suppress(sqlite3.Error):
                    connection.rollback()
                connection.invalidate()
                raise
            connection.close()
        except (SQLAlchemyError, sqlite3.Error, OSError) as e:
            self._doubt(e)
            raise StoreUnavailable(f"The store cannot be written: {_short(e)}.", _HINT) from e

    @contextmanager
    def write_at_once(self, *, synced: bool) -> Iterator[sqlite3.Cursor]:
        """A transaction that waits for nobody. When it is not `synced`, the end of the machine can undo it for a
        moment, but that of the process cannot.

        Raises Busy when that would mean to wait, and StoreUnavailable. Only where the store is not shared.
        """
        self._still_the_same_file()
        if self._at_once is None:
            raise Busy
        try:
            with self._at_once.write(synced=synced) as cursor:
                yield cursor
        except (sqlite3.Error, OSError) as e:
            self._doubt(e)
            raise StoreUnavailable(f"The store cannot be written: {_short(e)}.", _HINT) from e

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees the store as it was at its first query, and changes nothing."""
        with self._transaction(write=False) as connection:
            yield connection

    def lock(self, connection: Connection, lock: Lock) -> None:
        """Until the transaction of `write()` ends nobody else gets this lock.

        On PostgreSQL a query that comes after this sees whatever earlier holders have written. On SQLite
        a writer is alone anyhow.
        """
        if self._file is None:
            postgres.lock(connection, lock)

    def now(self, connection: Connection) -> datetime:
        """The time by the one clock that all users of this store have in common."""
        if self._file is not None:
            return datetime.now(UTC)
        now: datetime = connection.execute(select(func.pg_catalog.clock_timestamp())).scalar_one()
        return now.astimezone(UTC)

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[Connection]:
        options: dict[str, Any] = {WRITE: write}
        if self._file is None and not write:
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        try:
            with self.engine.connect() as connection:
                connection.execution_options(**options)
                with connection.begin():
                    yield connection
                if write and self._file is None and postgres.doubtful(connection):
                    raise StoreUnavailable(
                        "The store did not wait for its standbys: what was written may get lost.",
                        _HINT,
                    )
        except (SQLAlchemyError, OSError) as e:
            doing = "written" if write else "read"
            self._doubt(e)
            raise StoreUnavailable(f"The store cannot be {doing}: {_short(e)}.", _HINT) from e

    def _still_the_same_file(self) -> None:
        """A deleted or replaced SQLite file would still take writes that nobody could find again; so would one on
        a disk that has dropped earlier ones.
        """
        if self._at_once is not None and self._at_once.doubtful:
            raise StoreUnavailable(
                "The disk failed to keep what was written before; nothing is added until that is there.",
                _HINT,
            )
        if self._file is None or self._inode is None:
            return
        try:
            now = self._file.stat().st_ino
        except OSError as e:
            raise StoreUnavailable(f"The store {self._file} is gone: {_short(e)}.", _HINT) from e
        if now != self._inode:
            raise StoreUnavailable(f"The store {self._file} was replaced by another file.", _HINT)

    def _doubt(self, error: Exception) -> None:
        code = getattr(getattr(error, "orig", None) or error, "sqlite_errorcode", 0)
        if self._at_once is not None and code & 0xFF == sqlite3.SQLITE_IOERR:
            self._at_once.doubt(error)

    def close(self) -> None:
        if self._at_once is not None:
            self._at_once.close()
        self.engine.dispose()


def _short(error: Exception) -> str:
    """The database's own words without the statement and its parameters (they may hold user data)."""
    origin = getattr(error, "orig", None) or error
    return " ".join(str(origin).split())[:200]
