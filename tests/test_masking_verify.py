"""The verifier: a rewrite broken by hand is refused, and each pass is needed for at least one break."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hoop_core.errors import StatementRefused
from hoop_core.masking.masks import TablePlan
from hoop_core.masking.rewrite import rewrite
from hoop_core.masking.verify import verify
from hoop_core.model import Identity, NameContext, RunContext, TableName
from hoop_core.policy.engine import Case, decide
from hoop_core.policy.file import parse_policy
from hoop_core.sql.catalog import load_catalog
from hoop_core.sql.statement import analyse

DATA = Path(__file__).parent / "data"
CATALOG = load_catalog(DATA / "adversarial_catalog.yaml")
POLICY = parse_policy(
    "version: 1\n"
    'masks:\n  - {columns: ["DB.PUBLIC.CUSTOMERS.EMAIL"], mask: constant}\n'
    '  - {columns: ["DB.PUBLIC.CUSTOMERS.SSN"], mask: "null"}\n'
    'rules:\n  - {name: r, reads: ["DB.PUBLIC.*"], then: allow}\n'
    '  - {name: w, kinds: [insert], writes: ["DB.PUBLIC.*"], then: allow}\n',
    "p.yaml",
)
NAMES = NameContext("DB", "PUBLIC")
EMAIL = """IFF(_g."EMAIL" IS NULL, NULL, '***')::VARCHAR"""
BASE = '"DB"."PUBLIC"."CUSTOMERS"'


class Rewritten:
    """A statement with its right rewrite, to be broken."""

    def __init__(self, sql: str) -> None:
        analysis = analyse(sql, NAMES)
        identity = Identity("i", "s", "n", ("g",), "oidc", "d")
        now = datetime(2026, 3, 2, tzinfo=UTC)
        case = Case(analysis.statement, analysis.ctes, identity, POLICY, CATALOG, RunContext(), now)
        self.plans: dict[TableName, TablePlan] = dict(decide(case).plans)
        self.statement = analysis.statement
        self.text = rewrite(analysis, self.plans)

    def verify(self, text: str | None = None) -> None:
        verify(self.text if text is None else text, statement=self.statement, plans=self.plans)


def refused(good: Rewritten, text: str) -> str:
    assert text != good.text, "the break did not change anything"
    with pytest.raises(StatementRefused) as caught:
        good.verify(text)
    return caught.value.reason


def test_a_right_rewrite_is_accepted() -> None:
    for sql in (
        "SELECT email FROM customers",
        "SELECT a.email FROM customers a JOIN orders o ON o.cust_id = a.id",
        "INSERT INTO out1 SELECT id, ssn FROM customers",
        "WITH orders AS (SELECT * FROM orders) SELECT * FROM orders",
        "SELECT email FROM customers SAMPLE (10)",
        "SELECT email FROM customers AT (OFFSET => -60) c",
    ):
        Rewritten(sql).verify()


Break = Callable[[str], str]
SQL = "SELECT email, ssn FROM customers WHERE id = 1"
BREAKS: dict[str, tuple[str, Break]] = {
    "the wrapper is gone": ("WRAPPER", lambda t: t[: t.index("(SELECT _g")] + BASE + ' AS "CUSTOMERS" WHERE id = 1'),
    "a mask is gone": ("WRAPPER", lambda t: t.replace(EMAIL, '_g."EMAIL"')),
    "a mask is weaker": ("WRAPPER", lambda t: t.replace(EMAIL, """IFF(_g."EMAIL" IS NULL, NULL, LEFT(_g."EMAIL", 3))::VARCHAR""")),
    "masks are swapped": ("WRAPPER", lambda t: t.replace(EMAIL, "#").replace("NULL::VARCHAR", EMAIL).replace("#", "NULL::VARCHAR")),
    "a column reads another": ("WRAPPER", lambda t: t.replace('_g."NAME" AS', '_g."EMAIL" AS')),
    "a column is missing": ("WRAPPER", lambda t: t.replace('_g."NAME" AS "NAME", ', "")),
    "a column is added": ("WRAPPER", lambda t: t.replace('_g."NAME" AS', '_g."SSN" AS "X", _g."NAME" AS')),
    "columns change places": ("WRAPPER", lambda t: t.replace('_g."ID" AS "ID", _g."NAME" AS "NAME"', '_g."NAME" AS "NAME", _g."ID" AS "ID"')),
    "a star": ("WRAPPER", lambda t: t.replace('_g."ID" AS "ID"', "_g.*")),
    "a filter inside": ("WRAPPER", lambda t: t.replace(" AS _g)", " AS _g WHERE _g.\"SSN\" LIKE '1%')")),
    "an order inside": ("WRAPPER", lambda t: t.replace(" AS _g)", ' AS _g ORDER BY _g."SSN")')),
    "a join inside": ("WRAPPER", lambda t: t.replace(" AS _g)", f" AS _g CROSS JOIN {BASE} AS x)")),
    "distinct inside": ("WRAPPER", lambda t: t.replace("(SELECT _g", "(SELECT DISTINCT _g")),
    "no inner alias": ("WRAPPER", lambda t: t.replace(" AS _g)", ' AS "_h")').replace("_g.", '"_h".')),
    "an unqualified column": ("WRAPPER", lambda t: t.replace('_g."NAME" AS', '"NAME" AS')),
    "a second, raw read": ("WRAPPER", lambda t: t + f" AND id IN (SELECT id FROM {BASE})"),
    "another table": ("TABLES", lambda t: t + ' AND id IN (SELECT id FROM "DB"."PUBLIC"."ORDERS")'),
    "an unqualified table": ("TABLES", lambda t: t.replace(BASE, "CUSTOMERS")),
    "another database": ("TABLES", lambda t: t.replace('"DB"', '"OTHER"')),
    "a lost filter": ("MEANING", lambda t: t.replace(" WHERE id = 1", "")),
    "a changed filter": ("MEANING", lambda t: t.replace("id = 1", "id = 2")),
    "a changed projection": ("MEANING", lambda t: t.replace("SELECT email, ssn", "SELECT ssn, email")),
    "another outer alias": ("MEANING", lambda t: t.replace('AS "CUSTOMERS"', 'AS "C"')),
    "a comment": ("SINGLE", lambda t: t + " /* x */"),
    "a separator": ("SINGLE", lambda t: t + ";"),
    "a second statement": ("SINGLE", lambda t: t + "; SELECT 1"),
    "no SQL": ("PARSE", lambda t: t + " WHERE WHERE"),
    "an open quote": ("PARSE", lambda t: t + " 'x"),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_a_rewrite_broken_by_hand_is_refused(name: str) -> None:
    code, break_ = BREAKS[name]
    good = Rewritten(SQL)
    assert refused(good, break_(good.text)) == f"VERIFY_{code}"


def test_a_constant_or_null_mask_must_not_depend_on_the_value_whatever_the_plan_says() -> None:
    good = Rewritten(SQL)
    table = TableName("DB", "PUBLIC", "CUSTOMERS")
    plan = good.plans[table]
    leaky = tuple(
        c if c.name != "EMAIL" else type(c)(c.name, """UPPER(_g."EMAIL")""", c.mask)
        for c in plan.columns
    )
    good.plans[table] = TablePlan(table, leaky)
    assert refused(good, good.text.replace(EMAIL, 'UPPER(_g."EMAIL")')) == "VERIFY_PLAN"


def test_a_forward_reference_is_no_common_table_expression() -> None:
    # `b` is defined later: Snowflake would look for a table of that name
    good = Rewritten("WITH a AS (SELECT 1 AS x), b AS (SELECT 2 AS x) SELECT * FROM a, b")
    broken = "WITH a AS (SELECT x FROM b), b AS (SELECT 2 AS x) SELECT * FROM a, b"
    assert refused(good, broken) == "VERIFY_TABLES"
