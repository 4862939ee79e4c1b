"""Becomes conftest.py beside a copy of fakesnow's tests: its fixtures lead to the server that we name.

SUITE_SERVER: JSON of connection arguments; SUITE_ADMIN: those of an administrator of the same Snowflake, who makes
the database that fakesnow would make at sign-in. Without SUITE_SERVER fakesnow's own server is started.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import snowflake.connector
from snowflake.connector import DictCursor, SnowflakeConnection
from snowflake.connector.cursor import SnowflakeCursor

_MAKE = (
    "CREATE DATABASE DB1",
    "CREATE SCHEMA DB1.SCHEMA1",
    *(
        f"GRANT {privileges} TO ROLE {role}"
        for role, privileges in (
            ("ML_READER", "USAGE ON DATABASE DB1"),
            ("ML_READER", "USAGE ON SCHEMA DB1.SCHEMA1"),
            ("ML_READER", "CREATE TABLE ON SCHEMA DB1.SCHEMA1"),
            ("HOOP_OBSERVER", "USAGE ON DATABASE DB1"),
            ("HOOP_OBSERVER", "USAGE ON SCHEMA DB1.SCHEMA1"),
            ("HOOP_OBSERVER", "REFERENCES ON FUTURE TABLES IN SCHEMA DB1.SCHEMA1"),
        )
    ),
)


@pytest.fixture(scope="session")
def _own() -> Iterator[dict[str, Any]]:
    if "SUITE_SERVER" in os.environ:
        yield json.loads(os.environ["SUITE_SERVER"])
        return
    import fakesnow

    with fakesnow.server(session_parameters={"FAKESNOW_DB_PATH": ":isolated:"}) as given:
        yield given


@pytest.fixture
def server(_own: dict[str, Any]) -> Iterator[dict[str, Any]]:
    copy = {**_own, "session_parameters": dict(_own.get("session_parameters", {}))}
    if "SUITE_ADMIN" not in os.environ:
        yield copy
        return
    with snowflake.connector.connect(**json.loads(os.environ["SUITE_ADMIN"])) as admin:
        admin.cursor().execute("DROP DATABASE IF EXISTS DB1")
        for statement in _MAKE:
            admin.cursor().execute(statement)
        yield copy
        for name in ("DB1", "DB2"):
            admin.cursor().execute(f"DROP DATABASE IF EXISTS {name}")


@pytest.fixture
def sconn(server: dict[str, Any]) -> Iterator[SnowflakeConnection]:
    with snowflake.connector.connect(**server, database="db1", schema="schema1") as connection:
        yield connection


@pytest.fixture
def scur(sconn: SnowflakeConnection) -> Iterator[SnowflakeCursor]:
    with sconn.cursor() as cursor:
        yield cursor


@pytest.fixture
def sdcur(sconn: SnowflakeConnection) -> Iterator[SnowflakeCursor]:
    with sconn.cursor(DictCursor) as cursor:
        yield cursor
