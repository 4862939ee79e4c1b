"""How connections to PostgreSQL behave: durable commits, bounded waiting, and a dead peer that lets go.

Whoever waits for the log's lock waits for all transactions before it. So no statement, no lock and no
transaction that somebody left open may take longer than it is given here.
(https://www.postgresql.org/docs/current/runtime-config-client.html)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, text

from hoop_core.errors import ConfigError

DRIVER = "postgresql+psycopg"
_NAMESPACE = 0x686F6F70  # "hoop": the first half of our advisory locks' keys
_WARNED = "hoop_warned"
_LEFT_OPEN_SECONDS = 10
"""How long a process that is held up or dead may keep a transaction, and the lock in it, open."""
_WAIT_FOR_MIGRATION_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that a connection, a statement and the wait for a lock may take; connections at most."""

    connect: float = 5.0
    statement: float = 15.0
    lock: float = 5.0
    connections: int = 10


def make_engine(url: URL, limits: Limits) -> Engine:
    """Connections are made when they are needed. Raises ConfigError."""
    # Both ends must notice that the other one is gone: an open transaction holds locks.
    keepalives = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
    given: dict[str, Any] = {
        "connect_timeout": max(2, round(limits.connect)),
        "tcp_user_timeout": int(limits.statement * 1000) + 5000,
        "target_session_attrs": "read-write",
        "application_name": "hoop",
        **keepalives,
    }
    given = {k: v for k, v in given.items() if k not in url.query}
    try:
        engine = create_engine(
            url,
            connect_args={**given, "client_encoding": "utf8"},
            isolation_level="READ COMMITTED",
            pool_pre_ping=True,
            pool_size=limits.connections,
            max_overflow=0,
            pool_timeout=limits.lock,
            hide_parameters=True,
        )
    except ModuleNotFoundError as e:
        raise ConfigError(
            f"The store's driver {e.name!r} is not installed.",
            "Install hoop-guard[postgres], or use SQLite.",
        ) from None
    settings, text_dumper = _settings(limits), _text_dumper()

    @event.listens_for(engine, "connect")
    def _set(connection: Any, record: Any) -> None:
        def warned(diagnostic: Any) -> None:
            if diagnostic.severity_nonlocalized == "WARNING":
                record.info[_WARNED] = True

        connection.add_notice_handler(warned)
        connection.adapters.register_dumper(str, text_dumper)
        with connection.cursor() as cursor:
            cursor.execute(settings)
        connection.commit()

    @event.listens_for(engine, "commit")
    def _forget_warnings(connection: Connection) -> None:
        connection.info.pop(_WARNED, None)

    return engine


def _text_dumper() -> type[Any]:
    """PostgreSQL's texts hold no NUL: what a client sends with one is looked up and kept without it."""
    from psycopg.types.string import StrDumperUnknown  # noqa: PLC0415 - only here is the driver needed

    class Dumper(StrDumperUnknown):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\ufffd"))

    return Dumper


def _settings(limits: Limits) -> str:
    values = {
        "statement_timeout": f"{int(limits.statement * 1000)}ms",
        "lock_timeout": f"{int(limits.lock * 1000)}ms",
        "idle_in_transaction_session_timeout": f"{_LEFT_OPEN_SECONDS}s",
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
    }
    set_all = "".join(f"SET {name} = '{value}';" for name, value in values.items())
    # Stronger than "on" is the operator's to choose.
    return set_all + (
        "SELECT pg_catalog.set_config('synchronous_commit', "
        "CASE pg_catalog.current_setting('synchronous_commit') "
        "WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false);"
        # One schema, and PostgreSQL's own names before it: nobody's function passes for one of those.
        "SELECT pg_catalog.set_config('search_path', "
        "pg_catalog.format('%I, pg_temp', pg_catalog.current_schema()), false)"
    )


def doubtful(connection: Connection) -> bool:
    """Whether the last commit came with a warning.

    So the server says that it gave up waiting for the standbys that it was told to wait for
    (https://www.postgresql.org/docs/current/warm-standby.html#SYNCHRONOUS-REPLICATION).
    """
    return bool(connection.info.pop(_WARNED, False))


def lock(connection: Connection, key: int) -> None:
    """Wait for a lock of this database until the transaction ends. Past `Limits.lock` it raises."""
    connection.execute(
        text("SELECT pg_advisory_xact_lock(:namespace, :key)"),
        {"namespace": _NAMESPACE, "key": key},
    )


def prepare_migration(connection: Connection, key: int) -> None:
    """Take turns with replicas that start at the same time; then nothing is cut short.

    Raises ConfigError for a database that cannot keep a log.
    """
    connection.execute(text("SET LOCAL statement_timeout = 0"))
    connection.execute(text(f"SET LOCAL lock_timeout = '{_WAIT_FOR_MIGRATION_SECONDS}s'"))
    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    lock(connection, key)
    row = connection.execute(
        text("SELECT current_setting('fsync') AS fsync, getdatabaseencoding() AS encoding")
    ).one()
    if row.fsync != "on":
        raise ConfigError(
            "PostgreSQL runs with fsync=off: what it confirms can be lost, and a log must not be.",
            "Set fsync = on at the server.",
        )
    if row.encoding != "UTF8":
        raise ConfigError(
            f"The database's encoding is {row.encoding}, which cannot hold every text.",
            "Create it with ENCODING 'UTF8'.",
        )
