"""Conditions over columns, tags and sizes: every way to a column counts, and what is unknown stops."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hoop_core.errors import ConfigError
from hoop_core.judge import judge_text
from hoop_core.model import Identity, NameContext, RunContext, TableName, Verdict
from hoop_core.policy.file import parse_policy
from hoop_core.sql.catalog import Catalog, CatalogObject, load_catalog

NOW = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
NAMES = NameContext("DB", "PUBLIC")
CATALOG = load_catalog(Path(__file__).parent / "data" / "adversarial_catalog.yaml")
CUSTOMERS = TableName("DB", "PUBLIC", "CUSTOMERS")
ORDERS = TableName("DB", "PUBLIC", "ORDERS")
OUT = TableName("DB", "PUBLIC", "OUT1")


def policy_text(when: str, then: str = "deny") -> str:
    approval = ", approval: {approvers: [boss]}" if then == "require_approval" else ""
    return (
        "version: 1\n"
        "tags:\n  email: ['*.*.CUSTOMERS.EMAIL']\n  secret: ['DB.PUBLIC.CUSTOMERS.SSN']\n"
        "rules:\n"
        "  - {name: read, reads: ['DB.PUBLIC.*'], then: allow}\n"
        "  - {name: write, kinds: [insert, update, merge, delete, create_table_as], writes: ['DB.PUBLIC.*'], "
        "then: allow}\n"
        f'  - {{name: rule, when: "{when}", then: {then}{approval}}}\n'
    )


def judged(sql: str, when: str, then: str = "deny", catalog: Catalog = CATALOG) -> Verdict:
    return judge_text(
        sql,
        NAMES,
        identity=Identity("i", "s", "n", ("agents",), "oidc", ""),
        policy=parse_policy(policy_text(when, then), "policy.yaml"),
        catalog=catalog,
        run=RunContext(),
        now=NOW,
    )


def outcome(sql: str, when: str, then: str = "deny", catalog: Catalog = CATALOG) -> str:
    return judged(sql, when, then, catalog).decision.outcome.value


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT email FROM customers",
        "SELECT * FROM customers",
        "SELECT c.* FROM customers c",
        "SELECT $3 FROM customers",
        "SELECT OBJECT_CONSTRUCT(*) FROM customers",
        "SELECT HASH(*) FROM customers",
        "SELECT COUNT(c.*) FROM customers c",
        "SELECT * ILIKE 'e%' FROM customers",
        "SELECT * RENAME email AS x FROM customers",
        "SELECT COUNT(*) FROM customers WHERE email LIKE 'a%'",
        "SELECT COUNT(*) FROM customers GROUP BY email",
        "SELECT id FROM customers ORDER BY email",
        "SELECT id FROM customers QUALIFY RANK() OVER (ORDER BY email) = 1",
        "SELECT o.id FROM orders o JOIN customers c ON o.id = c.email",
        "SELECT o.id FROM orders o WHERE EXISTS (SELECT 1 FROM customers c WHERE c.email = o.id)",
        "WITH x AS (SELECT email AS e FROM customers) SELECT COUNT(*) FROM x",
        "WITH x (a, b, c, d, e) AS (SELECT * FROM customers) SELECT c FROM x",
        "SELECT id FROM orders UNION ALL SELECT email FROM customers",
        "SELECT v FROM customers UNPIVOT (v FOR n IN (email, ssn))",
        "SELECT id FROM customers PIVOT (MAX(email) FOR name IN ('a')) AS p",
        "SELECT f.value FROM customers c, LATERAL FLATTEN(INPUT => SPLIT(c.email, '@')) f",
        "INSERT INTO out1 SELECT id, email FROM customers",
        "CREATE TABLE scratch AS SELECT id FROM customers WHERE email = 'x'",
        "UPDATE out1 SET v = c.email FROM customers c WHERE c.id = out1.id",
        "DELETE FROM out1 USING customers c WHERE c.email = out1.v",
        "MERGE INTO out1 o USING customers c ON o.v = c.email WHEN MATCHED THEN DELETE",
        "SELECT nothing FROM customers",
    ],
)
def test_a_tag_is_touched_whatever_the_way(sql: str) -> None:
    verdict = judged(sql, "'email' in statement.tags")
    assert [r.code for r in verdict.decision.reasons] == ["DENIED_BY_RULE"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id, name, ssn FROM customers",
        "SELECT COUNT(*) FROM customers",
        "SELECT * EXCLUDE email FROM customers",
        "SELECT * FROM orders",
        "SELECT 'email' AS email FROM orders",
        "DESC TABLE customers",
        "SHOW TABLES",
    ],
)
def test_what_does_not_read_the_column_does_not_touch_its_tag(sql: str) -> None:
    denied = [r.code for r in judged(sql, "'email' in statement.tags").decision.reasons]
    assert "DENIED_BY_RULE" not in denied


def test_a_view_is_seen_through_to_the_columns_beneath_it() -> None:
    view = TableName("DB", "PUBLIC", "CONTACTS")
    shown = CatalogObject(
        {"ID": "NUMBER", "CONTACT": "VARCHAR"},
        definition="CREATE VIEW contacts (id, contact) AS SELECT id, email FROM customers",
    )
    catalog = CATALOG.but({view: shown})
    assert (
        outcome("SELECT contact FROM contacts", "'email' in statement.tags", catalog=catalog)
        == "deny"
    )
    assert (
        outcome("SELECT contact FROM contacts", "'secret' in statement.tags", catalog=catalog)
        == "allow"
    )


def test_a_table_without_known_columns_touches_every_tag_of_it() -> None:
    catalog = CATALOG.but({CUSTOMERS: CatalogObject({})})
    assert (
        outcome("SELECT * FROM customers", "'secret' in statement.tags", catalog=catalog) == "deny"
    )


def test_columns_are_written_with_their_table() -> None:
    when = "'DB.PUBLIC.CUSTOMERS.EMAIL' in statement.columns"
    assert outcome("SELECT email FROM customers", when) == "deny"
    assert outcome("SELECT name FROM customers", when) == "allow"
    assert outcome("SELECT name FROM customers", "statement.columns.size() == 1") == "deny"


def test_the_fields_are_there_for_every_way_to_name_them() -> None:
    assert outcome("SELECT email FROM customers", "'email' in statement['tags']") == "deny"
    assert (
        outcome("SELECT email FROM customers", "statement.tags.exists(t, t == 'email')") == "deny"
    )
    assert outcome("SELECT email FROM customers", "'email' in statement['ta' + 'gs']") == "deny"


def sized(rows: int | None, size: int | None = None) -> Catalog:
    known = CATALOG.get(CUSTOMERS)
    assert known is not None
    return CATALOG.but({CUSTOMERS: dataclasses.replace(known, rows=rows, bytes=size)})


def test_sizes_add_up_over_the_tables_that_are_read() -> None:
    catalog = sized(10, 4_000)
    orders = catalog.get(ORDERS)
    assert orders is not None
    catalog = catalog.but({ORDERS: dataclasses.replace(orders, rows=5, bytes=600)})
    both = "SELECT c.id FROM customers c, orders o, customers d"
    assert outcome(both, "statement.estimated_rows == 15", catalog=catalog) == "deny"
    assert outcome(both, "statement.estimated_bytes == 4600", catalog=catalog) == "deny"
    assert (
        outcome("SELECT id FROM customers", "statement.estimated_rows > 9", catalog=catalog)
        == "deny"
    )
    assert (
        outcome("SELECT id FROM customers", "statement.estimated_rows > 10", catalog=catalog)
        == "allow"
    )


def test_an_unknown_size_is_a_large_one() -> None:
    assert outcome("SELECT id FROM customers", "statement.estimated_rows > 1000000") == "deny"
    assert (
        outcome("SELECT id FROM customers", "statement.estimated_bytes > 1000000000000") == "deny"
    )
    assert (
        outcome("SELECT id FROM customers", "statement.estimated_rows > 5", catalog=sized(None))
        == "deny"
    )


def test_the_rows_that_a_change_meets_count_too() -> None:
    catalog = CATALOG.but({OUT: CatalogObject({"ID": "NUMBER", "V": "VARCHAR"}, rows=7)})
    for sql in ("DELETE FROM out1", "UPDATE out1 SET v = 'x'"):
        assert outcome(sql, "statement.estimated_rows == 7", catalog=catalog) == "deny"
    assert (
        outcome(
            "INSERT INTO out1 VALUES (1, 'x')", "statement.estimated_rows == 0", catalog=catalog
        )
        == "deny"
    )


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT id FROM orders LIMIT 5", 5),
        ("SELECT TOP 7 id FROM orders", 7),
        ("SELECT id FROM orders FETCH FIRST 3 ROWS ONLY", 3),
        ("(SELECT id FROM orders LIMIT 2) UNION ALL (SELECT id FROM orders LIMIT 4)", 6),
        ("SELECT id FROM orders UNION ALL SELECT id FROM orders LIMIT 4", 4),
    ],
)
def test_limit_rows_is_what_the_limit_says(sql: str, rows: int) -> None:
    assert outcome(sql, f"statement.limit_rows == {rows} && statement.has_limit") == "deny"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id FROM orders",
        "SELECT id FROM orders LIMIT NULL",
        "SELECT id FROM orders LIMIT ''",
        "(SELECT id FROM orders LIMIT 2) UNION ALL SELECT id FROM orders",
    ],
)
def test_without_a_limit_the_rows_are_many_and_the_query_unbounded(sql: str) -> None:
    when = "statement.limit_rows > 1000000 && !statement.has_limit && statement.is_unbounded"
    assert outcome(sql, when) == "deny"


def test_a_bind_variable_may_be_any_limit() -> None:
    when = "statement.limit_rows > 1000000 && statement.has_limit"
    assert outcome("SELECT id FROM orders LIMIT ?", when) == "deny"


def test_an_allow_rule_can_leave_tagged_columns_out() -> None:
    text = (
        "version: 1\ntags: {email: ['*.*.*.EMAIL']}\nrules:\n"
        "  - {name: read, reads: ['DB.PUBLIC.*'], when: \"!('email' in statement.tags)\", then: allow}\n"
    )
    policy = parse_policy(text, "policy.yaml")
    identity = Identity("i", "s", "n", (), "oidc", "")
    found = [
        judge_text(
            sql, NAMES, identity=identity, policy=policy, catalog=CATALOG, run=RunContext(), now=NOW
        ).decision.outcome.value
        for sql in ("SELECT name FROM customers", "SELECT * FROM customers")
    ]
    assert found == ["allow", "deny"]


def test_a_tag_that_the_policy_does_not_have_is_an_error_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="email"):
        parse_policy(policy_text("'emial' in statement.tags"), "policy.yaml")


def test_a_misspelt_field_is_an_error_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="estimated_rows"):
        parse_policy(policy_text("statement.estimated_row > 5"), "policy.yaml")


def test_the_verdict_says_which_columns_are_read() -> None:
    verdict = judged("SELECT name FROM customers WHERE ssn = '1'", "false")
    assert verdict.columns == ((CUSTOMERS, ("NAME", "SSN")),)
