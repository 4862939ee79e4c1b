"""The stand-in's views: SHOW VIEWS, GET_DDL and DESCRIBE VIEW, and who may see what of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import snowflake.connector
from snowflake.connector import DictCursor, SnowflakeConnection
from snowflake.connector.errors import Error

from hoop_core.devstack.emulator.process import Running, key_pair, running

pytestmark = pytest.mark.e2e


class Caller:
    """Statements in a session of one role."""

    def __init__(self, connection: SnowflakeConnection) -> None:
        self._connection = connection

    def rows(self, sql: str) -> list[dict[str, Any]]:
        return list(self._connection.cursor(DictCursor).execute(sql).fetchall())  # type: ignore[arg-type]

    def value(self, sql: str) -> Any:
        return self._connection.cursor().execute(sql).fetchall()[0][0]

    def fails(self, sql: str) -> int:
        with pytest.raises(Error) as caught:
            self.rows(sql)
        return caught.value.errno or 0


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("emulator")) as found:
        yield found


@pytest.fixture(scope="module")
def admin(emulator: Running) -> Iterator[Caller]:
    with snowflake.connector.connect(
        **emulator.options(database="PROD", schema="CRM")
    ) as connection:
        caller = Caller(connection)
        caller.rows('CREATE VIEW V AS SELECT CUSTOMER_ID, EMAIL AS "e Mail" FROM CUSTOMERS')
        caller.rows(
            "CREATE OR REPLACE SECURE VIEW S (A) COMMENT = 'it is' AS SELECT COUNT(*) FROM ORDERS"
        )
        yield caller


@pytest.fixture(scope="module")
def reader(emulator: Running, admin: Caller) -> Iterator[Callable[[str], Caller]]:
    """A session of a new role that holds one privilege on both views."""
    private, public = key_pair()
    opened: list[SnowflakeConnection] = []

    def get(privilege: str) -> Caller:
        role = f"R_{privilege or 'NONE'}"
        admin.rows(f"CREATE ROLE {role}")
        for grant in (
            "USAGE ON DATABASE PROD",
            "USAGE ON SCHEMA PROD.CRM",
            "USAGE ON WAREHOUSE ML_WH",
        ):
            admin.rows(f"GRANT {grant} TO ROLE {role}")
        for view in ("V", "S") if privilege else ():
            admin.rows(f"GRANT {privilege} ON VIEW PROD.CRM.{view} TO ROLE {role}")
        admin.rows(
            f"CREATE USER U_{role} TYPE = SERVICE RSA_PUBLIC_KEY = '{public}' DEFAULT_ROLE = {role}"
        )
        admin.rows(f"GRANT ROLE {role} TO USER U_{role}")
        connection = snowflake.connector.connect(
            **emulator.options(user=f"U_{role}", private_key=private)
        )
        opened.append(connection)
        return Caller(connection)

    yield get
    for connection in opened:
        connection.close()


TEXT = 'create or replace view V(\n\tCUSTOMER_ID,\n\t"e Mail"\n) as SELECT CUSTOMER_ID, EMAIL AS "e Mail" FROM CUSTOMERS;'


def test_get_ddl_gives_the_text_with_the_columns(admin: Caller) -> None:
    assert admin.value("SELECT GET_DDL('VIEW', 'V')") == TEXT
    assert admin.value("""SELECT GET_DDL('view', '"PROD"."CRM"."V"')""") == TEXT
    full = admin.value("SELECT GET_DDL('VIEW', 'CRM.V', TRUE)")
    assert full == TEXT.replace("view V(", "view PROD.CRM.V(")


def test_the_text_makes_the_view_again(admin: Caller) -> None:
    before = admin.rows("DESCRIBE VIEW V")
    admin.rows(str(admin.value("SELECT GET_DDL('VIEW', 'V')")))
    assert admin.rows("DESCRIBE VIEW V") == before
    assert [r["name"] for r in before] == ["CUSTOMER_ID", "e Mail"]
    assert admin.value("SELECT GET_DDL('VIEW', 'V')") == TEXT


def test_show_views_tells_what_is_secure(admin: Caller) -> None:
    listed = {r["name"]: r for r in admin.rows("SHOW VIEWS IN SCHEMA PROD.CRM")}
    assert (listed["V"]["is_secure"], listed["S"]["is_secure"]) == ("false", "true")
    assert {r["is_materialized"] for r in listed.values()} == {"false"}
    assert listed["V"]["text"] == TEXT and listed["V"]["owner"] == "ACCOUNTADMIN"
    assert (
        listed["S"]["text"].startswith("create or replace secure view S(")
        and listed["S"]["comment"] == "it is"
    )
    assert [r["name"] for r in admin.rows("SHOW VIEWS LIKE 's' IN SCHEMA PROD.CRM")] == ["S"]
    assert "V" not in {r["name"] for r in admin.rows("SHOW TABLES IN SCHEMA PROD.CRM")}


@pytest.mark.parametrize("privilege", ["SELECT", "REFERENCES"])
def test_a_reader_sees_the_text_of_an_ordinary_view_only(
    privilege: str, reader: Callable[[str], Caller]
) -> None:
    caller = reader(privilege)
    listed = {r["name"]: r["text"] for r in caller.rows("SHOW VIEWS IN SCHEMA PROD.CRM")}
    assert listed == {"V": TEXT, "S": ""}
    assert caller.value("SELECT GET_DDL('VIEW', 'PROD.CRM.V')") == TEXT
    assert caller.fails("SELECT GET_DDL('VIEW', 'PROD.CRM.S')") == 2003
    assert len(caller.rows("DESCRIBE VIEW PROD.CRM.S")) == 1


def test_who_holds_nothing_sees_nothing(reader: Callable[[str], Caller]) -> None:
    caller = reader("")
    assert caller.rows("SHOW VIEWS IN SCHEMA PROD.CRM") == []
    assert caller.fails("SELECT GET_DDL('VIEW', 'PROD.CRM.V')") == 2003
    assert caller.fails("DESCRIBE VIEW PROD.CRM.V") == 2003


@pytest.mark.parametrize(
    ("sql", "errno"),
    [
        ("SELECT GET_DDL('VIEW', 'PROD.CRM.NONE')", 2003),
        ("SELECT GET_DDL('VIEW', 'PROD.CRM.CUSTOMERS')", 2003),
        ("SELECT GET_DDL('TABLE', 'PROD.CRM.CUSTOMERS')", 2),
        ("SELECT GET_DDL('VIEW')", 1008),
        ("SELECT GET_DDL(1, 2)", 1008),
        ("SELECT GET_DDL('VIEW', 'a b; c')", 1003),
        ("SELECT GET_DDL('VIEW', 'V') || 'x'", 2),
        ("SELECT GET_DDL('VIEW', 'V') FROM ORDERS", 2),
    ],
)
def test_other_uses_of_get_ddl_fail(admin: Caller, sql: str, errno: int) -> None:
    assert admin.fails(sql) == errno


def test_a_view_runs_with_its_owners_rights_and_resolves_names_in_its_own_schema(
    admin: Caller, reader: Callable[[str], Caller]
) -> None:
    admin.rows("CREATE VIEW PROD.FEATURES.F AS SELECT COUNT(*) AS N FROM CHURN_STAGING")
    assert admin.value("SELECT N FROM PROD.FEATURES.F") > 0
    admin.rows("CREATE ROLE R_OWNED")
    admin.rows("GRANT SELECT ON VIEW PROD.FEATURES.F TO ROLE R_OWNED")


def test_future_grants_on_tables_and_on_views_are_two_things(admin: Caller) -> None:
    admin.rows("CREATE ROLE R_FUTURE")
    admin.rows("GRANT SELECT ON FUTURE TABLES IN SCHEMA PROD.FEATURES TO ROLE R_FUTURE")
    admin.rows("GRANT REFERENCES ON FUTURE VIEWS IN SCHEMA PROD.FEATURES TO ROLE R_FUTURE")
    admin.rows("CREATE TABLE PROD.FEATURES.FT (A NUMBER)")
    admin.rows("CREATE VIEW PROD.FEATURES.FV AS SELECT A FROM FT")
    granted = {(r["name"], r["privilege"]) for r in admin.rows("SHOW GRANTS TO ROLE R_FUTURE")}
    assert ("PROD.FEATURES.FT", "SELECT") in granted
    assert ("PROD.FEATURES.FV", "REFERENCES") in granted
    assert not granted & {("PROD.FEATURES.FV", "SELECT"), ("PROD.FEATURES.FT", "REFERENCES")}


def test_show_tables_tells_the_size(admin: Caller) -> None:
    admin.rows("CREATE TABLE PROD.CRM.SIZED AS SELECT CUSTOMER_ID FROM CUSTOMERS LIMIT 7")
    (row,) = admin.rows("SHOW TABLES LIKE 'SIZED' IN SCHEMA PROD.CRM")
    assert int(row["rows"]) == 7 and int(row["bytes"]) > 0


def test_a_dropped_view_is_forgotten_with_its_text(admin: Caller) -> None:
    admin.rows("CREATE VIEW GONE AS SELECT 1 AS A")
    admin.rows("DROP VIEW GONE")
    assert admin.fails("SELECT GET_DDL('VIEW', 'GONE')") == 2003
    assert "GONE" not in {r["name"] for r in admin.rows("SHOW VIEWS IN SCHEMA PROD.CRM")}
