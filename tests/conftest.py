"""Fixtures that all tests share. One embedded stack serves a whole test process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hoop_core.audit.checkpoint import LogKey, load_or_create_key
from hoop_core.audit.log import AuditLog
from hoop_core.store import Store
from tests.postgres_server import Server, server

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

    from hoop_core.devstack.stack import DevStack
    from tests.clients_world import ClientsWorld


# Drivers would ask the addresses of cloud metadata services where they run: tests talk to loopback only.
os.environ["SNOWFLAKE_DISABLE_PLATFORM_DETECTION"] = "true"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module with `DATABASES = BOTH` runs every test that uses `store` on SQLite and PostgreSQL."""
    databases = getattr(metafunc.module, "DATABASES", None)
    if databases and "store" in metafunc.fixturenames:
        metafunc.parametrize("store", databases, indirect=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server, and in it the template `hoop` with our tables."""
    with server() as running:
        running.run("CREATE DATABASE hoop")
        template = Store(running.url("hoop"))
        template.migrate()
        template.close()
        yield running


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with our tables, to be copied: migrating takes longer than most tests."""
    file = tmp_path_factory.mktemp("empty") / "hoop.db"
    made = Store(f"sqlite:///{file}")
    made.migrate()
    made.close()
    return file


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if getattr(request, "param", "sqlite") == "postgresql":
        made = Store(request.getfixturevalue("postgres").emptied(), busy_seconds=2)
    else:
        shutil.copy(request.getfixturevalue("empty_store"), tmp_path / "hoop.db")
        made = Store(f"sqlite:///{tmp_path / 'hoop.db'}", busy_seconds=0.5)
        made.attach()
    yield made
    made.close()


@pytest.fixture
def log_key(tmp_path: Path) -> LogKey:
    return load_or_create_key(tmp_path / "log.key", "test.example/log")


@pytest.fixture
def log(store: Store, log_key: LogKey) -> AuditLog:
    return AuditLog(store, log_key)


@pytest.fixture(scope="session")
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DevStack]:
    """OpenBao, its plugin, the Snowflake emulator and a gateway, with the demo world. At its end everything on record
    is replayed and searched (stack_checked.py).

    HOOP_TEST_STORE=postgresql gives the gateway a PostgreSQL store.
    """
    from hoop_core.devstack.stack import DevStack
    from tests.stack_checked import check

    store = ""
    if os.environ.get("HOOP_TEST_STORE") == "postgresql":
        store = request.getfixturevalue("postgres").database()
    with DevStack(tmp_path_factory.mktemp("stack"), store=store) as running:
        yield running
        check(running)


@pytest.fixture(scope="session")
def native_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientsWorld]:
    """A stack for the drivers that are not written in Python, with a table of every type."""
    from tests.native_world import started
    from tests.stack_checked import check

    with started(tmp_path_factory.mktemp("native") / "home") as world:
        yield world
        check(world.stack)


@pytest.fixture(scope="session")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientsWorld]:
    """A stack with a policy for the tests of unmodified clients."""
    from tests.clients_world import ClientsWorld
    from tests.stack_checked import check

    with ClientsWorld.started(tmp_path_factory.mktemp("clients")) as world:
        yield world
        check(world.stack)


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
