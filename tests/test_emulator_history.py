"""ACCOUNT_USAGE in the stand-in: who signed in and who ran what, without latency."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import snowflake.connector
from snowflake.connector.errors import Error

from hoop_core.devstack.emulator.process import Running, running

pytestmark = pytest.mark.e2e

Run = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("emulator"), "--no-demo-data") as found:
        yield found


@pytest.fixture
def admin(emulator: Running) -> Iterator[Run]:
    # Without the demo world there is no warehouse to begin with.
    with snowflake.connector.connect(**emulator.options()) as connection:

        def run(sql: str) -> list[tuple[Any, ...]]:
            return [tuple(r) for r in connection.cursor().execute(sql).fetchall()]

        run("CREATE WAREHOUSE IF NOT EXISTS W")
        run("USE WAREHOUSE W")
        yield run


def test_every_sign_in_is_kept_with_its_factor_and_outcome(emulator: Running, admin: Run) -> None:
    options = emulator.options(user=emulator.vault_user, private_key=emulator.vault_key)
    snowflake.connector.connect(**options).close()
    emulator.sign_in({"PASSWORD": "wrong"})
    emulator.sign_in({"LOGIN_NAME": "nobody"})
    emulator.sign_in({"AUTHENTICATOR": "OAUTH", "TOKEN": "x"})
    emulator.sign_in(query="&roleName=NOPE")
    got = admin(
        "SELECT USER_NAME, FIRST_AUTHENTICATION_FACTOR, IS_SUCCESS, ERROR_CODE "
        "FROM SNOWFLAKE.ACCOUNT_USAGE.LOGIN_HISTORY ORDER BY EVENT_TIMESTAMP DESC LIMIT 5"
    )
    assert got[::-1] == [
        ("VAULT_MINTER_SVC", "RSA_KEYPAIR", "YES", None),
        ("HOOP_ADMIN", "PASSWORD", "NO", "390100"),
        ("NOBODY", "PASSWORD", "NO", "390100"),
        ("HOOP_ADMIN", "OAUTH_ACCESS_TOKEN", "NO", "390303"),
        ("HOOP_ADMIN", "PASSWORD", "NO", "390189"),
    ]


def test_every_query_is_kept_with_who_as_what_and_how_it_ended(admin: Run) -> None:
    admin("ALTER SESSION SET QUERY_TAG = '{\"run\": 1}'")
    admin("SELECT 41 + 1")
    with pytest.raises(Error):
        admin("SELECT * FROM NOPE.NOPE.NOPE")
    got = admin(
        "SELECT QUERY_TEXT, USER_NAME, ROLE_NAME, WAREHOUSE_NAME, QUERY_TYPE, EXECUTION_STATUS, "
        "ERROR_CODE, ROWS_PRODUCED, START_TIME <= END_TIME, QUERY_ID LIKE '01%', "
        "SESSION_ID = CURRENT_SESSION()::NUMBER FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY "
        "WHERE QUERY_TAG = '{\"run\": 1}' ORDER BY START_TIME"
    )
    who = ("HOOP_ADMIN", "ACCOUNTADMIN", "W", "SELECT")
    assert got == [
        ("SELECT 41 + 1", *who, "SUCCESS", None, 1, True, True, True),
        ("SELECT * FROM NOPE.NOPE.NOPE", *who, "FAIL", "002003", None, True, True, True),
    ]


def test_the_history_holds_no_passwords(admin: Run) -> None:
    admin("CREATE USER KEPT PASSWORD = 'hush-hush' COMMENT = 'c'")
    admin("ALTER USER KEPT SET PASSWORD='hush-hush-2'")
    admin("DROP USER KEPT")
    texts = [r[0] for r in admin("SELECT QUERY_TEXT FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY")]
    assert not any("hush" in t for t in texts)
    assert "CREATE USER KEPT PASSWORD = '*****' COMMENT = 'c'" in texts


def test_the_history_can_only_be_read_and_only_by_who_may(admin: Run, emulator: Running) -> None:
    for sql in (
        "DELETE FROM SNOWFLAKE.ACCOUNT_USAGE.LOGIN_HISTORY",
        "INSERT INTO SNOWFLAKE.ACCOUNT_USAGE.LOGIN_HISTORY (EVENT_ID) VALUES (1)",
        "DROP TABLE SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY",
        "CREATE TABLE SNOWFLAKE.ACCOUNT_USAGE.X (A INT)",
        "DROP DATABASE SNOWFLAKE",
        "SELECT * FROM SNOWFLAKE.ACCOUNT_USAGE.NOPE",
    ):
        with pytest.raises(Error):
            admin(sql)
    admin("CREATE ROLE AUDITOR")
    admin("CREATE USER AUDITOR PASSWORD = 'pw' DEFAULT_ROLE = AUDITOR DEFAULT_WAREHOUSE = W")
    admin("GRANT ROLE AUDITOR TO USER AUDITOR")
    admin("GRANT USAGE ON WAREHOUSE W TO ROLE AUDITOR")
    options = emulator.options(user="AUDITOR", password="pw")
    sql = "SELECT COUNT(*) > 0 FROM SNOWFLAKE.ACCOUNT_USAGE.LOGIN_HISTORY"
    with snowflake.connector.connect(**options) as connection:
        with pytest.raises(Error):
            connection.cursor().execute(sql)
        admin("GRANT IMPORTED PRIVILEGES ON DATABASE SNOWFLAKE TO ROLE AUDITOR")
        assert connection.cursor().execute(sql).fetchall() == [(True,)]


def test_describing_is_not_in_the_history(admin: Run, emulator: Running) -> None:
    token = emulator.sign_in()["data"]["token"]
    emulator.query(token, "SELECT 'only described'", describeOnly=True)
    sql = "SELECT COUNT(*) FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY WHERE QUERY_TEXT = 'SELECT ''only described'''"
    assert admin(sql) == [(0,)]
