"""SNOWFLAKE.ACCOUNT_USAGE: QUERY_HISTORY and LOGIN_HISTORY, as tables that fill without latency.

https://docs.snowflake.com/en/sql-reference/account-usage/query_history · login_history
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import duckdb

from hoop_core.devstack.emulator.journal import Journal

DATABASE, SCHEMA = "SNOWFLAKE", "ACCOUNT_USAGE"

_COLUMNS: dict[str, tuple[tuple[str, str], ...]] = {
    "QUERY_HISTORY": (
        ("QUERY_ID", "VARCHAR"),
        ("QUERY_TEXT", "VARCHAR"),
        ("DATABASE_NAME", "VARCHAR"),
        ("SCHEMA_NAME", "VARCHAR"),
        ("QUERY_TYPE", "VARCHAR"),
        ("SESSION_ID", "BIGINT"),
        ("USER_NAME", "VARCHAR"),
        ("ROLE_NAME", "VARCHAR"),
        ("WAREHOUSE_NAME", "VARCHAR"),
        ("QUERY_TAG", "VARCHAR"),
        ("EXECUTION_STATUS", "VARCHAR"),
        ("ERROR_CODE", "VARCHAR"),
        ("ERROR_MESSAGE", "VARCHAR"),
        ("START_TIME", "TIMESTAMPTZ"),
        ("END_TIME", "TIMESTAMPTZ"),
        ("TOTAL_ELAPSED_TIME", "BIGINT"),
        ("ROWS_PRODUCED", "BIGINT"),
        ("CLIENT_APPLICATION_ID", "VARCHAR"),
        ("IS_CLIENT_GENERATED_STATEMENT", "BOOLEAN"),
    ),
    "LOGIN_HISTORY": (
        ("EVENT_ID", "BIGINT"),
        ("EVENT_TIMESTAMP", "TIMESTAMPTZ"),
        ("EVENT_TYPE", "VARCHAR"),
        ("USER_NAME", "VARCHAR"),
        ("CLIENT_IP", "VARCHAR"),
        ("REPORTED_CLIENT_TYPE", "VARCHAR"),
        ("REPORTED_CLIENT_VERSION", "VARCHAR"),
        ("FIRST_AUTHENTICATION_FACTOR", "VARCHAR"),
        ("SECOND_AUTHENTICATION_FACTOR", "VARCHAR"),
        ("IS_SUCCESS", "VARCHAR"),
        ("ERROR_CODE", "VARCHAR"),
        ("ERROR_MESSAGE", "VARCHAR"),
    ),
}
VIEWS = tuple(_COLUMNS)
DATABASE_ROLES = {"GOVERNANCE_VIEWER": ("QUERY_HISTORY",), "SECURITY_VIEWER": ("LOGIN_HISTORY",)}
"""Which of them each database role may read. https://docs.snowflake.com/en/sql-reference/snowflake-db-roles"""


class History:
    """Collects events in memory; `flush` writes them before a statement reads the views.

    Once there is a journal, it keeps them for the next process.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._journal: Journal | None = None
        self._waiting: dict[str, list[tuple[Any, ...]]] = {name: [] for name in _COLUMNS}
        self._logins = 0
        for name, columns in _COLUMNS.items():
            described = ", ".join(f'"{c}" {kind}' for c, kind in columns)
            connection.execute(f"CREATE TABLE {DATABASE}.{SCHEMA}.{name} ({described})")

    def keep(self, journal: Journal) -> None:
        """Take in what earlier processes left, and leave the same from now on."""
        self._journal = journal
        for event in journal.queries():
            self._add("QUERY_HISTORY", event)
        for event in journal.logins():
            self._add_login(event)

    def began(self, event: Mapping[str, Any]) -> None:
        """A statement is about to run: only a journal needs to know so soon."""
        if self._journal is not None:
            self._journal.began(event)

    def query(self, event: Mapping[str, Any]) -> None:
        if self._journal is not None:
            self._journal.ended(event)
        self._add("QUERY_HISTORY", event)

    def login(self, event: Mapping[str, Any]) -> None:
        if self._journal is not None:
            self._journal.login(event)
        self._add_login(event)

    def _add_login(self, event: Mapping[str, Any]) -> None:
        with self._lock:
            self._logins += 1
            number = self._logins
        self._add("LOGIN_HISTORY", {**event, "EVENT_ID": number, "EVENT_TYPE": "LOGIN"})

    def _add(self, name: str, event: Mapping[str, Any]) -> None:
        with self._lock:
            self._waiting[name].append(tuple(event.get(c) for c, _ in _COLUMNS[name]))

    def flush(self) -> None:
        with self._lock:
            for name, rows in self._waiting.items():
                if rows:
                    marks = ", ".join("?" * len(_COLUMNS[name]))
                    self._connection.execute("BEGIN")
                    self._connection.executemany(
                        f"INSERT INTO {DATABASE}.{SCHEMA}.{name} VALUES ({marks})",  # noqa: S608
                        rows,
                    )
                    self._connection.execute("COMMIT")
                    rows.clear()
