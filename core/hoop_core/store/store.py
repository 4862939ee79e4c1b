"""Transactions on the store. Whatever the database says, callers see StoreUnavailable.

SQLite runs with WAL and synchronous=FULL: a commit that returned has reached the disk
(https://sqlite.org/pragma.html#pragma_synchronous). Writers take the write lock at BEGIN, so that two
of them never find out at COMMIT that they collided.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError

from hoop_core.errors import ConfigError, StoreUnavailable

_WRITE = "hoop_write"
_HINT = "Nothing was run. Check that the store is there, has space and may be written."


class Store:
    """One database. `write()` and `read()` give a connection inside a transaction."""

    def __init__(self, url: str, *, busy_seconds: float = 5.0) -> None:
        try:
            self.url = make_url(url)
            self.url.get_dialect()
        except SQLAlchemyError:
            raise ConfigError("The store's address is not a database URL.") from None
        self._file = self._sqlite_file()
        self._inode: int | None = None
        self.engine = self._engine(busy_seconds)

    def _sqlite_file(self) -> Path | None:
        if self.url.get_backend_name() != "sqlite":
            return None
        if not self.url.database or self.url.database == ":memory:":
            raise ConfigError(
                "The store must be a file: an in-memory SQLite database is not durable.",
                "Set store.url to sqlite:///path/to/hoop.db or to a PostgreSQL address.",
            )
        return Path(self.url.database)

    def _engine(self, busy_seconds: float) -> Engine:
        if self._file is None:
            try:
                return create_engine(self.url, pool_pre_ping=True)
            except ModuleNotFoundError as e:
                raise ConfigError(
                    f"The store's driver {e.name!r} is not installed.", "Install it, or use SQLite."
                ) from None
        engine = create_engine(self.url, connect_args={"timeout": busy_seconds})

        @event.listens_for(engine, "connect")
        def _pragmas(connection: Any, _record: Any) -> None:
            connection.isolation_level = None  # we say BEGIN ourselves
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            writing = connection.get_execution_options().get(_WRITE)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

        return engine

    def migrate(self) -> None:
        """Bring the schema to the newest version (Alembic). Raises StoreUnavailable."""
        # Alembic takes 0.2 s to import; only a starting server needs it.
        from alembic import command  # noqa: PLC0415
        from alembic.config import Config  # noqa: PLC0415

        config = Config()
        with resources.as_file(resources.files("hoop_core.store") / "migrations") as scripts:
            config.set_main_option("script_location", str(scripts))
            try:
                if self._file is not None:
                    self._file.parent.mkdir(parents=True, exist_ok=True)
                    os.close(os.open(self._file, os.O_CREAT | os.O_RDWR, 0o600))
                with self.engine.connect() as connection:
                    config.attributes["connection"] = connection
                    command.upgrade(config, "head")
            except (SQLAlchemyError, OSError) as e:
                raise StoreUnavailable(f"The store cannot be set up: {_short(e)}.", _HINT) from e
        self._inode = self._file.stat().st_ino if self._file else None

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
    def read(self) -> Iterator[Connection]:
        with self._transaction(write=False) as connection:
            yield connection

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[Connection]:
        try:
            with (
                self.engine.connect() as plain,
                plain.execution_options(**{_WRITE: write}) as connection,
                connection.begin(),
            ):
                yield connection
        except (SQLAlchemyError, OSError) as e:
            doing = "written" if write else "read"
            raise StoreUnavailable(f"The store cannot be {doing}: {_short(e)}.", _HINT) from e

    def _still_the_same_file(self) -> None:
        """A deleted or replaced SQLite file would still take writes that nobody could find again."""
        if self._file is None or self._inode is None:
            return
        try:
            now = self._file.stat().st_ino
        except OSError as e:
            raise StoreUnavailable(f"The store {self._file} is gone: {_short(e)}.", _HINT) from e
        if now != self._inode:
            raise StoreUnavailable(f"The store {self._file} was replaced by another file.", _HINT)

    def close(self) -> None:
        self.engine.dispose()


def _short(error: Exception) -> str:
    """The database's own words without the statement and its parameters (they may hold user data)."""
    origin = getattr(error, "orig", None) or error
    return " ".join(str(origin).split())[:200]
