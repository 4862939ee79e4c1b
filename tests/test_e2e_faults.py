"""What the driver, the log and Snowflake see when a part of the stack fails."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import snowflake.connector
from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import DatabaseError, Error

from hoop_core.audit.stored import stored_entries
from hoop_core.devstack.processes import free_port
from hoop_core.devstack.stack import DevStack
from hoop_core.store import Store

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def repaired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    """A stack that is broken on purpose, and works again after each test."""
    with DevStack(tmp_path_factory.mktemp("repaired")) as running:
        yield running


@pytest.fixture(scope="module")
def without_vault(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[DevStack, SnowflakeConnection]]:
    """A stack whose OpenBao was stopped after somebody had signed in."""
    with DevStack(tmp_path_factory.mktemp("without-vault")) as running:
        connection = agent(running)
        running.stop_openbao()
        yield running, connection


@pytest.fixture
def own(tmp_path: Path) -> Iterator[DevStack]:
    """A stack of this test's own, for it is broken for good."""
    with DevStack(tmp_path / "stack") as running:
        yield running


def agent(stack: DevStack, *, token: str = "") -> SnowflakeConnection:
    return snowflake.connector.connect(
        host=stack.info.gateway_host,
        port=stack.info.gateway_port,
        protocol="http",
        account="hoopdev",
        user="x",
        authenticator="oauth",
        token=token or stack.info.token_agent,
        database="PROD",
        schema="CRM",
        login_timeout=20,
    )


def admin(stack: DevStack, sql: str) -> list[Any]:
    connection = snowflake.connector.connect(
        host=stack.info.snowflake_host,
        port=stack.info.snowflake_port,
        protocol="http",
        account=stack.info.snowflake_account,
        user=stack.info.admin_user,
        password=stack.info.admin_password,
    )
    try:
        return list(connection.cursor().execute(sql).fetchall())
    finally:
        connection.close()


def kinds(stack: DevStack) -> list[tuple[str, Any]]:
    store = Store(stack.store_url)
    store.attach()
    try:
        return [(e.kind, json.loads(e.text)["data"]) for e in stored_entries(store)]
    finally:
        store.close()


def ran(stack: DevStack, mark: str) -> bool:
    texts = admin(stack, "SELECT QUERY_TEXT FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY")
    return any(mark in text and "QUERY_HISTORY" not in text for (text,) in texts)


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.2)


def test_with_vault_stopped_statements_are_refused_and_logged(
    without_vault: tuple[DevStack, SnowflakeConnection],
) -> None:
    own, connection = without_vault
    with pytest.raises(Error) as caught:
        connection.cursor().execute("SELECT 1 AS VAULT_IS_DOWN")
    assert caught.value.errno == 99101 and "Vault" in str(caught.value)
    assert not ran(own, "VAULT_IS_DOWN")
    refused = [d for k, d in kinds(own) if k == "statement.refused"]
    assert "VAULT_IS_DOWN" in refused[-1]["sql"]
    assert refused[-1]["reason"] == "VAULT_UNAVAILABLE"


def test_with_the_identity_provider_stopped_only_known_keys_serve(
    without_vault: tuple[DevStack, SnowflakeConnection],
) -> None:
    """A key that was fetched is believed for a while; a new one is not, and the error says why.

    Which of the two reasons depends on when the keys were asked for last (once in ten seconds at most).
    """
    own, _ = without_vault
    known = own.info.token_agent
    agent(own).close()
    with pytest.raises(DatabaseError, match=r"does not publish|cannot be fetched"):
        agent(own, token=under_another_key(known))


def under_another_key(token: str) -> str:
    head, rest = token.split(".", 1)
    header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    changed = json.dumps(header | {"kid": "new"}).encode()
    return base64.urlsafe_b64encode(changed).decode().rstrip("=") + "." + rest


@pytest.mark.nightly
def test_with_snowflake_stopped_statements_fail_and_the_user_is_on_the_list(own: DevStack) -> None:
    connection = agent(own)
    connection.cursor().execute("SELECT 1")
    own.stop_emulator()
    with pytest.raises(Error) as caught:
        connection.cursor().execute("SELECT 2")
    assert caught.value.errno == 99102 and "cannot be reached" in str(caught.value)
    # It did not get there, so nobody has to find out whether it ran.
    assert [d["status"] for k, d in kinds(own) if k == "statement.outcome"][-1] == "failed"
    connection.close()
    until(lambda: "credential.pending" in [k for k, _ in kinds(own)])


def test_with_an_unwritable_store_statements_are_refused_and_stderr_says_so(
    repaired: DevStack,
) -> None:
    connection = agent(repaired)
    connection.cursor().execute("SELECT 1")
    blocker = sqlite3.connect(repaired.home / "hoop.db", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(Error) as caught:
            connection.cursor().execute("SELECT 1 AS STORE_IS_LOCKED")
    finally:
        blocker.execute("ROLLBACK")
        blocker.close()
    assert caught.value.errno == 99103 and "store" in str(caught.value)
    assert not ran(repaired, "STORE_IS_LOCKED")
    assert "log cannot be written" in (repaired.home / "logs" / "gateway.log").read_text()
    assert connection.cursor().execute("SELECT 2").fetchall() == [(2,)]


def test_with_the_store_replaced_statements_are_refused(repaired: DevStack) -> None:
    connection = agent(repaired)
    (repaired.home / "hoop.db").rename(repaired.home / "moved.db")
    with pytest.raises(Error) as caught:
        connection.cursor().execute("SELECT 1 AS STORE_IS_GONE")
    assert caught.value.errno == 99103
    assert not ran(repaired, "STORE_IS_GONE")
    (repaired.home / "moved.db").rename(repaired.home / "hoop.db")


def test_users_of_a_killed_gateway_are_swept_by_the_next_one(repaired: DevStack) -> None:
    connection = agent(repaired)
    connection.cursor().execute("SELECT 1")
    minted = {d["snowflake_user"] for k, d in kinds(repaired) if k == "credential.minted"}
    assert minted
    repaired.kill_gateway()
    assert minted & {r[0] for r in admin(repaired, "SHOW USERS")}
    repaired.restart_gateway()
    until(lambda: not minted & {r[0] for r in admin(repaired, "SHOW USERS")})
    until(
        lambda: (
            minted <= {d["snowflake_user"] for k, d in kinds(repaired) if k == "credential.gone"}
        )
    )


def test_an_orderly_stop_leaves_no_user_and_a_checkpoint(repaired: DevStack) -> None:
    connection = agent(repaired)
    connection.cursor().execute("SELECT EMAIL FROM CUSTOMERS LIMIT 1")
    repaired.stop_gateway()
    left = {r[0] for r in admin(repaired, "SHOW USERS")}
    assert left == {"HOOP_ADMIN", "VAULT_MINTER_SVC"}
    gone = [k for k, _ in kinds(repaired)]
    assert gone.count("credential.minted") == gone.count("credential.gone") > 0
    repaired.restart_gateway()


@pytest.mark.nightly
def test_a_second_gateway_set_up_by_the_environment_ends_orderly_on_sigterm(
    repaired: DevStack, tmp_path: Path
) -> None:
    port = free_port()
    environment = {
        **os.environ,
        "HOOP_GATEWAY__PORT": str(port),
        "HOOP_STORE__URL": f"sqlite:///{tmp_path / 'second.db'}",
        "HOOP_STORE__RECORDINGS": str(tmp_path / "recordings"),
    }
    serving = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "hoop_core.cli",
            "serve",
            "--config",
            str(repaired.info.config_file),
        ],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )

    def healthy() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    until(healthy)
    serving.terminate()
    _, said = serving.communicate(timeout=60)
    assert serving.returncode == 0
    assert f"http://127.0.0.1:{port}" in said
    assert (tmp_path / "second.db").stat().st_mode & 0o077 == 0
