"""The store: durable or an error, and never a file that nobody could find again."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, select

from hoop_core.errors import ConfigError, StoreUnavailable
from hoop_core.store import Store
from hoop_core.store.tables import metadata, sessions


def _row(identifier: str) -> dict[str, object]:
    return {"id": identifier, "identity_key": "k", "body": {}, "opened_at": datetime.now(UTC)}


def test_the_migrations_make_exactly_the_tables_of_the_code(store: Store) -> None:
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_migrating_twice_changes_nothing(store: Store) -> None:
    store.migrate()


def test_times_come_back_in_utc(store: Store) -> None:
    with store.write() as connection:
        connection.execute(insert(sessions).values(**_row("a")))
    with store.read() as connection:
        opened = connection.scalar(select(sessions.c.opened_at))
    assert opened is not None and opened.tzinfo is UTC


def test_a_failed_block_leaves_nothing_behind(store: Store) -> None:
    with pytest.raises(RuntimeError), store.write() as connection:
        connection.execute(insert(sessions).values(**_row("a")))
        raise RuntimeError
    with store.read() as connection:
        assert connection.execute(select(sessions)).all() == []


def test_a_locked_store_refuses_in_time(store: Store) -> None:
    other = sqlite3.connect(str(store.url.database), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StoreUnavailable, match="locked"), store.write():
            pass
    finally:
        other.close()


def test_a_removed_store_refuses_writes(store: Store) -> None:
    Path(str(store.url.database)).unlink()
    with pytest.raises(StoreUnavailable, match="gone"), store.write():
        pass


def test_a_replaced_store_refuses_writes(store: Store) -> None:
    path = Path(str(store.url.database))
    path.rename(path.with_suffix(".old"))
    path.write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="replaced"), store.write():
        pass


def test_a_store_in_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match="not durable"):
        Store("sqlite://")


def test_errors_do_not_repeat_the_values_of_a_statement(store: Store) -> None:
    with store.write() as connection:
        connection.execute(insert(sessions).values(**_row("a")))
    with pytest.raises(StoreUnavailable) as caught, store.write() as connection:
        connection.execute(insert(sessions).values(**_row("a") | {"identity_key": "jane@corp"}))
    assert "jane@corp" not in str(caught.value)
