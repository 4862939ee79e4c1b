"""Views under masks, executed on DuckDB through fakesnow: no raw value comes out, nor anything derived."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import snowflake.connector
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hoop_core.judge import judge_text
from hoop_core.model import Identity, NameContext, Outcome, RunContext, TableName
from hoop_core.policy.file import parse_policy
from hoop_core.sql.catalog import Catalog, CatalogObject

fakesnow = pytest.importorskip("fakesnow")
pytestmark = pytest.mark.filterwarnings("ignore")

POLICY = parse_policy(
    """
version: 1
masks:
  - {columns: ["DB.PUBLIC.CUSTOMERS.EMAIL", "DB.PUBLIC.CUSTOMERS.SSN"], mask: constant}
rules:
  - {name: read, groups: [agents], reads: ["DB.PUBLIC.*"], then: allow}
  - {name: write, groups: [agents], kinds: [create_table_as, insert], writes: ["DB.PUBLIC.*"], then: allow}
""",
    "p.yaml",
)
CUSTOMERS = {"ID": "NUMBER(38,0)", "NAME": "VARCHAR", "EMAIL": "VARCHAR", "SSN": "VARCHAR"}
ORDERS = {"ID": "NUMBER(38,0)", "CUST_ID": "NUMBER(38,0)"}
VIEWS: dict[str, tuple[dict[str, str], str]] = {
    "V_STAR": (CUSTOMERS, "SELECT * FROM customers"),
    "V_RENAMED": ({"K": "NUMBER", "CONTACT": "VARCHAR"}, "SELECT id, email FROM customers"),
    "V_FILTER": (ORDERS, "SELECT o.* FROM orders o JOIN customers c ON c.id = o.cust_id WHERE c.ssn > 'm'"),
    "V_COUNT": (
        {"N": "NUMBER", "LEN": "NUMBER"},
        "SELECT COUNT(DISTINCT email), SUM(LENGTH(ssn)) FROM customers",
    ),
    "V_SORT": (
        {"NAME": "VARCHAR"},
        "SELECT name FROM customers QUALIFY ROW_NUMBER() OVER (ORDER BY email) = 1",
    ),
    "V_CTE": (
        {"ID": "NUMBER", "S": "VARCHAR"},
        "WITH customers AS (SELECT id, ssn AS s FROM public.customers) SELECT id, s FROM customers",
    ),
    "V_UPON": ({"S": "VARCHAR"}, "SELECT s FROM v_cte UNION ALL SELECT contact FROM v_renamed"),
    "V_SUB": ({"ID": "NUMBER"}, "SELECT id FROM orders WHERE cust_id IN (SELECT k FROM v_renamed WHERE contact < 'm')"),
}  # fmt: skip
TELLING = [f"SELECT * FROM {name}" for name in VIEWS] + [
    "SELECT a.contact FROM v_renamed a JOIN v_renamed b ON a.k = b.k",
    "SELECT COUNT(*) FROM v_cte WHERE s LIKE 'c%'",
    "WITH v_cte AS (SELECT contact FROM v_renamed) SELECT contact FROM v_cte",
    "SELECT MIN(s) FROM v_upon",
    "CREATE TABLE made AS SELECT s FROM v_upon",
    "SELECT (SELECT MAX(contact) FROM v_renamed WHERE k = o.cust_id) AS m FROM orders o",
]
ONE, OTHER = ("canary_alice", "zed", "mid"), ("other", "alpha", "111")
CATALOG = Catalog.of(
    {
        TableName("DB", "PUBLIC", "CUSTOMERS"): CatalogObject(CUSTOMERS),
        TableName("DB", "PUBLIC", "ORDERS"): CatalogObject(ORDERS),
        **{TableName("DB", "PUBLIC", n): CatalogObject(c, q) for n, (c, q) in VIEWS.items()},
    }
)


@pytest.fixture(scope="module")
def cursor() -> Iterator[Any]:
    with (
        fakesnow.patch(),
        snowflake.connector.connect(database="DB", schema="PUBLIC") as connection,
    ):
        yield connection.cursor()


def guarded(sql: str) -> str:
    verdict = judge_text(
        sql,
        NameContext("DB", "PUBLIC"),
        identity=Identity("i", "s", "agent", ("agents",), "oidc", "d"),
        policy=POLICY,
        catalog=CATALOG,
        run=RunContext(),
        now=datetime(2026, 3, 2, tzinfo=UTC),
    )
    assert verdict.decision.outcome is Outcome.ALLOW, verdict.decision.reasons
    assert verdict.rewritten is not None
    return verdict.rewritten


def fill(cursor: Any, secrets: tuple[str, ...]) -> None:
    cursor.execute("DROP TABLE IF EXISTS made")
    cursor.execute(
        "CREATE OR REPLACE TABLE customers (id NUMBER, name VARCHAR, email VARCHAR, ssn VARCHAR)"
    )
    cursor.execute("CREATE OR REPLACE TABLE orders (id NUMBER, cust_id NUMBER)")
    cursor.execute("INSERT INTO orders VALUES (1, 0), (2, 1), (3, 2)")
    for i, name in enumerate(("Alice", "Bob", "Carol")):
        cursor.execute(
            f"INSERT INTO customers VALUES ({i}, '{name}', '{secrets[i]}@corp.com', '{secrets[2 - i]}')"
        )
    for name, (columns, query) in VIEWS.items():
        cursor.execute(f"CREATE OR REPLACE VIEW {name} ({', '.join(columns)}) AS {query}")


def outcome(cursor: Any, sql: str, secrets: tuple[str, ...]) -> list[str]:
    """The rows, and those of the table that the statement may have made."""
    fill(cursor, secrets)
    rows = sorted(map(str, cursor.execute(sql).fetchall()))
    if "made" in sql.lower():
        rows += sorted(map(str, cursor.execute("SELECT * FROM made").fetchall()))
    return rows


@pytest.mark.parametrize("sql", TELLING)
def test_databases_that_differ_in_protected_values_give_equal_results(
    sql: str, cursor: Any
) -> None:
    text = guarded(sql)
    shown = outcome(cursor, text, ONE)
    assert shown == outcome(cursor, text, OTHER)
    assert not any(secret in row for row in shown for secret in ONE)


@pytest.mark.parametrize("sql", TELLING)
def test_the_unguarded_statements_do_tell_the_two_databases_apart(sql: str, cursor: Any) -> None:
    assert outcome(cursor, sql, ONE) != outcome(cursor, sql, OTHER)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT k FROM v_renamed ORDER BY k",
        "SELECT id, name FROM v_star WHERE id > 0 ORDER BY id",
        "SELECT v_star.name, o.id FROM v_star JOIN orders o ON o.cust_id = v_star.id ORDER BY 2",
        "SELECT COUNT(*) FROM v_upon",
    ],
)
def test_what_is_not_protected_comes_out_of_a_view_as_it_is(sql: str, cursor: Any) -> None:
    fill(cursor, ONE)
    expected = cursor.execute(sql).fetchall()
    assert cursor.execute(guarded(sql)).fetchall() == expected


COLUMNS = {"v_renamed": ("k", "contact"), "v_star": ("id", "email"), "v_cte": ("id", "s")}
QUERY = st.recursive(
    st.sampled_from([f"SELECT {a} AS a, {b} AS b FROM {v}" for v, (a, b) in COLUMNS.items()]),
    lambda inner: st.one_of(
        inner.map(lambda q: f"SELECT a, b FROM ({q}) AS s WHERE b < 'm'"),
        inner.map(lambda q: f"WITH v_cte AS ({q}) SELECT a, b FROM v_cte"),
        st.tuples(inner, inner).map(lambda p: f"({p[0]}) UNION ({p[1]})"),
        st.tuples(inner, inner).map(
            lambda p: f"SELECT x.a, y.b FROM ({p[0]}) AS x LEFT JOIN ({p[1]}) AS y ON x.b = y.b"
        ),
        inner.map(lambda q: f"SELECT COUNT(*) AS a, MAX(b) AS b FROM ({q}) AS g"),
    ),
    max_leaves=3,
)


@settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(QUERY)
def test_composed_statements_over_views_do_not_depend_on_protected_values(
    cursor: Any, sql: str
) -> None:
    text = guarded(sql)
    assert outcome(cursor, text, ONE) == outcome(cursor, text, OTHER)
