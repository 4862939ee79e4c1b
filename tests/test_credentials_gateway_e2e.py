"""Two accounts behind one gateway, users for a statement or a session, idle ones ended, others kept ready.

The gateway runs in this process, with the direct minter at both accounts.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import snowflake.connector
from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import DatabaseError, Error

from hoop_core.audit.stored import stored_entries
from hoop_core.config import AccountSettings, CredentialsSettings, load_settings
from hoop_core.devstack.emulator.process import Running, running
from hoop_core.server.embedded import EmbeddedGateway, start_embedded
from hoop_core.store import Store
from tests.credentials_world import direct_settings

if TYPE_CHECKING:
    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.e2e
POLICY = """
version: 1
roles:
  - {groups: [ml-agents], vault_role: ml-reader, snowflake_role: ML_READER, warehouse: ML_WH}
  - {groups: [pii-readers], vault_role: pii, snowflake_role: PII_READER, warehouse: ML_WH, scope: statement}
rules:
  - name: work
    groups: [ml-agents, pii-readers]
    reads: ["PROD.CRM.*", "PROD.FEATURES.*"]
    writes: ["PROD.FEATURES.*"]
    kinds: [select, create_table_as, transaction, session]
    then: allow
"""
IDLE = 1.0


@dataclass
class Place:
    stack: DevStack
    other: Running
    gateway: EmbeddedGateway
    store: Path

    def connect(self, who: str = "churn-agent", **options: Any) -> SnowflakeConnection:
        host, _, port = self.gateway.url.removeprefix("http://").partition(":")
        settings = {
            "host": host, "port": int(port), "protocol": "http", "account": "hoopdev",
            "user": "x", "authenticator": "oauth", "token": self.stack.token(who),
            "database": "PROD", "schema": "CRM", "login_timeout": 20,
        }  # fmt: skip
        return snowflake.connector.connect(**{**settings, **options})

    def entries(self, kind: str) -> list[dict[str, Any]]:
        store = Store(f"sqlite:///{self.store}")
        store.attach()
        try:
            return [json.loads(e.text)["data"] for e in stored_entries(store) if e.kind == kind]
        finally:
            store.close()

    def user_of(self, mark: str) -> str:
        """Which minted user ran the statement with this mark."""
        return str(
            [i for i in self.entries("statement.intent") if mark in i["sql"]][-1]["snowflake_user"]
        )

    def users(self, *, other: bool = False) -> set[str]:
        info = self.stack.info
        options = (
            self.other.options()
            if other
            else {
                "host": info.snowflake_host, "port": info.snowflake_port, "protocol": "http",
                "account": info.snowflake_account, "user": info.admin_user,
                "password": info.admin_password,
            }
        )  # fmt: skip
        with snowflake.connector.connect(**options) as connection:
            return {str(r[0]) for r in connection.cursor().execute("SHOW USERS").fetchall()}


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_der_private_key,
    )  # fmt: skip

    from hoop_core.devstack.stack import DevStack

    folder = tmp_path_factory.mktemp("accounts")
    second = tmp_path_factory.mktemp("second")
    with (
        DevStack(folder / "stack", gateway=False) as stack,
        running(second, "--account", "ACME-DEV") as emulator,
    ):
        emulator = dataclasses.replace(emulator, account="ACME-DEV")
        key = folder / "second.pem"
        descriptor = os.open(key, os.O_CREAT | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            private = load_der_private_key(emulator.vault_key, None)
            file.write(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        with snowflake.connector.connect(**emulator.options()) as admin:
            admin.cursor().execute("CREATE TABLE PROD.FEATURES.HERE (WHERE_ VARCHAR)")
            admin.cursor().execute("INSERT INTO PROD.FEATURES.HERE VALUES ('second')")
            admin.cursor().execute("GRANT SELECT ON TABLE PROD.FEATURES.HERE TO ROLE ML_READER")
            admin.cursor().execute(
                "GRANT REFERENCES ON TABLE PROD.FEATURES.HERE TO ROLE HOOP_OBSERVER"
            )
        policy = folder / "policy.yaml"
        policy.write_text(POLICY)
        base = load_settings(stack.info.config_file)
        store = folder / "own.db"
        settings = base.model_copy(
            update={
                "credentials": CredentialsSettings(
                    backend="direct", direct=direct_settings(stack, folder), idle_seconds=IDLE,
                    sweep_seconds=1.0, result_seconds=20.0,
                ),
                "accounts": (
                    AccountSettings(
                        account="ACME-DEV", url=emulator.url, direct_private_key_file=key
                    ),
                ),
                "policy": base.policy.model_copy(update={"file": policy}),
                "store": base.store.model_copy(update={"url": f"sqlite:///{store}"}),
                "audit": base.audit.model_copy(update={"key_file": folder / "own.key"}),
            }
        )  # fmt: skip
        gateway = start_embedded(settings)
        try:
            yield Place(stack, emulator, gateway, store)
        finally:
            gateway.stop()


@pytest.mark.parametrize("name", ["acme-dev", "ACME_DEV", "acme_dev.eu-central-1"])
def test_the_account_is_the_one_that_the_client_names(place: Place, name: str) -> None:
    with place.connect(account=name) as connection:
        rows = connection.cursor().execute("SELECT WHERE_ FROM PROD.FEATURES.HERE").fetchall()
        assert rows == [("second",)]
        user = place.user_of("FEATURES.HERE")
        assert user in place.users(other=True) and user not in place.users()
    for kind in ("session.opened", "credential.minted", "statement.intent"):
        assert place.entries(kind)[-1]["account"] == "ACME-DEV"
    assert user not in place.users(other=True)


def test_the_default_account_knows_nothing_of_the_other_ones_tables(place: Place) -> None:
    with place.connect() as connection, pytest.raises(Error):
        connection.cursor().execute("SELECT WHERE_ FROM PROD.FEATURES.HERE")
    assert place.entries("session.opened")[-1]["account"] == "HOOPDEV"


def test_an_account_that_is_not_served_is_refused_without_naming_those_that_are(
    place: Place,
) -> None:
    with pytest.raises(DatabaseError) as refused:
        place.connect(account="somebody-elses")
    assert refused.value.errno in {250001, 390100}
    for name in ("hoopdev", "acme"):
        assert name not in str(refused.value).lower()


def test_each_statement_of_such_a_role_has_a_user_of_its_own(place: Place) -> None:
    with place.connect("pia") as connection:
        cursor = connection.cursor()
        cursor.execute("USE SCHEMA PROD.FEATURES")
        cursor.execute("ALTER SESSION SET TIMEZONE = 'UTC'")
        cursor.execute("SELECT COUNT(*) AS FIRST_ONE FROM PROD.CRM.CUSTOMERS")
        cursor.execute("SELECT COUNT(*) AS SECOND_ONE FROM PROD.CRM.CUSTOMERS")
        first, second = place.user_of("FIRST_ONE"), place.user_of("SECOND_ONE")
        assert first != second
        until(lambda: not {first, second} & place.users())
        intent = [i for i in place.entries("statement.intent") if "SECOND_ONE" in i["sql"]][-1]
        assert (intent["schema"], intent["settings"]) == ("FEATURES", {"TIMEZONE": "UTC"})


@pytest.mark.parametrize(
    "sql", ["BEGIN", "CREATE TEMPORARY TABLE PROD.FEATURES.T AS SELECT 1 AS X"]
)
def test_what_rests_on_its_session_is_refused_for_such_a_role(place: Place, sql: str) -> None:
    with place.connect("pia") as connection, pytest.raises(Error, match="session"):
        connection.cursor().execute(sql)


def test_a_result_in_parts_is_fetched_before_its_user_goes(place: Place) -> None:
    with place.connect("pia") as connection:
        rows = connection.cursor().execute("SELECT * FROM PROD.CRM.ORDERS").fetchall()
        assert len(rows) > 1000
        user = place.user_of("CRM.ORDERS")
        until(lambda: user not in place.users(), seconds=10)


def test_an_idle_user_is_ended_and_the_session_goes_on_with_another(place: Place) -> None:
    with place.connect() as connection:
        cursor = connection.cursor()
        cursor.execute("USE SCHEMA PROD.FEATURES")
        cursor.execute("SELECT 1 AS BEFORE_THE_PAUSE FROM PROD.CRM.CUSTOMERS LIMIT 1")
        first = place.user_of("BEFORE_THE_PAUSE")
        until(lambda: first not in place.users())
        cursor.execute("SELECT 1 AS AFTER_THE_PAUSE FROM PROD.CRM.CUSTOMERS LIMIT 1")
        assert place.user_of("AFTER_THE_PAUSE") != first
        assert place.entries("statement.intent")[-1]["schema"] == "FEATURES"


def test_an_open_transaction_keeps_its_user(place: Place) -> None:
    with place.connect() as connection:
        cursor = connection.cursor()
        cursor.execute("BEGIN")
        cursor.execute("SELECT 1 AS IN_TRANSACTION FROM PROD.CRM.CUSTOMERS LIMIT 1")
        user = place.user_of("IN_TRANSACTION")
        with place.connect() as waiting:  # another session goes idle and loses its user meanwhile
            waiting.cursor().execute("SELECT 1 AS OTHER_ONE FROM PROD.CRM.CUSTOMERS LIMIT 1")
            other = place.user_of("OTHER_ONE")
            until(lambda: other not in place.users())
        assert user in place.users()
        cursor.execute("COMMIT")
        until(lambda: user not in place.users())
