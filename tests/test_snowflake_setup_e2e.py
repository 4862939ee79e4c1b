"""A column under a `hash` mask through the whole stack, and a stack whose address is not allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest
import snowflake.connector
from snowflake.connector.errors import DatabaseError, ProgrammingError

from hoop_core.config import load_settings
from hoop_core.credentials.vault import VaultMinter
from hoop_core.devstack.stack import DevStack
from hoop_core.errors import SnowflakeError
from hoop_core.model import RoleBinding
from hoop_core.snowflake.http import SnowflakeHttp
from hoop_core.snowflake.session import open_session

pytestmark = pytest.mark.e2e
Rows = list[tuple[Any, ...]]
Run = Callable[[str], Rows]

POLICY = """
version: 1
hash_function: governance.hoop.mask_hash
roles:
  - {groups: [ml-agents], vault_role: ml-reader, snowflake_role: ML_READER, warehouse: ML_WH}
masks:
  - {columns: ["PROD.CRM.PEOPLE.NAME"], mask: hash, domain: people}
  - {columns: ["PROD.CRM.PEOPLE.FRIEND"], mask: hash, domain: people}
  - {columns: ["PROD.CRM.PEOPLE.ALIAS"], mask: hash, domain: other}
rules:
  - {name: read, groups: [ml-agents], reads: ["PROD.CRM.*", "PROD.FEATURES.*"], then: allow}
  - {name: write, groups: [ml-agents], kinds: [create_table_as], writes: ["PROD.FEATURES.*"], then: allow}
  - {name: go, groups: [ml-agents], kinds: [session], then: allow}
"""
PEOPLE = """
CREATE TABLE PROD.CRM.PEOPLE AS
SELECT 1 AS ID, 'jane@secret.example' AS NAME, 'jim@secret.example' AS FRIEND,
    'jane@secret.example' AS ALIAS
UNION ALL SELECT 2, 'jim@secret.example', 'jane@secret.example', NULL
UNION ALL SELECT 3, NULL, 'nobody', 'x'
"""


def connected(**options: Any) -> snowflake.connector.SnowflakeConnection:
    return snowflake.connector.connect(protocol="http", login_timeout=20, **options)


@pytest.fixture(scope="module")
def hashing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    folder = tmp_path_factory.mktemp("hashing")
    policy = folder / "hashing.yaml"
    policy.write_text(POLICY)
    with DevStack(folder / "home", policy=policy) as running:
        yield running


@pytest.fixture(scope="module")
def admin(hashing: DevStack) -> Iterator[Run]:
    info = hashing.info
    connection = connected(
        host=info.snowflake_host,
        port=info.snowflake_port,
        account=info.snowflake_account,
        user=info.admin_user,
        password=info.admin_password,
    )
    run = lambda sql: connection.cursor().execute(sql).fetchall()  # noqa: E731
    run("USE ROLE SYSADMIN")
    run(PEOPLE)
    run("USE ROLE ACCOUNTADMIN")
    yield run
    connection.close()


@pytest.fixture
def agent(hashing: DevStack, admin: Run) -> Iterator[Run]:
    info = hashing.info
    connection = connected(
        host=info.gateway_host,
        port=info.gateway_port,
        account="hoopdev",
        user="whoever",
        authenticator="oauth",
        token=hashing.token("churn-agent"),
        database="PROD",
        schema="CRM",
    )
    yield lambda sql: connection.cursor().execute(sql).fetchall()
    connection.close()


def test_equal_values_hash_alike_within_a_domain_and_null_stays_null(agent: Run) -> None:
    rows = agent("SELECT NAME, FRIEND, ALIAS FROM PEOPLE ORDER BY ID")
    (jane, jim, jane_elsewhere), (jim2, jane2, nothing), (null, *_) = rows
    assert (jane, jim) == (jane2, jim2) and jane != jim
    assert jane_elsewhere != jane
    assert null is None and nothing is None
    assert len(jane) == 64 and set(jane) <= set("0123456789abcdef")


def test_hashes_join_and_can_be_written(agent: Run) -> None:
    pairs = agent(
        "SELECT a.ID, b.ID FROM PEOPLE a JOIN PEOPLE b ON a.NAME = b.FRIEND ORDER BY a.ID"
    )
    assert pairs == [(1, 2), (2, 1)]
    agent("CREATE TABLE PROD.FEATURES.COPIED AS SELECT NAME FROM PROD.CRM.PEOPLE")
    copied = agent("SELECT NAME FROM PROD.FEATURES.COPIED WHERE NAME IS NOT NULL")
    assert copied and all(len(r[0]) == 64 for r in copied)


def test_the_function_is_called_by_its_full_name_from_wherever_the_session_stands(
    agent: Run, admin: Run
) -> None:
    before = agent("SELECT NAME FROM PROD.CRM.PEOPLE WHERE ID = 1")
    agent("USE SCHEMA PROD.FEATURES")
    assert agent("SELECT NAME FROM PROD.CRM.PEOPLE WHERE ID = 1") == before
    sent = admin(
        "SELECT QUERY_TEXT FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY "
        "WHERE QUERY_TEXT LIKE '%PEOPLE%' AND ROLE_NAME = 'ML_READER'"
    )
    masked = [str(r[0]) for r in sent if "_g." in str(r[0])]
    assert masked and all("GOVERNANCE.HOOP.MASK_HASH(_g." in text for text in masked)


def test_a_caller_cannot_ask_the_function_for_the_hash_of_a_guess(agent: Run) -> None:
    for sql in (
        "SELECT GOVERNANCE.HOOP.MASK_HASH('jane@secret.example', 'people')",
        "SELECT MASK_HASH('jane@secret.example', 'people')",
        "SELECT * FROM GOVERNANCE.HOOP.HASH_KEY",
    ):
        with pytest.raises(ProgrammingError):
            agent(sql)


def test_neither_key_nor_value_is_in_the_query_history(agent: Run, admin: Run) -> None:
    agent("SELECT NAME FROM PEOPLE WHERE ID = 1")
    admin("USE ROLE HOOP_GOVERNANCE")
    key = str(admin("SELECT SECRET FROM GOVERNANCE.HOOP.HASH_KEY")[0][0])
    admin("USE ROLE ACCOUNTADMIN")
    texts = admin("SELECT QUERY_TEXT FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY")
    assert texts and not any(key[:16] in str(t[0]) or key[-16:] in str(t[0]) for t in texts)


def test_a_minted_key_is_refused_once_another_address_is_hoops(
    hashing: DevStack, admin: Run
) -> None:
    """The lease is real, the key is right, the address is wrong."""
    settings = load_settings(hashing.info.config_file)
    minter = VaultMinter(settings.vault)
    lease = minter.mint(minter.draft(RoleBinding("ml-reader", "ML_READER", "ML_WH"), "leaked"))

    async def sign_in() -> str:
        async with aclosing(SnowflakeHttp(settings.snowflake)) as http:
            session = await open_session(http, settings.snowflake, lease)
            await session.close()
            return session.session_id

    rule = "ALTER NETWORK RULE GOVERNANCE.HOOP.HOOP_ADDRESSES SET VALUE_LIST = "
    try:
        assert asyncio.run(sign_in())
        admin(rule + "('203.0.113.7')")
        with pytest.raises(SnowflakeError, match=r"127\.0\.0\.1 is not allowed") as caught:
            asyncio.run(sign_in())
        assert caught.value.errno == 390422
    finally:
        admin(rule + "('127.0.0.1/32')")
        minter.revoke(lease)


def test_a_gateway_outside_its_own_address_says_so_and_runs_nothing(
    hashing: DevStack, admin: Run, agent: Run
) -> None:
    rule = "ALTER NETWORK RULE GOVERNANCE.HOOP.HOOP_ADDRESSES SET VALUE_LIST = "
    admin(rule + "('203.0.113.7')")
    try:
        with pytest.raises(DatabaseError, match="is not allowed to access Snowflake"):
            agent("SELECT ID FROM PEOPLE WHERE ID = 424242")
    finally:
        admin(rule + "('127.0.0.1/32')")
    ran = admin(
        "SELECT COUNT(*) FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY "
        "WHERE QUERY_TEXT LIKE '%424242%' AND ROLE_NAME = 'ML_READER'"
    )
    assert ran == [(0,)]
