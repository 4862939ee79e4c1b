"""INFORMATION_SCHEMA: four views for queries, and of them only what the policy lets the caller read."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from hoop_core.errors import StatementRefused
from hoop_core.judge import judge_text
from hoop_core.masking.masks import ColumnPlan, TablePlan
from hoop_core.masking.verify import verify
from hoop_core.model import Identity, NameContext, Outcome, RunContext, TableName, Verdict
from hoop_core.policy.file import parse_policy
from hoop_core.sql.catalog import Catalog
from hoop_core.sql.metadata import NAMES
from hoop_core.sql.statement import analyse

CATALOG = Catalog.from_mapping(
    {TableName("PROD", "CRM", "CUSTOMERS"): {"ID": "NUMBER", "EMAIL": "VARCHAR"}}
)
READ = '  - {name: read, groups: [agents], reads: ["PROD.CRM.*", "PROD.HR.STAFF"], then: allow}\n'
COLUMNS = TableName("PROD", "INFORMATION_SCHEMA", "COLUMNS")


def ask(
    sql: str, rules: str = READ, head: str = "", groups: tuple[str, ...] = ("agents",)
) -> Verdict:
    return judge_text(
        sql,
        NameContext("PROD", "CRM"),
        identity=Identity("https://issuer", "sub", "agent", groups, "oidc", "digest"),
        policy=parse_policy(f"version: 1\n{head}rules:\n{rules}", "p.yaml"),
        catalog=CATALOG,
        run=RunContext(),
        now=datetime(2026, 3, 2, 10, tzinfo=UTC),
    )


def code(verdict: Verdict) -> str:
    assert verdict.decision.outcome is Outcome.DENY and verdict.rewritten is None
    return verdict.decision.reasons[0].code


@pytest.mark.parametrize("view", NAMES)
def test_a_served_view_is_narrowed_to_what_rules_let_the_caller_read(view: str) -> None:
    verdict = ask(f"SELECT * FROM prod.information_schema.{view} x")
    assert verdict.decision.outcome is Outcome.ALLOW
    column = "SCHEMA_NAME" if view == "SCHEMATA" else "TABLE_SCHEMA"
    other = "" if view == "SCHEMATA" else " AND _g.\"TABLE_NAME\" = 'STAFF'"
    text = ' REPLACE (NULL::VARCHAR AS "VIEW_DEFINITION")' if view == "VIEWS" else ""
    assert verdict.rewritten == (
        f'SELECT * FROM (SELECT *{text} FROM "PROD"."INFORMATION_SCHEMA"."{view}" AS _g '
        f"WHERE ((_g.\"{column}\" = 'CRM') OR (_g.\"{column}\" = 'HR'{other}))) x"
    )


def test_every_reference_in_a_statement_is_narrowed() -> None:
    verdict = ask(
        "WITH tables AS (SELECT * FROM information_schema.tables), c AS (SELECT information_schema.columns.table_name "
        "FROM information_schema.columns) SELECT * FROM tables JOIN c USING (table_name) "
        "WHERE EXISTS (SELECT 1 FROM PROD.INFORMATION_SCHEMA.COLUMNS AS d)"
    )
    assert verdict.decision.outcome is Outcome.ALLOW and verdict.rewritten is not None
    assert verdict.rewritten.count('FROM "PROD"."INFORMATION_SCHEMA"') == 3
    assert verdict.rewritten.count('AS _g WHERE ((_g."TABLE_SCHEMA"') == 3


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO crm.copy SELECT table_name FROM information_schema.columns",
        "CREATE TABLE crm.copy AS SELECT * FROM information_schema.columns",
        "DELETE FROM crm.t WHERE n IN (SELECT table_name FROM information_schema.columns)",
        "MERGE INTO crm.t USING information_schema.columns c ON c.table_name = t.n WHEN MATCHED THEN DELETE",
        "UPDATE information_schema.columns SET table_name = 'x'",
        "DELETE FROM information_schema.tables",
        "DROP TABLE information_schema.tables",
        "DESCRIBE TABLE information_schema.columns",
        "SELECT * FROM information_schema.query_history",
        "SELECT * FROM information_schema.load_history",
        'SELECT * FROM information_schema."columns"',
        "SELECT * FROM snowflake.information_schema.columns",
        "SELECT * FROM snowflake.account_usage.columns",
    ],
)
def test_nothing_else_of_metadata_is_served(sql: str) -> None:
    assert code(ask(sql)) == "METADATA_OBJECT"


def test_its_table_functions_are_refused() -> None:
    assert code(ask("SELECT * FROM TABLE(information_schema.query_history())")) in {
        "INDIRECT_TABLE",
        "QUALIFIED_FUNCTION",
        "TABLE_FUNCTION",
    }


def test_a_quoted_lower_case_schema_is_another_one() -> None:
    sql = 'SELECT * FROM "information_schema".columns'
    assert code(ask(sql)) == "NOT_GRANTED"


def test_a_database_without_any_grant_tells_nothing() -> None:
    assert code(ask("SELECT * FROM other.information_schema.columns")) == "NOT_GRANTED"
    assert (
        code(ask("SELECT * FROM information_schema.columns", groups=("guests",))) == "NOT_GRANTED"
    )


def test_a_rule_whose_condition_does_not_hold_shows_nothing() -> None:
    rules = READ + (
        '  - {name: more, groups: [agents], reads: ["PROD.SECRET.*"], when: "statement.has_limit", then: allow}\n'
    )
    without = ask("SELECT * FROM information_schema.tables", rules).rewritten or ""
    within = ask("SELECT * FROM information_schema.tables LIMIT 9", rules).rewritten or ""
    assert "SECRET" not in without and "'SECRET'" in within


def test_what_may_be_denied_is_left_out_whatever_its_condition_says() -> None:
    rules = (
        '  - {name: all, groups: [agents], reads: ["PROD.*.*"], then: allow}\n'
        '  - {name: no-hr, reads: ["PROD.HR.*"], when: "statement.has_limit", then: deny}\n'
        '  - {name: no-table, reads: ["*.CRM.CARDS"], then: deny}\n'
        '  - {name: others, groups: [guests], reads: ["PROD.OPEN.*"], then: deny}\n'
        '  - {name: writing, kinds: [insert], reads: ["PROD.OPEN.*"], then: deny}\n'
    )
    tables = ask("SELECT * FROM information_schema.tables", rules).rewritten or ""
    assert (
        "WHERE (TRUE) AND NOT ((_g.\"TABLE_SCHEMA\" = 'HR') OR "
        "(_g.\"TABLE_SCHEMA\" = 'CRM' AND _g.\"TABLE_NAME\" = 'CARDS')))" in tables
    )
    schemas = ask("SELECT * FROM information_schema.schemata", rules).rewritten or ""
    assert "AND NOT ((_g.\"SCHEMA_NAME\" = 'HR')))" in schemas


def test_tables_with_filtered_rows_are_not_counted() -> None:
    head = 'row_filters:\n  - {table: "PROD.CRM.CUSTOMERS", where: "ID = 1"}\n'
    tables = ask("SELECT * FROM information_schema.tables", head=head).rewritten or ""
    assert "AND NOT ((_g.\"TABLE_SCHEMA\" = 'CRM' AND _g.\"TABLE_NAME\" = 'CUSTOMERS'))" in tables
    columns = ask("SELECT * FROM information_schema.columns", head=head).rewritten or ""
    assert "CUSTOMERS" not in columns


@pytest.mark.parametrize("rule", ["deny", "require_approval"])
def test_rules_may_name_the_views_themselves(rule: str) -> None:
    terms = ", approval: {approvers: [a], quorum: 1, pending_for: 1h, valid_for: 1h}"
    more = terms if rule == "require_approval" else ""
    rules = READ + (
        f'  - {{name: meta, reads: ["PROD.INFORMATION_SCHEMA.*"], then: {rule}{more}}}\n'
    )
    assert ask("SELECT * FROM information_schema.columns", rules).decision.outcome.value == rule


def test_names_in_a_policy_stay_text_in_the_condition() -> None:
    name = "A'\\ OR TRUE --"
    yaml = name.replace("'", "''")
    rules = f"  - {{name: odd, groups: [agents], reads: ['PROD.\"{yaml}\".*'], then: allow}}\n"
    text = ask("SELECT * FROM information_schema.tables", rules).rewritten or ""
    assert "= 'A''\\\\ OR TRUE --'))" in text


def test_a_mask_for_everything_does_not_touch_metadata() -> None:
    head = 'masks:\n  - {columns: ["*.*.*.COMMENT"], mask: "null"}\n'
    verdict = ask("SELECT comment FROM information_schema.columns", head=head)
    assert verdict.decision.outcome is Outcome.ALLOW and verdict.decision.masked == ()


def test_the_verifier_takes_a_star_for_nothing_but_metadata() -> None:
    customers = TableName("PROD", "CRM", "CUSTOMERS")
    plan = TablePlan(customers, (), "TRUE")
    analysis = analyse("SELECT * FROM customers x", NameContext("PROD", "CRM"))
    sent = 'SELECT * FROM (SELECT * FROM "PROD"."CRM"."CUSTOMERS" AS _g WHERE TRUE) x'
    with pytest.raises(StatementRefused) as caught:
        verify(sent, statement=analysis.statement, plans={customers: plan}, original=analysis)
    assert caught.value.reason == "VERIFY_PLAN"


def test_the_verifier_refuses_metadata_outside_its_condition() -> None:
    analysis = analyse("SELECT * FROM information_schema.columns x", NameContext("PROD", "CRM"))
    plan = TablePlan(COLUMNS, (), "_g.\"TABLE_SCHEMA\" = 'CRM'")
    for sent in (
        'SELECT * FROM "PROD"."INFORMATION_SCHEMA"."COLUMNS" x',
        'SELECT * FROM (SELECT * FROM "PROD"."INFORMATION_SCHEMA"."COLUMNS" AS _g WHERE TRUE) x',
    ):
        with pytest.raises(StatementRefused):
            verify(sent, statement=analysis.statement, plans={COLUMNS: plan}, original=analysis)


def test_columns_of_metadata_that_are_listed_must_be_shown() -> None:
    analysis = analyse("SELECT * FROM information_schema.columns x", NameContext("PROD", "CRM"))
    plan = TablePlan(COLUMNS, (ColumnPlan("TABLE_NAME", '_g."TABLE_NAME"'),))
    sent = 'SELECT * FROM (SELECT * FROM "PROD"."INFORMATION_SCHEMA"."COLUMNS" AS _g) x'
    with pytest.raises(StatementRefused):
        verify(sent, statement=analysis.statement, plans={COLUMNS: plan}, original=analysis)
