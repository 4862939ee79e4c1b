"""Row filters: what a predicate may say, how the caller's claims get into it, and what they decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlglot import TokenType, exp
from sqlglot.dialects.dialect import Dialect

from hoop_core.errors import ConfigError, StatementRefused
from hoop_core.judge import judge_text
from hoop_core.masking.rewrite import rewrite
from hoop_core.masking.verify import verify
from hoop_core.model import (
    FilteredTable,
    Identity,
    MaskedColumn,
    NameContext,
    Outcome,
    RunContext,
    TableName,
    Verdict,
)
from hoop_core.policy.engine import Case, decide
from hoop_core.policy.file import parse_policy
from hoop_core.policy.predicates import ClaimError, PredicateError, parse_predicate
from hoop_core.sql.catalog import Catalog, CatalogObject
from hoop_core.sql.statement import analyse

SNOWFLAKE = Dialect.get_or_raise("snowflake")
CUSTOMERS = TableName("PROD", "CRM", "CUSTOMERS")
ORDERS = TableName("PROD", "CRM", "ORDERS")
CATALOG = Catalog.from_mapping(
    {
        CUSTOMERS: {"ID": "NUMBER", "EMAIL": "VARCHAR", "REGION": "VARCHAR", "OWNER": "VARCHAR"},
        ORDERS: {"ID": "NUMBER", "REGION": "VARCHAR"},
        TableName("PROD", "CRM", "BLOBS"): {},
        TableName("PROD", "CRM", "OUT"): {"ID": "NUMBER"},
    }
)
RULES = """
rules:
  - {name: read, groups: [agents], reads: ["PROD.CRM.*"], then: allow}
  - {name: write, groups: [agents], writes: ["PROD.CRM.*"], then: allow,
     kinds: [insert, update, delete, create_table_as, create_table, drop_table]}
"""
AGENT = Identity(
    "https://issuer", "sub-1", "agent", ("agents",), "oidc", "digest", claims={"region": "EU"}
)


def ask(sql: str, filters: str, *, who: Identity = AGENT, head: str = "") -> Verdict:
    policy = parse_policy(f"version: 1\n{head}row_filters:\n{filters}\n{RULES}", "p.yaml")
    return judge_text(
        sql,
        NameContext("PROD", "CRM"),
        identity=who,
        policy=policy,
        catalog=CATALOG,
        run=RunContext(),
        now=datetime(2026, 3, 2, tzinfo=UTC),
    )


def codes(verdict: Verdict) -> list[str]:
    return [r.code for r in verdict.decision.reasons]


EU = """  - {table: "PROD.CRM.CUSTOMERS", where: "REGION = 'EU'", except_groups: [global]}"""


def test_a_filtered_table_shows_all_columns_and_some_rows() -> None:
    verdict = ask("SELECT id FROM customers", EU)
    assert verdict.decision.outcome is Outcome.ALLOW
    assert verdict.rewritten == (
        'SELECT id FROM (SELECT _g."ID" AS "ID", _g."EMAIL" AS "EMAIL", _g."REGION" AS "REGION", '
        '_g."OWNER" AS "OWNER" FROM "PROD"."CRM"."CUSTOMERS" AS _g WHERE (_g."REGION" = \'EU\')) '
        'AS "CUSTOMERS"'
    )
    assert verdict.decision.filtered == (FilteredTable(CUSTOMERS, "REGION = 'EU'"),)
    assert "rows of PROD.CRM.CUSTOMERS are limited to REGION = 'EU'" in [
        r.message for r in verdict.decision.reasons if r.code == "ROW_FILTER"
    ]


def test_several_filters_must_all_hold_whatever_operators_they_use() -> None:
    filters = EU + """\n  - {table: "PROD.*.*", where: "ID = 1 OR ID = 2"}"""
    verdict = ask("SELECT id FROM customers", filters)
    assert 'WHERE (_g."REGION" = \'EU\') AND (_g."ID" = 1 OR _g."ID" = 2))' in str(
        verdict.rewritten
    )
    assert len(verdict.decision.filtered) == 2


def test_a_filter_compares_raw_values_beside_a_mask_of_the_same_column() -> None:
    head = 'masks:\n  - {columns: ["PROD.CRM.CUSTOMERS.REGION"], mask: "null"}\n'
    verdict = ask("SELECT region FROM customers", EU, head=head)
    assert 'NULL::VARCHAR AS "REGION"' in str(verdict.rewritten)
    assert "WHERE (_g.\"REGION\" = 'EU')" in str(verdict.rewritten)


def test_an_exception_frees_the_caller_and_is_on_record() -> None:
    free = replace(AGENT, groups=("agents", "global"))
    verdict = ask("SELECT id FROM customers", EU, who=free)
    assert verdict.rewritten == 'SELECT id FROM "PROD"."CRM"."CUSTOMERS"'
    assert verdict.decision.exposed == (MaskedColumn(CUSTOMERS, "*", "row_filter"),)
    assert verdict.decision.filtered == ()


def test_groups_bind_only_the_callers_they_name() -> None:
    filters = """  - {table: "PROD.CRM.CUSTOMERS", where: "ID > 3", groups: [trainees]}"""
    assert "WHERE" not in str(ask("SELECT id FROM customers", filters).rewritten)
    trainee = replace(AGENT, groups=("agents", "trainees"))
    assert 'WHERE (_g."ID" > 3)' in str(
        ask("SELECT id FROM customers", filters, who=trainee).rewritten
    )


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE customers SET email = NULL WHERE id = 1",
        "DELETE FROM customers WHERE id = 1",
        "INSERT INTO customers (id) VALUES (1)",
        "DROP TABLE customers",
        "CREATE OR REPLACE TABLE customers AS SELECT 1 AS id",
    ],
)
def test_rows_of_a_filtered_table_cannot_be_changed(sql: str) -> None:
    assert "WRITE_TO_PROTECTED" in codes(ask(sql, EU))


def test_a_filtered_table_that_is_not_there_cannot_be_made_and_thereby_unfiltered() -> None:
    filters = """  - {table: "PROD.CRM.LATER", where: "ID > 3"}"""
    assert codes(ask("CREATE TABLE later AS SELECT 1 AS id", filters)) == ["WRITE_TO_PROTECTED"]


def test_a_cte_cannot_take_the_name_of_a_filtered_table() -> None:
    sql = "WITH customers AS (SELECT 1 AS id) SELECT id FROM customers"
    assert codes(ask(sql, EU)) == ["CTE_SHADOWS_PROTECTED"]


def test_a_column_that_the_table_lost_closes_it() -> None:
    filters = """  - {table: "PROD.CRM.*", where: "OWNER = {identity.subject}"}"""
    assert codes(ask("SELECT id FROM orders", filters)) == ["POLICY_DRIFT"]
    assert codes(ask("SELECT * FROM blobs", filters)) == ["COLUMNS_UNKNOWN"]
    assert ask("SELECT id FROM customers", filters).decision.outcome is Outcome.ALLOW


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT c.id FROM customers c JOIN customers d ON c.id = d.id",
        "SELECT id FROM customers SAMPLE (10)",
        "SELECT id FROM customers UNION ALL SELECT id FROM prod.crm.customers",
        "INSERT INTO out SELECT id FROM customers",
        "CREATE TABLE x AS SELECT * FROM customers",
        "SELECT (SELECT MAX(id) FROM customers) FROM orders",
        "SELECT id FROM orders WHERE EXISTS (SELECT 1 FROM customers WHERE customers.id = orders.id)",
    ],
)
def test_every_read_is_filtered_wherever_it_stands(sql: str) -> None:
    verdict = ask(sql, EU)
    assert verdict.decision.outcome is Outcome.ALLOW, verdict.decision.reasons
    text = str(verdict.rewritten)
    assert text.count('"CRM"."CUSTOMERS"') == text.count("_g.\"REGION\" = 'EU'") >= 1


@pytest.mark.parametrize(
    ("claims", "allowed"),
    [
        ({"region": "EU"}, True),
        ({}, False),
        ({"region": ""}, False),
        ({"region": "  "}, False),
        ({"region": ("EU", "US")}, False),
        ({"region": "E\x00U"}, False),
        ({"region": "E\nU"}, False),
        ({"region": "x" * 2000}, False),
        ({"REGION": "EU"}, False),
    ],
)
def test_a_claim_that_is_missing_empty_or_odd_is_a_deny(
    claims: dict[str, object], allowed: bool
) -> None:
    filters = """  - {table: "PROD.CRM.CUSTOMERS", where: "REGION = {claims.region}"}"""
    who = replace(AGENT, claims=claims)  # type: ignore[arg-type]
    verdict = ask("SELECT id FROM customers", filters, who=who)
    if allowed:
        assert "WHERE (_g.\"REGION\" = 'EU')" in str(verdict.rewritten)
    else:
        assert codes(verdict) == ["ROW_FILTER_CLAIM"]
        assert verdict.rewritten is None


def test_lists_stand_in_in_and_an_empty_one_is_a_deny() -> None:
    filters = """  - {table: "PROD.CRM.CUSTOMERS", where: "REGION IN ({claims.regions}, 'XX')"}"""
    two = replace(AGENT, claims={"regions": ("EU", "US")})
    none = replace(AGENT, claims={"regions": ()})
    sql = "SELECT id FROM customers"
    assert "IN ('EU', 'US', 'XX')" in str(ask(sql, filters, who=two).rewritten)
    assert codes(ask(sql, filters, who=none)) == ["ROW_FILTER_CLAIM"]


def test_the_decision_names_the_predicate_and_never_the_callers_values() -> None:
    filters = """  - {table: "PROD.CRM.CUSTOMERS", where: "REGION = {claims.region}"}"""
    decision = ask("SELECT id FROM customers", filters).decision
    assert [f.where for f in decision.filtered] == ["REGION = {claims.region}"]
    assert all("EU" not in r.message for r in decision.reasons)


# --- the grammar of predicates ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("ID IN (SELECT 1)", "holds a query"),
        ("EXISTS (SELECT 1 FROM t)", "holds a query"),
        ("ID = (SELECT 1)", "holds a query"),
        ("SUM(ID) > 1", "does not compute one value"),
        ("ROW_NUMBER() OVER (ORDER BY ID) = 1", "does not compute one value"),
        ("FLATTEN(ID) = 1", "does not compute one value"),
        ("TABLE(x)", "hides which object"),
        ("my_udf(ID) = 1", "not on the list"),
        ("s.f(ID) = 1", "belongs to a schema"),
        ("SYSTEM$WAIT(1) = 1", "not on the list"),
        ("$x = ID", "a variable"),
        ("? = ID", "a variable"),
        (":1 = ID", "a variable"),
        ("t.ID = 1", "written with a table"),
        ("seq.NEXTVAL = 1", "written with a table"),
        ("CURRENT_USER = OWNER", "asks for the session"),
        ("CURRENT_ROLE() = OWNER", "asks for the session"),
        ("CURRENT_SCHEMA() = OWNER", "asks for the session"),
        ("RANDOM() < 1", "asks for the session or for chance"),
        ("IDENTIFIER('ID') = 1", "hides which object"),
        ("ID = 1) OR (1 = 1", "not one SQL condition"),
        ("ID = 1; SELECT 1", "more than one statement"),
        ("ID = 1 ORDER BY ID", "not one SQL condition"),
        ("ID, REGION", "not one SQL condition"),
        ("'EU'", "a value and not a condition"),
        ("*", "uses Star"),
        ("OWNER = '{identity.subject}'", "in quotes"),
        ('OWNER = "{claims.x}"', "in quotes"),
        ("OWNER = $${claims.x}$$", "in quotes"),
        ("OWNER = {identity.email}", "not a fact about the caller"),
        ("OWNER = {CLAIMS.x}", "not a fact about the caller"),
        ("OWNER = {claims}", "not a fact about the caller"),
        ("OWNER = {claims.}", "not a fact about the caller"),
        ("OWNER = {claims.a b}", "not a fact about the caller"),
        ("OWNER = {claims.1}", "not a fact about the caller"),
        ("OWNER = {}", "not a fact about the caller"),
        ("OWNER = {'a': 1}", "not a fact about the caller"),
        ("OWNER = {claims.x", "not closed"),
        ("OWNER = claims.x}", "stands alone"),
        ("OWNER = {{claims.x}}", "more than one way"),
        ("OWNER = {identity.groups}", "is a list"),
        ("OWNER LIKE {claims.x}", "stands inside Like"),
        ("OWNER LIKE {claims.x} || '%'", "stands inside"),
        ("OWNER ILIKE {claims.x}", "stands inside"),
        ("OWNER LIKE ANY ({claims.x})", "stands inside"),
        ("OWNER RLIKE {claims.x}", "stands inside"),
        ("REGEXP_LIKE(OWNER, {claims.x})", "stands inside"),
        ("DATE_TRUNC({claims.x}, D) = D", "no value can stand"),
        ("GET_PATH(V, {claims.x}) = 1", "stands"),
        ("OWNER = 'a'{claims.x}", "stands"),
        ("OWNER = {claims.x}'a'", "stands"),
    ],
)
def test_a_predicate_that_is_more_than_a_condition_over_its_row_is_refused_with_its_line(
    where: str, says: str
) -> None:
    text = (
        f"version: 1\nrow_filters:\n  - table: PROD.CRM.CUSTOMERS\n    where: |-\n      {where}\n"
    )
    with pytest.raises(ConfigError, match=r"^p\.yaml:4: ") as caught:
        parse_policy(text, "p.yaml")
    assert says in caught.value.text


@pytest.mark.parametrize(
    ("where", "condition"),
    [
        ("region = 'EU'", "_g.\"REGION\" = 'EU'"),
        ('"Region" IS NOT NULL', '_g."Region" IS NOT NULL'),
        ('"we""ird" = 1', '_g."we""ird" = 1'),
        ("region = 'EU' -- only", "_g.\"REGION\" = 'EU'"),
        ("region /* a */ = 'EU'", "_g.\"REGION\" = 'EU'"),
        ("d > DATEADD(day, -30, CURRENT_DATE())", '_g."D" > DATEADD(day, -30, CURRENT_DATE())'),
        ("v:a.b::varchar = 'x'", "_g.\"V\":a.b::varchar = 'x'"),
        ("a LIKE ANY ('x%', 'y')", "_g.\"A\" LIKE ANY ('x%', 'y')"),
        ("o = {identity.subject}", "_g.\"O\" = 'sub-1'"),
        ("o IN ({identity.groups})", "_g.\"O\" IN ('agents')"),
        ("LOWER(o) = LOWER({identity.name})", "LOWER(_g.\"O\") = LOWER('agent')"),
        (
            "level = 1 OR METADATA$FILENAME = 'x'",
            '_g."LEVEL" = 1 OR _g."METADATA$FILENAME" = \'x\'',
        ),
    ],
)
def test_what_a_predicate_becomes(where: str, condition: str) -> None:
    assert parse_predicate(where).condition(AGENT) == condition


def test_a_claim_may_have_a_name_with_other_characters() -> None:
    predicate = parse_predicate(
        'r = {claims."https://example.com/region"} OR r = {claims.org.team}'
    )
    who = replace(AGENT, claims={"https://example.com/region": "a", "org.team": "b"})
    assert predicate.condition(who) == "_g.\"R\" = 'a' OR _g.\"R\" = 'b'"


PREDICATES = [
    parse_predicate(text)
    for text in (
        "region = {claims.x}",
        "region IN ({claims.x}, 'a') AND id = 1",
        "NOT (STARTSWITH(region, {claims.x}) OR o = {identity.subject})",
        "{claims.x} || 'a' = region",
        "region BETWEEN {claims.x} AND 'z'",
        "LOWER({claims.x})::VARCHAR = region",
    )
]
HOSTILE = (
    st.text(alphabet=st.sampled_from("'\"\\;-/*$ {}()%_,aEU\n\x00\u2019\u02bc\uff07\ud800"))
    | st.text()
)


@given(st.sampled_from(PREDICATES), HOSTILE, HOSTILE)
def test_whatever_a_claim_holds_it_stays_inside_one_literal(
    predicate: object, claim: str, subject: str
) -> None:
    assert isinstance(predicate, type(PREDICATES[0]))
    plain = replace(AGENT, subject="S", claims={"x": "C"})
    try:
        condition = predicate.condition(replace(AGENT, subject=subject, claims={"x": claim}))
    except ClaimError:
        return
    expected = SNOWFLAKE.tokenize(predicate.condition(plain))
    found = SNOWFLAKE.tokenize(condition)
    meant = [{"S": subject, "C": claim}.get(t.text, t.text) if t.token_type is TokenType.STRING
             else t.text for t in expected]  # fmt: skip
    assert [t.token_type for t in found] == [t.token_type for t in expected]
    assert [t.text for t in found] == meant
    assert not any(t.comments for t in found)


@given(HOSTILE)
def test_a_statement_with_a_hostile_claim_is_filtered_by_exactly_that_text(claim: str) -> None:
    filters = """  - {table: "PROD.CRM.CUSTOMERS", where: "REGION = {claims.region}"}"""
    verdict = ask("SELECT id FROM customers", filters, who=replace(AGENT, claims={"region": claim}))
    if verdict.rewritten is None:
        assert codes(verdict) == ["ROW_FILTER_CLAIM"]
        return
    tree = SNOWFLAKE.parse(verdict.rewritten)[0]
    condition = tree.find(exp.Where)
    assert [n.this for n in condition.find_all(exp.Literal)] == [claim]


@given(st.text(alphabet=st.sampled_from("ab'\"\\;-/*$ {}().=<>,:?[]|ORIN\n")) | st.text())
def test_any_text_is_a_predicate_or_a_complaint_about_it(text: str) -> None:
    try:
        condition = parse_predicate(text).condition(AGENT)
    except (PredicateError, ClaimError):
        return
    assert SNOWFLAKE.parse(f"SELECT 1 FROM t AS _g WHERE ({condition})")[0] is not None


# --- what lies beneath and behind -------------------------------------------------------------------


def test_a_view_shows_only_the_rows_that_the_filter_beneath_it_lets_by() -> None:
    view = TableName("PROD", "CRM", "EVERYBODY")
    text = "CREATE VIEW everybody AS SELECT id, region FROM customers"
    catalog = CATALOG.but({view: CatalogObject({"ID": "NUMBER", "REGION": "VARCHAR"}, text)})
    policy = parse_policy(f"version: 1\nrow_filters:\n{EU}\n{RULES}", "p.yaml")
    verdict = judge_text(
        "SELECT id FROM everybody",
        NameContext("PROD", "CRM"),
        identity=AGENT,
        policy=policy,
        catalog=catalog,
        run=RunContext(),
        now=datetime(2026, 3, 2, tzinfo=UTC),
    )
    assert verdict.decision.outcome is Outcome.ALLOW, verdict.decision.reasons
    assert "WHERE (_g.\"REGION\" = 'EU')" in str(verdict.rewritten)
    assert "EVERYBODY" not in str(verdict.rewritten).split(" AS ")[0]


@pytest.mark.parametrize(
    "broken",
    [
        lambda t: t.replace(" WHERE (_g.\"REGION\" = 'EU')", ""),
        lambda t: t.replace("= 'EU'", "= 'US'"),
        lambda t: t.replace("= 'EU')", "= 'EU' OR TRUE)"),
        lambda t: t.replace("= 'EU')", "= 'EU') OR (TRUE)"),
        lambda t: t.replace('_g."REGION" =', '"REGION" ='),
        lambda t: t.replace("WHERE (", "WHERE NOT ("),
    ],
)
def test_a_text_whose_filter_was_tampered_with_does_not_pass_verification(
    broken: Callable[[str], str],
) -> None:
    sql = "SELECT id FROM customers"
    policy = parse_policy(f"version: 1\nrow_filters:\n{EU}\n{RULES}", "p.yaml")
    analysis = analyse(sql, NameContext("PROD", "CRM"))
    case = Case(
        analysis.statement, analysis.ctes, AGENT, policy, CATALOG, RunContext(),
        datetime(2026, 3, 2, tzinfo=UTC),
    )  # fmt: skip
    plans = decide(case).plans
    text = rewrite(analysis, plans)
    verify(text, statement=analysis.statement, plans=plans)
    assert broken(text) != text
    with pytest.raises(StatementRefused):
        verify(broken(text), statement=analysis.statement, plans=plans)


@pytest.mark.parametrize(
    ("where", "by_session"),
    [
        ("REGION = 'EU'", False),
        ("UPPER(REGION) IN ('EU', 'US') AND MRR >= 10", False),
        ("SIGNED_UP >= '2026-03-02'", True),
        ("TO_VARCHAR(MRR) LIKE '1%'", True),
        ("MRR::VARCHAR = '1'", True),
    ],
)
def test_a_filter_that_session_settings_could_change_is_marked(
    where: str, by_session: bool
) -> None:
    columns = {"ID": "NUMBER", "REGION": "VARCHAR", "MRR": "NUMBER(12,2)", "SIGNED_UP": "DATE"}
    policy = parse_policy(
        f'version: 1\nrow_filters:\n  - {{table: "PROD.CRM.CUSTOMERS", where: "{where}"}}\n{RULES}',
        "p",
    )
    verdict = judge_text(
        "SELECT id FROM customers",
        NameContext("PROD", "CRM"),
        identity=AGENT,
        policy=policy,
        catalog=Catalog.from_mapping({CUSTOMERS: columns}),
        run=RunContext(),
        now=datetime(2026, 3, 2, tzinfo=UTC),
    )
    assert [f.by_session for f in verdict.decision.filtered] == [by_session]


def test_a_fixed_number_of_rows_is_not_drawn_from_filtered_ones() -> None:
    filters = """  - {table: "PROD.CRM.CUSTOMERS", where: "REGION = 'EU'"}"""
    refused = ask("SELECT COUNT(*) FROM customers SAMPLE (3 ROWS)", filters)
    assert [r.code for r in refused.decision.reasons] == ["SAMPLE_OF_FILTERED"]
    assert ask("SELECT COUNT(*) FROM customers SAMPLE (10)", filters).rewritten
