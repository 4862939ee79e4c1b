"""Temporary tables of a session: a name means one object, and what is read are its own columns."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from snowflake.connector import ProgrammingError, SnowflakeConnection

from hoop_core.judge import judge_text
from hoop_core.model import Identity, NameContext, Outcome, RunContext, TableName, Verdict
from hoop_core.policy.file import parse_policy
from hoop_core.session.temporary import with_temporary
from hoop_core.sql.catalog import Catalog, CatalogObject
from tests.clients_world import ClientsWorld

TMP = TableName("PROD", "FEATURES", "TMP")
KEPT = TableName("PROD", "FEATURES", "KEPT")
PERMANENT = Catalog.from_mapping({KEPT: {"A": "NUMBER", "EMAIL": "VARCHAR"}})
OWN = {TMP: CatalogObject({"A": "NUMBER(38,0)", "EMAIL": "VARCHAR"}, temporary=True)}
RULES = """
version: 1
rules:
  - {name: read, groups: [agents], reads: ["PROD.FEATURES.*"], then: allow}
  - name: write
    groups: [agents]
    kinds: [insert, update, delete, merge, truncate, create_table, create_table_as, alter_table, drop_table]
    writes: ["PROD.FEATURES.*"]
    then: allow
"""


def ask(sql: str, head: str = "", own: dict[TableName, CatalogObject] = OWN) -> Verdict:
    return judge_text(
        sql,
        NameContext("PROD", "FEATURES"),
        identity=Identity("https://issuer", "sub", "agent", ("agents",), "oidc", "digest"),
        policy=parse_policy(RULES + head, "p.yaml"),
        catalog=with_temporary(PERMANENT, [TMP, KEPT], own),
        run=RunContext(),
        now=datetime(2026, 3, 2, 10, tzinfo=UTC),
    )


def code(verdict: Verdict) -> str:
    assert verdict.decision.outcome is Outcome.DENY
    return verdict.decision.reasons[0].code


def test_a_read_lists_the_columns_of_the_temporary_table() -> None:
    assert ask("SELECT * FROM tmp").rewritten == (
        'SELECT * FROM (SELECT _g."A" AS "A", _g."EMAIL" AS "EMAIL" FROM "PROD"."FEATURES"."TMP" AS _g) AS "TMP"'
    )


def test_masks_that_name_its_columns_bind() -> None:
    verdict = ask("SELECT email FROM tmp", 'masks:\n  - {columns: ["*.*.*.EMAIL"], mask: "null"}\n')
    assert [m.column for m in verdict.decision.masked] == ["EMAIL"]
    assert 'NULL::VARCHAR AS "EMAIL"' in (verdict.rewritten or "")


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO tmp SELECT a, email FROM tmp",
        "INSERT INTO tmp VALUES (1, 'x')",
        "DELETE FROM tmp WHERE a = 1",
        "UPDATE tmp SET a = 2 WHERE a = 1",
        "MERGE INTO kept USING tmp ON kept.a = tmp.a WHEN MATCHED THEN DELETE",
        "CREATE OR REPLACE TEMPORARY TABLE tmp (b INT)",
        "CREATE TEMP TABLE other AS SELECT 1 AS a",
        "DROP TABLE tmp",
    ],
)
def test_it_is_written_made_anew_and_dropped(sql: str) -> None:
    assert ask(sql).decision.outcome is Outcome.ALLOW


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TEMPORARY TABLE kept (a INT)",
        "CREATE OR REPLACE TEMP TABLE kept AS SELECT 1 AS a",
        "CREATE TABLE tmp (a INT)",
        "CREATE OR REPLACE TRANSIENT TABLE tmp AS SELECT 1 AS a",
        "ALTER TABLE tmp ADD COLUMN c INT",
    ],
)
def test_a_name_never_comes_to_mean_two_tables(sql: str) -> None:
    assert code(ask(sql)) == "TEMPORARY_NAME"


def test_if_not_exists_could_leave_another_table_in_its_place() -> None:
    assert code(ask("CREATE TEMP TABLE IF NOT EXISTS t2 (a INT)")) == "UNSERVED_STATEMENT"


@pytest.mark.parametrize("sql", ["SELECT * FROM kept", "INSERT INTO kept VALUES (1, 'x')"])
def test_a_name_that_means_two_tables_is_refused(sql: str) -> None:
    both = {KEPT: CatalogObject({"A": "NUMBER"}, temporary=True)}
    verdict = ask(sql, own=both)
    assert code(verdict) == "VIEW_NOT_UNDERSTOOD"
    assert "temporary table of this session" in verdict.decision.reasons[0].message


def test_it_is_another_object_to_a_decision_than_a_table_like_it() -> None:
    columns = {"A": "NUMBER"}
    assert CatalogObject(columns).digest != CatalogObject(columns, temporary=True).digest


# ------------------------------------------------------------------ on a running stack


@pytest.fixture
def connection(clients: ClientsWorld) -> Iterator[SnowflakeConnection]:
    with clients.connect(schema="FEATURES") as opened:
        yield opened


@pytest.mark.e2e
def test_what_it_holds_is_masked_and_its_session_alone_has_it(
    clients: ClientsWorld, connection: SnowflakeConnection
) -> None:
    name = f"T_{uuid.uuid4().hex[:8].upper()}"
    cursor = connection.cursor()
    cursor.execute(
        f"CREATE TEMPORARY TABLE {name} AS SELECT CUSTOMER_ID, SSN FROM PROD.CRM.CUSTOMERS"
    )
    cursor.execute(f"SELECT COUNT(*), COUNT(SSN) FROM {name}")
    assert cursor.fetchall() == [(50_000, 0)]
    with clients.connect(schema="FEATURES") as other, pytest.raises(ProgrammingError) as caught:
        other.cursor().execute(f"SELECT * FROM {name}")
    assert caught.value.errno == 2003
    cursor.execute(f"DROP TABLE {name}")
    with pytest.raises(ProgrammingError) as caught:
        cursor.execute(f"SELECT * FROM {name}")
    assert caught.value.errno == 2003


@pytest.mark.e2e
def test_a_table_that_others_make_under_its_name_takes_it_out_of_use(
    clients: ClientsWorld, connection: SnowflakeConnection
) -> None:
    name = f"T_{uuid.uuid4().hex[:8].upper()}"
    cursor = connection.cursor()
    cursor.execute(f"CREATE TEMPORARY TABLE {name} (A INT)")
    with clients.connect(schema="FEATURES") as other:
        other.cursor().execute(f"CREATE TABLE {name} (A INT, B INT)")
    with pytest.raises(ProgrammingError, match="temporary table of this session"):
        cursor.execute(f"SELECT * FROM {name}")
