"""Row filters, executed: on DuckDB through fakesnow, which stands in for Snowflake.

Two databases that differ only in rows that the filter hides give equal results and equal written tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import snowflake.connector

from hoop_core.judge import judge_text
from hoop_core.model import Identity, NameContext, Outcome, RunContext, TableName
from hoop_core.policy.file import parse_policy
from hoop_core.sql.catalog import Catalog

fakesnow = pytest.importorskip("fakesnow")
pytestmark = pytest.mark.filterwarnings("ignore")

POLICY = parse_policy(
    """\
version: 1
masks:
  - {columns: ["DB.PUBLIC.CUSTOMERS.EMAIL"], mask: constant}
row_filters:
  - {table: "DB.PUBLIC.CUSTOMERS", where: "REGION IN ({claims.regions}) OR OWNER = {identity.subject}"}
  - {table: "DB.PUBLIC.*", where: "DELETED IS NULL"}
rules:
  - {name: read, groups: [agents], reads: ["DB.PUBLIC.*"], then: allow}
  - {name: write, groups: [agents], kinds: [insert, create_table_as], writes: ["DB.PUBLIC.OUT1"], then: allow}
""",
    "p.yaml",
)
COLUMNS = {"ID": "NUMBER", "EMAIL": "VARCHAR", "REGION": "VARCHAR", "OWNER": "VARCHAR", "DELETED": "VARCHAR"}  # fmt: skip
CATALOG = Catalog.from_mapping(
    {
        TableName("DB", "PUBLIC", "CUSTOMERS"): COLUMNS,
        TableName("DB", "PUBLIC", "ORDERS"): {
            "ID": "NUMBER",
            "CUST": "NUMBER",
            "DELETED": "VARCHAR",
        },
    }
)
AGENT = Identity(
    "i",
    "o'hara\\",
    "agent",
    ("agents",),
    "oidc",
    "d",
    claims={"regions": ("EU", "it's", "back\\slash")},
)
SEEN = [
    (1, "a@x", "EU", "else", None),
    (2, "b@x", "US", "o'hara\\", None),
    (3, "c@x", "it's", None, None),
    (4, "d@x", "back\\slash", None, None),
]
HIDDEN = (
    [(5, "e@x", "US", "else", None), (6, "f@x", "EU", "else", "y"), (7, "g@x", None, None, None)],
    [(8, "h@x", "", "o'hara", None), (9, "i@x", "it''s", "x", None), (9, "EU", "eu", "EU", None)],
)
STATEMENTS = [
    "SELECT id, email FROM customers",
    "SELECT * FROM customers",
    "SELECT COUNT(*), MAX(id), MIN(region) FROM customers",
    "SELECT region, COUNT(*) FROM customers GROUP BY region HAVING COUNT(*) > 0",
    "SELECT id FROM customers WHERE region = 'US' OR 1 = 1",
    "SELECT id FROM customers WHERE deleted IS NOT NULL",
    "SELECT c.id, d.id FROM customers c LEFT JOIN customers d ON c.id = d.id + 1",
    "SELECT o.id, c.region FROM orders o LEFT JOIN customers c ON c.id = o.cust",
    "SELECT o.id FROM orders o WHERE o.cust NOT IN (SELECT id FROM customers)",
    "SELECT o.id FROM orders o WHERE EXISTS (SELECT 1 FROM customers WHERE customers.id = o.cust)",
    "WITH c AS (SELECT * FROM customers) SELECT * FROM c UNION ALL SELECT * FROM customers",
    "SELECT id, ROW_NUMBER() OVER (ORDER BY id DESC) FROM customers QUALIFY ROW_NUMBER() OVER (ORDER BY id) = 1",
    "SELECT id FROM orders MINUS SELECT id FROM db.public.customers",
    "SELECT (SELECT MAX(region) FROM customers) FROM orders",
    "SELECT customers.region FROM customers ORDER BY 1 LIMIT 3",
]


def filtered(sql: str) -> str:
    verdict = judge_text(
        sql,
        NameContext("DB", "PUBLIC"),
        identity=AGENT,
        policy=POLICY,
        catalog=CATALOG,
        run=RunContext(),
        now=datetime(2026, 3, 2, tzinfo=UTC),
    )
    assert verdict.decision.outcome is Outcome.ALLOW, verdict.decision.reasons
    assert verdict.rewritten is not None
    return verdict.rewritten


WRITE = "CREATE TABLE out1 AS SELECT region, COUNT(*) AS n FROM customers GROUP BY region"
Answers = dict[str, list[str]]


@pytest.fixture(scope="module")
def worlds() -> Iterator[list[Answers]]:
    """What every statement answers, guarded and as it is: with the one, the other and no hidden rows."""
    with (
        fakesnow.patch(),
        snowflake.connector.connect(database="DB", schema="PUBLIC") as connection,
    ):
        yield [answers(connection.cursor(), hidden) for hidden in (*HIDDEN, [])]


def answers(cursor: Any, hidden: list[tuple[object, ...]]) -> Answers:
    cursor.execute(
        "CREATE OR REPLACE TABLE customers (id NUMBER, email VARCHAR, region VARCHAR, owner VARCHAR, deleted VARCHAR)"
    )
    cursor.execute("CREATE OR REPLACE TABLE orders (id NUMBER, cust NUMBER, deleted VARCHAR)")
    cursor.execute(
        "INSERT INTO orders VALUES (1, 1, NULL), (2, 5, NULL), (3, 8, NULL), (4, 3, 'y')"
    )
    for row in SEEN + hidden:
        cursor.execute("INSERT INTO customers VALUES (%s, %s, %s, %s, %s)", row)
    found = {
        sql: sorted(map(str, cursor.execute(sql).fetchall()))
        for statement in STATEMENTS
        for sql in (statement, filtered(statement))
    }
    cursor.execute("DROP TABLE IF EXISTS out1")
    cursor.execute(filtered(WRITE))
    found[WRITE] = sorted(map(str, cursor.execute("SELECT * FROM out1").fetchall()))
    return found


def test_exactly_the_rows_that_the_filters_let_by_are_seen(worlds: list[Answers]) -> None:
    seen = worlds[0][filtered("SELECT id, email FROM customers")]
    assert seen == ["(1, '***')", "(2, '***')", "(3, '***')", "(4, '***')"]


@pytest.mark.parametrize("sql", STATEMENTS)
def test_rows_that_are_hidden_make_no_difference(worlds: list[Answers], sql: str) -> None:
    one, other, none = (w[filtered(sql)] for w in worlds)
    assert one == other == none


def test_nor_in_what_is_written(worlds: list[Answers]) -> None:
    one, other, none = (w[WRITE] for w in worlds)
    assert one == other == none
    assert len(one) == len(SEEN)


def test_the_unguarded_statements_do_tell_the_two_databases_apart(worlds: list[Answers]) -> None:
    one, other, _ = worlds
    telling = sum(one[s] != other[s] for s in STATEMENTS)
    assert telling >= 0.7 * len(STATEMENTS)
