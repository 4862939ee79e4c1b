"""Connections of one unchanged driver to the same emulator: directly, and through Hoop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import snowflake.connector

from hoop_core.devstack.stack import StackInfo


@contextmanager
def direct(info: StackInfo) -> Iterator[Any]:
    """As the emulator's administrator."""
    yield from _connected(
        info, host=info.snowflake_host, port=info.snowflake_port,
        user=info.admin_user, password=info.admin_password, warehouse="ML_WH",
    )  # fmt: skip


@contextmanager
def guarded(info: StackInfo) -> Iterator[Any]:
    """As the demo's agent, through the gateway."""
    yield from _connected(
        info, host=info.gateway_host, port=info.gateway_port,
        user="agent", authenticator="oauth", token=info.token_agent,
    )  # fmt: skip


def _connected(info: StackInfo, **options: Any) -> Iterator[Any]:
    connection = snowflake.connector.connect(
        protocol="http", account=info.snowflake_account, **options
    )
    try:
        yield connection
    finally:
        connection.close()


def executed(administrator: Any, statement_id: str) -> str:
    """The text that Hoop ran for a statement, as Snowflake's own history has it."""
    found = (
        administrator.cursor()
        .execute(
            "SELECT QUERY_TEXT FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY WHERE QUERY_TAG LIKE %s",
            (f"hoop:%:{statement_id}:%",),
        )
        .fetchall()
    )
    if len(found) != 1:
        raise AssertionError(f"{len(found)} statements ran for {statement_id}")
    return str(found[0][0])
