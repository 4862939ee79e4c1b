"""Fixtures that all tests share. One embedded stack serves a whole test process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hoop_core.audit.checkpoint import LogKey, load_or_create_key
from hoop_core.audit.log import AuditLog
from hoop_core.store import Store

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

    from hoop_core.devstack.stack import DevStack


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(f"sqlite:///{tmp_path / 'hoop.db'}", busy_seconds=0.5)
    made.migrate()
    yield made
    made.close()


@pytest.fixture
def log_key(tmp_path: Path) -> LogKey:
    return load_or_create_key(tmp_path / "log.key", "test.example/log")


@pytest.fixture
def log(store: Store, log_key: LogKey) -> AuditLog:
    return AuditLog(store, log_key)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    """OpenBao, its plugin, the Snowflake emulator and a gateway, with the demo world."""
    from hoop_core.devstack.stack import DevStack

    with DevStack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture
def connect(stack: DevStack) -> Iterator[Callable[..., SnowflakeConnection]]:
    """The plain Snowflake driver pointed at the gateway: `connect("churn-agent")`."""
    import snowflake.connector

    opened: list[SnowflakeConnection] = []

    def open_one(who: str = "churn-agent", **options: Any) -> SnowflakeConnection:
        settings = {
            "host": stack.info.gateway_host,
            "port": stack.info.gateway_port,
            "protocol": "http",
            "account": "hoopdev",
            "user": "whoever",
            "authenticator": "oauth",
            "database": "PROD",
            "schema": "CRM",
            "login_timeout": 20,
        }
        if "token" not in options:
            settings["token"] = stack.token(who)
        connection = snowflake.connector.connect(**{**settings, **options})
        opened.append(connection)
        return connection

    yield open_one
    for connection in opened:
        connection.close()


@pytest.fixture
def behind(stack: DevStack) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
    """SQL at the emulator as its administrator, behind Hoop's back."""
    import snowflake.connector

    connection = snowflake.connector.connect(
        host=stack.info.snowflake_host,
        port=stack.info.snowflake_port,
        protocol="http",
        account=stack.info.snowflake_account,
        user=stack.info.admin_user,
        password=stack.info.admin_password,
    )
    yield lambda sql: connection.cursor().execute(sql).fetchall()
    connection.close()
