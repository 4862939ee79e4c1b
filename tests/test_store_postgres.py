"""PostgreSQL as the store: durable, within bounded time, and set up by one process at a time."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy import insert, make_url, select, text

from hoop_core.errors import ConfigError, StoreUnavailable
from hoop_core.store import Store
from hoop_core.store.postgres import Limits
from hoop_core.store.store import Lock
from hoop_core.store.tables import sessions
from tests.postgres_server import BOTH, Server

pytestmark = pytest.mark.postgres
DATABASES = BOTH[1:]


def _session(identifier: str) -> dict[str, Any]:
    return {"id": identifier, "identity_key": "k", "body": {}, "opened_at": datetime.now(UTC)}


def _migrate(url: str) -> str:
    store = Store(url)
    try:
        store.migrate()
    except Exception as e:
        return repr(e)
    finally:
        store.close()
    return "set up"


def test_processes_that_start_together_set_the_store_up_once(postgres: Server) -> None:
    url = postgres.database()
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert pool.map(_migrate, [url] * 4) == ["set up"] * 4


def test_a_store_of_a_newer_hoop_is_refused(postgres: Server) -> None:
    url = postgres.database("hoop")
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match="newer Hoop"):
        Store(url).migrate()


def test_a_database_in_another_encoding_is_refused(postgres: Server) -> None:
    postgres.run("CREATE DATABASE old ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
    with pytest.raises(ConfigError, match="LATIN1"):
        Store(postgres.url("old")).migrate()


def test_a_commit_is_durable_whatever_the_server_was_told(postgres: Server) -> None:
    url = postgres.database("hoop")
    name = make_url(url).database
    postgres.run(f"ALTER DATABASE {name} SET synchronous_commit = off")
    postgres.run(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    store = Store(url)
    with store.write() as connection:
        assert connection.scalar(text("SHOW synchronous_commit")) == "on"
        assert connection.scalar(text("SHOW transaction_isolation")) == "read committed"
    store.close()


def test_a_reader_sees_one_moment_and_changes_nothing(store: Store) -> None:
    with store.read() as reading:
        assert reading.scalars(select(sessions.c.id)).all() == []
        with store.write() as writing:
            writing.execute(insert(sessions).values(**_session("a")))
        assert reading.scalars(select(sessions.c.id)).all() == []
    with pytest.raises(StoreUnavailable, match="read-only"), store.read() as reading:
        reading.execute(insert(sessions).values(**_session("b")))
    with store.write() as writing:  # the connection that was read with can write again
        assert writing.scalar(text("SHOW transaction_isolation")) == "read committed"


def test_a_lock_that_somebody_keeps_is_not_waited_for_without_end(store: Store) -> None:
    impatient = Store(store.url.render_as_string(hide_password=False), busy_seconds=0.2)
    with store.write() as holding:
        store.lock(holding, Lock.LOG)
        with pytest.raises(StoreUnavailable, match="lock timeout"), impatient.write() as waiting:
            impatient.lock(waiting, Lock.LOG)
    with impatient.write() as free:
        impatient.lock(free, Lock.LOG)
    impatient.close()


def test_what_the_holder_of_a_lock_wrote_is_seen_by_the_next(store: Store) -> None:
    def add(number: int) -> None:
        with store.write() as connection:
            store.lock(connection, Lock.LOG)
            known = len(connection.scalars(select(sessions.c.id)).all())
            connection.execute(insert(sessions).values(**_session(f"{known}")))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))  # two that saw the same number would collide
    with store.read() as connection:
        assert len(connection.scalars(select(sessions.c.id)).all()) == 40


def test_connections_come_back_after_the_server_was_killed(postgres: Server) -> None:
    url = postgres.database("hoop")
    store = Store(url, limits=Limits(connect=2.0))
    with store.write() as connection:
        connection.execute(insert(sessions).values(**_session("before")))
    postgres.stop(at_once=True)
    with pytest.raises(StoreUnavailable), store.write():
        pass
    postgres.start()
    with store.read() as connection:
        assert connection.scalars(select(sessions.c.id)).all() == ["before"]
    store.close()


def test_a_commit_that_its_standbys_never_saw_is_not_taken_for_durable(postgres: Server) -> None:
    store = Store(postgres.database("hoop"))
    with store.read() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
    postgres.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    postgres.run("SELECT pg_reload_conf()")
    try:
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(_write_on, store, pid)
            while not writing.done():
                postgres.run(
                    f"SELECT pg_cancel_backend(pid) FROM pg_stat_activity "
                    f"WHERE pid = {pid} AND wait_event = 'SyncRep'"
                )
        with pytest.raises(StoreUnavailable, match="standbys"):
            writing.result()
    finally:
        postgres.run("ALTER SYSTEM RESET synchronous_standby_names")
        postgres.run("SELECT pg_reload_conf()")
    store.close()


def _write_on(store: Store, pid: int) -> None:
    for number in range(1000):  # until the server has read its configuration
        with store.write() as connection:
            assert connection.scalar(text("SELECT pg_backend_pid()")) == pid
            connection.execute(insert(sessions).values(**_session(f"{number}")))


def test_passwords_are_in_no_error(postgres: Server) -> None:
    store = Store(f"postgresql://hoop:s3cr3t@/nowhere?host={postgres.home}")
    with pytest.raises(StoreUnavailable) as caught:
        store.migrate()
    assert "s3cr3t" not in f"{caught.value!r} {caught.value} {store.engine!r}"


def test_other_databases_are_refused() -> None:
    with pytest.raises(ConfigError, match="SQLite or PostgreSQL"):
        Store("mysql://hoop@localhost/hoop")
