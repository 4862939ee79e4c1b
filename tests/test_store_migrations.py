"""The schema and its types are the same on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from importlib import resources
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import JSON, bindparam, insert, inspect, select, text
from sqlalchemy.exc import StatementError

from hoop_core.errors import StoreUnavailable
from hoop_core.store import Store
from hoop_core.store.store import WRITE
from hoop_core.store.tables import UtcDateTime, approvals, leases, metadata, sessions
from tests.postgres_server import BOTH

DATABASES = BOTH
NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def _scripts() -> Config:
    config = Config()
    folder = resources.files("hoop_core.store") / "migrations"
    config.set_main_option("script_location", str(folder))
    return config


def _go(store: Store, to: str) -> None:
    config = _scripts()
    with store.engine.connect() as connection:
        config.attributes |= {"connection": connection, "begun": lambda _: None}
        command.downgrade(config, to)


def _row(**changes: Any) -> dict[str, Any]:
    return {"id": "s", "identity_key": "k", "body": {}, "opened_at": NOON} | changes


def _stored(store: Store, **changes: Any) -> Any:
    with store.write() as connection:
        connection.execute(insert(sessions).values(**_row(**changes)))
    with store.read() as connection:
        return connection.execute(select(sessions)).one()


def test_the_migrations_make_exactly_the_tables_of_the_code(store: Store) -> None:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_every_migration_goes_back_and_forth(store: Store) -> None:
    steps = [s.revision for s in ScriptDirectory.from_config(_scripts()).walk_revisions()]
    assert len(steps) >= 3
    for revision in [*steps[1:], "base"]:
        _go(store, revision)
    assert inspect(store.engine).get_table_names() == ["alembic_version"]
    store.migrate()
    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_rows_of_an_older_schema_survive(store: Store) -> None:
    _go(store, "0001")
    with store.engine.connect().execution_options(**{WRITE: True}) as connection:
        old = {"identity_key": "k", "body": "{}", "opened_at": "2026-03-01 12:00:00.123456+00:00"}
        with connection.begin():
            connection.exec_driver_sql(
                "INSERT INTO sessions (id, identity_key, body, opened_at) "
                f"VALUES ('s', '{old['identity_key']}', '{old['body']}', '{old['opened_at']}')"
            )
    store.migrate()
    with store.read() as connection:
        row = connection.execute(select(sessions)).one()
    assert (row.id, row.account, row.owner, row.token_digest) == ("s", "", None, None)


def test_the_kinds_of_what_was_asked_before_are_known_afterwards(store: Store) -> None:
    _go(store, "0005")
    bodies = {
        "exception": {"kind": "masking_exception", "reason": "q"},
        "statement": {"kind": "delete", "sql": "a\x00b \\u0000"},
        "odd": {"sql": "x"},
        "nothing": {"kind": None},
    }
    added = text(
        "INSERT INTO approvals (id, binding, requester_key, status, approvers, quorum, body, created_at, "
        "pending_until, valid_seconds) VALUES (:id, :id, 'k', 'pending', '[]', 1, :body, :at, :at, 1)"
    ).bindparams(bindparam("at", type_=UtcDateTime()), bindparam("body", type_=JSON()))
    writing = store.engine.connect().execution_options(**{WRITE: True})
    with writing as connection, connection.begin():
        for name, body in bodies.items():
            connection.execute(added, {"id": name, "body": body, "at": NOON})
    store.migrate()
    with store.read() as connection:
        rows = connection.execute(select(approvals.c.id, approvals.c.kind, approvals.c.body)).all()
    assert {r.id: r.kind for r in rows} == {
        "exception": "masking_exception",
        "statement": "delete",
        "odd": "",
        "nothing": "",
    }
    assert {r.id: r.body for r in rows} == bodies


def test_times_come_back_in_utc_to_the_microsecond(store: Store) -> None:
    east = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    opened = _stored(store, opened_at=east).opened_at
    assert opened == NOON and opened.tzinfo is UTC and opened.microsecond == 123456


def test_times_compare_by_moment(store: Store) -> None:
    _stored(store)
    west = (NOON - timedelta(seconds=1)).astimezone(timezone(timedelta(hours=-8)))
    with store.read() as connection:
        assert connection.scalars(select(sessions.c.id).where(sessions.c.opened_at > west)).all()
        assert not connection.scalars(
            select(sessions.c.id).where(sessions.c.opened_at < west)
        ).all()


def test_a_time_without_a_zone_is_refused(store: Store) -> None:
    with pytest.raises((StatementError, StoreUnavailable), match="naive"):
        _stored(store, opened_at=NOON.replace(tzinfo=None))


@pytest.mark.parametrize(
    "body",
    [
        {"z": 1, "a": [None, True, 1.5, {"ü": "\u2028"}], "": ""},
        {"nul": "a\x00b", "emoji": "\U0001f600", "quote": "'\"\\"},
        {"big": 2**60, "text": "x" * 100_000},
    ],
)
def test_json_comes_back_as_it_was(store: Store, body: dict[str, Any]) -> None:
    row = _stored(store, body=body)
    assert row.body == body and list(row.body) == list(body)


def test_an_absent_time_and_text_stay_absent(store: Store) -> None:
    row = _stored(store)
    assert (row.closed_at, row.close_reason) == (None, None)


def test_a_text_with_a_nul_is_looked_for_and_not_found(store: Store) -> None:
    _stored(store)
    with store.read() as connection:
        assert connection.scalars(select(sessions.c.id).where(sessions.c.id == "s\x00")).all() == []
        assert connection.scalars(select(leases).where(leases.c.state.in_(["\x00"]))).all() == []
