"""Views through the real stack: made by an administrator behind Hoop, read by the agent through it."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from snowflake.connector.errors import ProgrammingError

from hoop_core.client import HoopClient, token_source

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.e2e
Connect = Callable[..., "SnowflakeConnection"]
Behind = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture
def view(behind: Behind) -> Iterator[Callable[[str, str], str]]:
    """Make a view in PROD.CRM as the administrator; the agent's role gets no privilege on it."""
    made: list[str] = []

    def make(query: str, secure: str = "") -> str:
        name = f"PROD.CRM.V_{uuid.uuid4().hex[:10].upper()}"
        behind(f"CREATE {secure} VIEW {name} AS {query}")
        made.append(name)
        return name

    yield make
    for name in made:
        behind(f"DROP VIEW IF EXISTS {name}")


def rows(connection: SnowflakeConnection, sql: str) -> list[Any]:
    return connection.cursor().execute(sql).fetchall()


def entries(stack: DevStack, mark: str) -> list[dict[str, Any]]:
    """The log entries of the newest session that are about one statement."""
    with HoopClient(stack.info.gateway_url, token_source(stack.token("alice"))) as hoop:
        logged = list(hoop.session(hoop.sessions()[0]["id"])["entries"])
    first = next(e for e in logged if mark in json.dumps(e["data"]))
    wanted = first["data"]["statement_id"]
    return [e for e in logged if e["data"].get("statement_id") == wanted]


def test_a_view_over_a_protected_table_is_read_masked(
    connect: Connect, behind: Behind, stack: DevStack, view: Callable[..., str]
) -> None:
    name = view("SELECT CUSTOMER_ID AS K, EMAIL AS CONTACT, SSN FROM CUSTOMERS WHERE REGION = 'EU'")
    sql = f"SELECT K, CONTACT, SSN FROM {name} WHERE K < 200 ORDER BY K"
    true, seen = behind(sql), rows(connect(), sql)
    assert len(seen) == len(true) > 0
    for (k, contact, ssn), (true_k, true_contact, true_ssn) in zip(seen, true, strict=True):
        assert k == true_k and ssn is None and true_ssn is not None
        assert contact == "***@" + true_contact.split("@")[1]
    intent = next(e for e in entries(stack, name.split(".")[2]) if e["kind"] == "statement.intent")
    assert set(intent["data"]["reads"]) == {name, "PROD.CRM.CUSTOMERS"}
    assert "_view1" in intent["data"]["executed"]


def test_a_view_over_open_columns_shows_what_it_shows(
    connect: Connect, behind: Behind, view: Callable[..., str]
) -> None:
    name = view("SELECT STATUS, COUNT(*) AS N FROM ORDERS GROUP BY STATUS")
    sql = f"SELECT * FROM {name} ORDER BY 1"
    assert rows(connect(), sql) == behind(sql)


def test_a_view_made_anew_behind_hoop_shows_nothing_that_was_not_decided_on(
    connect: Connect, behind: Behind, view: Callable[..., str]
) -> None:
    name = view("SELECT STATUS AS S FROM ORDERS")
    connection, sql = connect(), f"SELECT MAX(S) FROM {name}"
    before = rows(connection, sql)
    behind(f"CREATE OR REPLACE VIEW {name} AS SELECT SSN AS S FROM CUSTOMERS")
    assert rows(connection, sql) == before


def test_a_view_upon_a_view_keeps_the_masks(connect: Connect, view: Callable[..., str]) -> None:
    inner = view("SELECT CUSTOMER_ID, SSN AS S FROM CUSTOMERS")
    outer = view(f"SELECT MAX(S) AS S, COUNT(S) AS N FROM {inner}")
    assert rows(connect(), f"SELECT S, N FROM {outer}") == [(None, 0)]


def test_a_secure_view_is_denied_and_the_reason_says_so(
    connect: Connect, view: Callable[..., str]
) -> None:
    name = view("SELECT CUSTOMER_ID FROM CUSTOMERS", "SECURE")
    with pytest.raises(ProgrammingError, match="secure view"):
        rows(connect(), f"SELECT * FROM {name}")


def test_a_view_over_an_ungranted_table_is_denied(
    connect: Connect, view: Callable[..., str]
) -> None:
    name = view("SELECT EMPLOYEE_ID FROM PROD.HR.SALARIES")
    with pytest.raises(ProgrammingError, match=r"PROD\.HR\.SALARIES"):
        rows(connect(), f"SELECT * FROM {name}")


def test_a_column_that_went_away_is_looked_for_once_and_the_statement_runs_anew(
    connect: Connect, behind: Behind, stack: DevStack
) -> None:
    name = f"PROD.FEATURES.T_{uuid.uuid4().hex[:10].upper()}"
    behind(f"CREATE TABLE {name} (A NUMBER, B NUMBER)")
    try:
        behind(f"INSERT INTO {name} VALUES (1, 2)")
        base = view_of = f"PROD.CRM.V_{uuid.uuid4().hex[:10].upper()}"
        behind(
            f"CREATE VIEW {view_of} AS SELECT C.SSN, T.A FROM {name} T JOIN CUSTOMERS C ON C.CUSTOMER_ID = T.A"
        )
        connection = connect()
        assert rows(connection, f"SELECT SSN, A FROM {base}") == [(None, 1)]
        behind(f"ALTER TABLE {name} DROP COLUMN A")
        behind(
            f"CREATE OR REPLACE VIEW {base} AS SELECT C.SSN, T.B AS A FROM {name} T JOIN CUSTOMERS C ON C.CUSTOMER_ID = T.B"
        )
        mark = uuid.uuid4().hex
        assert rows(connection, f"SELECT SSN, A FROM {base} /* {mark} */") == [(None, 2)]
        logged = entries(stack, mark)
        kinds = ["statement.intent", "statement.outcome"] * 2
        assert [e["kind"] for e in logged] == kinds
        assert [e["data"]["status"] for e in logged[1::2]] == ["failed", "succeeded"]
        assert logged[1]["data"]["intent"] != logged[3]["data"]["intent"]
        assert logged[0]["data"]["executed"] != logged[2]["data"]["executed"]
    finally:
        behind(f"DROP VIEW IF EXISTS {base}")
        behind(f"DROP TABLE IF EXISTS {name}")


def test_an_identifier_that_never_was_fails_once(connect: Connect, stack: DevStack) -> None:
    connection, mark = connect(), uuid.uuid4().hex
    with pytest.raises(ProgrammingError) as caught:
        rows(connection, f"SELECT NO_SUCH_COLUMN FROM CUSTOMERS /* {mark} */")
    assert caught.value.errno == 904
    assert [e["kind"] for e in entries(stack, mark)] == ["statement.intent", "statement.outcome"]


def test_many_at_once_ask_snowflake_once(
    connect: Connect, behind: Behind, view: Callable[..., str]
) -> None:
    name = view("SELECT STATUS FROM ORDERS")
    connections = [connect() for _ in range(4)]
    for connection in connections:
        rows(connection, "SELECT 1")
    threads = [
        threading.Thread(target=rows, args=(c, f"SELECT COUNT(*) FROM {name}")) for c in connections
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    history = behind("SELECT QUERY_TEXT FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY")
    last = name.split(".")[2]
    assert sum("GET_DDL" in text and last in text for (text,) in history) == 1
